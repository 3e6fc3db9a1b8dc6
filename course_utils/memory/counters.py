"""What PyTorch and the system count: allocated bytes on CUDA and MPS, the process's RAM, peaks.

The raw figures under `memory`; it knows nothing of models or baselines.
"""

import contextlib
import ctypes
import sys
import threading
import time

from course_utils.memory import tensors

SAMPLE_SECONDS = 0.005
ALLOCATED, REQUESTED = "allocated_bytes.all.current", "requested_bytes.all.current"
ALLOCATED_PEAK, RESERVED_PEAK = "allocated_bytes.all.peak", "reserved_bytes.all.peak"


def device() -> str:
    """The device models go to here: `cuda`, `mps` or `cpu`."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return "cuda"
    if torch is not None and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def resident() -> int:
    """Resident memory of this process in bytes."""
    import psutil

    return psutil.Process().memory_info().rss


def cuda(figure: str) -> int:
    """One of the CUDA allocator's figures in bytes, summed over the cards.

    `requested` is what tensors asked for, to the byte; `allocated` and `reserved` are rounded up
    to the allocator's blocks (PyTorch's notes on CUDA memory management).
    """
    import torch

    torch.cuda.init()  # the allocator answers nothing before
    cards = range(torch.cuda.device_count())
    return sum(torch.cuda.memory_stats(i).get(figure, 0) for i in cards)


def mps() -> int:
    """Bytes of tensors on Apple's GPU."""
    import torch

    return torch.mps.current_allocated_memory()


def settle() -> None:
    """Hand spare blocks back, so that counts are comparable. `tensors.live` collects garbage."""
    kind = device()
    if kind == "cuda":
        import torch

        torch.cuda.synchronize()
        # cuBLAS keeps a workspace of 8 to 32 MiB from its first product on
        getattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None)()
        torch.cuda.empty_cache()
    elif kind == "mps":
        import torch

        torch.mps.synchronize()
        torch.mps.empty_cache()
    elif sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


class Block:
    """The counters of one stretch of time, from construction to `close`. Bytes and seconds."""

    def __init__(self) -> None:
        """Note where every counter stands."""
        self.device = device()
        self.tensors_before = tensors.live()
        settle()
        self.requested_before = 0
        self.before = sum(s.nbytes for s in self.tensors_before.values())
        self.peak = self.reserved_peak = 0
        if self.device == "cuda":
            import torch

            self.before, self.requested_before = cuda(ALLOCATED), cuda(REQUESTED)
            for i in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(i)
        elif self.device == "mps":
            self.before = self.peak = mps()
        self.resident_before = self.resident_peak = self.resident = resident()
        self.seconds = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        self._start = time.perf_counter()

    def _sample(self) -> None:
        """Follow what no counter remembers: resident memory, and MPS's bytes."""
        while not self._stop.wait(SAMPLE_SECONDS):
            self.resident_peak = max(self.resident_peak, resident())
            if self.device == "mps":
                self.peak = max(self.peak, mps())

    def note_peaks(self) -> None:
        """Read CUDA's peaks, which an inner block is about to set back."""
        if self.device == "cuda":
            self.peak = max(self.peak, cuda(ALLOCATED_PEAK))
            self.reserved_peak = max(self.reserved_peak, cuda(RESERVED_PEAK))

    def close(self) -> dict[int, tensors.Storage]:
        """Stop counting; the storages that are alive now and were not at the start."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self._start
        self._stop.set()
        self._thread.join()
        self.note_peaks()
        self.resident = resident()
        self.resident_peak = max(self.resident_peak, self.resident)
        return tensors.since(self.tensors_before)
