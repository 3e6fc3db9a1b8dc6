"""Starts a kernel as Colab does: with what Colab's own code has imported before the first cell."""

import debugpy  # noqa: F401
import google.colab  # noqa: F401
import packaging  # noqa: F401
import pexpect  # noqa: F401
import psutil  # noqa: F401
import requests  # noqa: F401
from google.colab._kernel import Kernel
from ipykernel import kernelapp

if __name__ == "__main__":
    kernelapp.launch_new_instance(kernel_class=Kernel)
