"""What this machine has: cores, memory, disk, GPUs, and whether a host can be reached.

It only looks; it decides nothing about the course.
"""

import os
import platform
import shutil
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One accelerator. Memory in bytes; capability as (major, minor), (0, 0) on Apple's MPS."""

    name: str
    kind: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int]

    @property
    def bf16_native(self) -> bool:
        """Whether bf16 runs in hardware: compute capability 8.0 (Ampere) or newer.

        `torch.cuda.is_bf16_supported()` also counts emulation and says True on a T4.
        """
        return self.kind == "mps" or self.capability >= (8, 0)


def cores() -> int:
    """CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ram_bytes() -> tuple[int, int]:
    """Memory in bytes: (total, available)."""
    import psutil

    memory = psutil.virtual_memory()
    return memory.total, memory.available


def disk_free_bytes(folder: Path | None = None) -> int:
    """Free disk in bytes where `folder` is (or will be); the current folder by default."""
    place = (folder or Path.cwd()).resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def has_gpu_driver() -> bool:
    """Whether the driver of a GPU is installed here, whatever PyTorch makes of it."""
    if shutil.which("nvidia-smi"):
        return True
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    # the device files of NVIDIA, of NVIDIA under WSL, and of AMD
    return any(Path(place).exists() for place in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))


def gpus() -> list[Gpu]:
    """The accelerators PyTorch can use; empty where there are none or PyTorch is missing."""
    # importing PyTorch takes seconds: not worth it where there is no driver
    if "torch" not in sys.modules and not has_gpu_driver():
        return []
    try:
        import torch
    except ImportError:
        return []
    found = []
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            capability = torch.cuda.get_device_capability(i)
            found.append(Gpu(torch.cuda.get_device_name(i), "cuda", total, free, capability))
    elif torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = total - torch.mps.driver_allocated_memory()
        found.append(Gpu(f"Apple {platform.machine()}", "mps", total, free, (0, 0)))
    return found


def _way_to(address: str) -> tuple[str, int]:
    """(host, port) to open for an address: the proxy's where one is set for it."""
    from urllib.request import getproxies, proxy_bypass

    target = urlsplit(address if "//" in address else f"https://{address}")
    host = target.hostname or ""
    proxy = None if proxy_bypass(host) else getproxies().get(target.scheme)
    if proxy:
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    return target.hostname or "", target.port or (443 if target.scheme == "https" else 80)


def reachable(address: str, seconds: float = 1.5) -> bool:
    """Whether a TCP connection to `address` (a host or a URL) opens within `seconds`."""
    return all_reachable([address], seconds)[address]


def all_reachable(addresses: list[str], seconds: float = 1.5) -> dict[str, bool]:
    """`reachable` for several addresses at once: `seconds` is the wait for all of them together.

    Where a proxy is set, the proxy is what has to answer. The threads are not waited for beyond
    the time: looking up a name cannot be interrupted and can hang for longer than any time-out.
    """
    found: dict[str, bool] = {}

    def try_one(address: str) -> None:
        try:
            with socket.create_connection(_way_to(address), timeout=seconds):
                found[address] = True
        except OSError:
            found[address] = False

    threads = [threading.Thread(target=try_one, args=(a,), daemon=True) for a in addresses]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return {address: found.get(address, False) for address in addresses}


def fast_dtype() -> str:
    """The dtype that this machine computes fast in, by PyTorch's name.

    A GPU computes in 16 bits. Most CPUs do not: they turn every number into 32 bits and back,
    which takes longer than computing in 32 bits in the first place.
    """
    return "float16" if gpus() else "float32"


def python_version() -> str:
    """This Python's version, like "3.11.7"."""
    return ".".join(map(str, sys.version_info[:3]))
