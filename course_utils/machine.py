"""What this machine has: cores, memory, disk, GPUs, and whether a host can be reached.

It looks, and puts files in place whole; it decides nothing about the course.
"""

import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from course_utils.errors import CourseError, without_password


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
    """Memory in bytes: (total, available), of the machine or of the container around this process.

    A container's limit is its cgroup's: `memory.max` in version 2, `memory.limit_in_bytes` in
    version 1, of the process's own group or of any above it. Pages of files that the kernel can
    drop (`inactive_file`) count as available, as in `docker stats`.
    """
    import psutil

    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    for limit, used in _limits():
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return total, available


# where cgroups are mounted and listed, and {version: names of limit, use and the droppable part}
CGROUPS, GROUPS_OF_PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def _limits() -> Iterator[tuple[int, int]]:
    """(limit, bytes used) of every cgroup around this process that has a limit."""
    for folder, version in _cgroups():
        limit_name, use_name, droppable = _FILES[version]
        with contextlib.suppress(OSError, ValueError):  # "max" means none
            limit = int((folder / limit_name).read_text())
            used = int((folder / use_name).read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield limit, used - int(stat.get(droppable, 0))


def _cgroups() -> Iterator[tuple[Path, int]]:
    """(folder, version) of this process's memory cgroups, its own first, then those above it.

    Inside a container the mount often shows the container's group as the root, under whose path of
    the outside nothing is found: the root itself is looked at too.
    """
    try:
        lines = GROUPS_OF_PROCESS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        roots = (CGROUPS, CGROUPS / "unified") if not kinds else (CGROUPS / "memory",)
        for root in roots:
            inner = root / path.lstrip("/")
            for folder in (inner, *inner.parents):
                yield folder, 1 if kinds else 2
                if folder == root:
                    break


def here() -> Path:
    """The working folder.

    Raises:
        CourseError: it has been deleted.
    """
    try:
        return Path.cwd()
    except OSError:
        raise CourseError(
            "The folder you are in has been deleted.",
            "A program, or a restored copy, has taken its place.",
            "Change to the course's folder (cd), or restart the kernel, and run it again.",
        ) from None


def disk_free_bytes(folder: Path | None = None) -> int:
    """Free disk in bytes where `folder` is (or will be); the current folder by default.

    Raises:
        CourseError: the current folder has been deleted.
    """
    place = (folder or here()).resolve()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A new file beside `path`, to be written; it takes its place, or is gone where that fails."""
    new = path.with_name(f"{path.name}.new")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


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


def host(address: str) -> str:
    """Host and port of an address, without a name and a password before them."""
    shown = without_password(address)
    return urlsplit(shown).netloc.rpartition("@")[2] or shown


def packages(distribution: str) -> list[dict[str, Any]]:
    """The packages that an installed one stands on: name, version here, versions supported, ok.

    Optional packages that are not installed are left out.
    """
    from packaging.requirements import Requirement

    try:
        wanted = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # run from a folder without having been installed
    rows = []
    for requirement in map(Requirement, wanted):
        optional = requirement.marker is not None and "extra" in str(requirement.marker)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        if optional and version is None:
            continue
        fine = version is not None and requirement.specifier.contains(version, prereleases=True)
        supported = str(requirement.specifier)
        name = requirement.name
        rows.append({"name": name, "version": version, "supported": supported, "ok": fine})
    return sorted({row["name"]: row for row in rows}.values(), key=lambda row: row["name"].lower())
