"""Colab's kernel and shell: libraries know Colab by the name of the shell's class."""

from ipykernel import ipkernel
from ipykernel.zmqshell import ZMQInteractiveShell


class Shell(ZMQInteractiveShell):
    """The shell that `get_ipython()` returns."""


Shell.__module__ = "google.colab._shell"


class Kernel(ipkernel.IPythonKernel):
    """The kernel that has this shell."""

    shell_class = Shell
