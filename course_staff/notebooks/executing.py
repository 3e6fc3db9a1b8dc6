"""Executing a notebook: in which environment, in a fresh kernel, how long, with how much memory.

It knows nothing of what stands in the notebooks, nor where they are kept.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError

STATIC = {
    "COURSE_STATIC": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore",
    "COLUMNS": "80",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
# Threads that wait sleep: two notebooks at once share the cores. OpenMP reads it when torch loads.
SHARING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
LEARNERS_OWN = ("COURSE_MODEL", "COURSE_API_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN")
CELL_SECONDS = 900


def environment() -> dict[str, str]:
    """The environment a notebook is executed in by a program: pocket tier, static, quiet."""
    kept = {k: v for k, v in os.environ.items() if k not in LEARNERS_OWN}
    return {**SHARING, **kept, **STATIC}


@contextmanager
def as_a_program() -> Iterator[None]:
    """This process's environment is `environment()` within the block: kernels inherit it."""
    saved, wanted = dict(os.environ), environment()
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


class Peak:
    """The peak resident memory, in bytes, of this process's children while the block runs.

    What they share, as libraries and Ray's store, counts once: as much as the largest share.
    """

    def __enter__(self) -> "Peak":
        """Start sampling, five times a second."""
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop.wait(0.2):
            own, shared = 0, [0]
            for child in me.children(recursive=True):
                try:
                    memory = child.memory_info()
                except psutil.Error:
                    continue
                shared.append(getattr(memory, "shared", 0))  # Linux alone says so
                own += memory.rss - shared[-1]
            self.bytes = max(self.bytes, own + max(shared))


def client(path: Path, notebook: Any, **more: Any) -> Any:
    """An nbclient that runs `notebook` in the folder of `path`, with the running Python's kernel."""
    from nbclient import NotebookClient

    return NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        **{"timeout": CELL_SECONDS, **more},
    )


def execute(path: Path, notebook: Any) -> tuple[float, int]:
    """Run all cells in a fresh kernel, outputs into `notebook`; returns (seconds, peak bytes).

    Raises:
        CourseError: a cell raised an error that its tags do not announce, took longer than
            `CELL_SECONDS`, or its kernel ended.
    """
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    began = time.monotonic()
    try:
        with as_a_program(), Peak() as peak:
            client(path, notebook).execute()
    except CellExecutionError as error:
        raise CourseError(f"{path.name}: a cell failed, nothing stored.", str(error)) from None
    except CellTimeoutError:
        said = f"It took longer than {CELL_SECONDS} s."
        raise CourseError(f"{path.name}: a cell did not end, nothing stored.", said) from None
    except DeadKernelError:
        raise CourseError(
            f"{path.name}: its kernel ended, nothing stored.",
            "Something killed the process, most often for want of memory.",
            "Close other programs and run this notebook again.",
        ) from None
    return time.monotonic() - began, peak.bytes
