"""Opening JupyterLab at the first lesson, with or without a browser at hand."""

import os
import secrets
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from course_utils import machine, settings
from course_utils.errors import CourseError

ROOT = Path(__file__).parent.parent  # the checkout, where there is one
FIRST = "notebooks/00_start_here.ipynb"
# No question about news and no look for updates: both would reach for the network. The question
# itself is an extension, switched off in CONFIG for this start alone.
CONFIG = Path(__file__).parent / "data" / "jupyter"
QUIET = (
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--Application.log_level=ERROR",
    "--ServerApp.answer_yes=True",
)


def has_browser() -> bool:
    """Whether a browser can open a window here."""
    if sys.platform == "linux" and not (
        os.environ.get("DISPLAY")
        or os.environ.get("WAYLAND_DISPLAY")
        or "WSL_DISTRO_NAME" in os.environ
    ):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def arguments(extra: Sequence[str]) -> list[str]:
    """What `jupyter lab` is started with; the learner's own arguments come last and win."""
    argv = [str(ROOT / FIRST), f"--ServerApp.root_dir={ROOT}", *QUIET]
    if not has_browser():
        argv.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        argv.append("--allow-root")  # in a container one is root; the server listens on loopback
    return [*argv, *extra]


def _announce(token: str) -> None:
    """Print the address and how to stop, once the server of this process runs."""
    from jupyter_server.serverapp import list_running_servers

    while True:
        for server in list_running_servers():
            if server["pid"] == os.getpid():
                url = f"{server['url']}lab/tree/{FIRST}?token={token}"
                print(f"\nJupyterLab runs at\n\n    {url}\n")
                if not has_browser():
                    print(
                        "Open it in a browser here. From another machine, first connect with\n"
                        f"    ssh -L {server['port']}:localhost:{server['port']} THIS-MACHINE\n"
                    )
                print("To stop it, press Ctrl+C here.", flush=True)
                return
        time.sleep(0.2)


def _check_writable() -> None:
    """Raise `CourseError` where Jupyter cannot note which servers and kernels run."""
    from jupyter_core.paths import jupyter_runtime_dir

    folder = jupyter_runtime_dir()
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CourseError(
            f"Jupyter cannot write into {folder}.",
            f"{error.strerror}: the home folder is missing, read-only or full.",
            "Set HOME, or JUPYTER_RUNTIME_DIR, to a folder of your own, and start it again.",
        ) from None


def run(extra: Sequence[str] = ()) -> None:
    """Open JupyterLab at lesson 00 and stay until it is stopped.

    Args:
        extra: further arguments for `jupyter lab`, like `--port 9000`.

    Raises:
        CourseError: JupyterLab or the notebooks are missing, the working folder has been deleted,
            or Jupyter has no place to write.
    """
    try:
        from jupyterlab.labapp import LabApp
    except ImportError:
        raise CourseError(
            "JupyterLab is not installed.",
            "It is an optional part of the course.",
            'Run: pip install -c constraints.txt -e ".[lab]"',
        ) from None
    if not (ROOT / FIRST).is_file():
        raise CourseError(
            "The notebooks are not here.",
            "The course was installed without its repository.",
            "Clone the repository and run `make lab` there.",
        )
    machine.here()
    _check_writable()
    model = Path(settings.model_name()).expanduser()
    if model.is_dir():  # the kernels run in another folder
        os.environ["COURSE_MODEL"] = str(model.resolve())
    paths = [str(CONFIG), os.environ.get("JUPYTER_CONFIG_PATH", "")]
    os.environ["JUPYTER_CONFIG_PATH"] = os.pathsep.join(filter(None, paths))
    token = os.environ.setdefault("JUPYTER_TOKEN", secrets.token_hex(16))
    threading.Thread(target=_announce, args=(token,), daemon=True).start()
    LabApp.launch_instance(arguments(extra))
