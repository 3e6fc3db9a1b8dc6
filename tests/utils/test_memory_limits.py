"""A container's memory limit is what the course goes by, not that of the machine around it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from course_staff.notebooks import executing
from course_staff.notebooks import store as notebooks
from course_utils import machine

GIB = 2**30
V2 = ("memory.max", "memory.current", "inactive_file")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """`system(line of /proc/self/cgroup, {folder: (files, limit, used, droppable)})`."""

    def build(line: str, groups: dict) -> None:
        for folder, ((limit_file, use_file, name), limit, used, droppable) in groups.items():
            place = tmp_path / "cgroup" / folder
            place.mkdir(parents=True, exist_ok=True)
            (place / limit_file).write_text(f"{limit}\n")
            (place / use_file).write_text(f"{used}\n")
            (place / "memory.stat").write_text(f"anon 1\n{name} {droppable}\n")
        (tmp_path / "self").write_text(line + "\n")
        monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
        monkeypatch.setattr(machine, "GROUPS_OF_PROCESS", tmp_path / "self")

    return build


# as seen from inside a container, where its own group is the root; on a hub without that; on a
# machine whose session has a limit further up
PLACES = {
    "v2, the container's own view": ("0::/", "", V2),
    "v2, a group of the machine": ("0::/user.slice/job", "user.slice/job", V2),
    "v2, a limit further up": ("0::/kubepods/pod1/box", "kubepods/pod1", V2),
    "v2 beside v1": ("0::/job", "unified/job", V2),
    "v1, a group of the machine": ("4:memory:/docker/abc", "memory/docker/abc", V1),
    "v1, the container's own view": ("4:memory:/docker/abc", "memory", V1),
    "v1, several kinds in one": ("4:cpu,memory:/job", "memory/job", V1),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_limit_of_the_group_counts(system, place):
    """A learner on a hub with 2 GiB is not told of the 256 GiB of the machine under it."""
    line, folder, files = PLACES[place]
    system(line, {folder: (files, 2 * GIB, GIB, GIB // 2)})
    assert machine.ram_bytes() == (2 * GIB, 2 * GIB - GIB // 2)


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096), ""])
def test_no_limit_leaves_the_machine(system, limit):
    """A learner in a container without a limit has the machine's own memory."""
    import psutil

    files = V1 if limit.isdigit() else V2
    folder, line = ("memory", "4:memory:/") if files is V1 else ("", "0::/")
    system(line, {folder: (files, limit, 5, 0)})
    assert machine.ram_bytes()[0] == psutil.virtual_memory().total


def test_a_full_group_has_nothing_left(system):
    """A learner whose container is full reads 0, not a negative number."""
    system("0::/", {"": (V2, GIB, GIB + 4096, 0)})
    assert machine.ram_bytes() == (GIB, 0)


def made(limit: int) -> Path:
    """A real group with this limit, in whichever version this system has; skips where it can't."""
    for root, limit_file in ((machine.CGROUPS / "memory", V1[0]), (machine.CGROUPS, V2[0])):
        group = root / f"course-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit_file).write_text(str(limit))
            return group
        except OSError:
            group.rmdir()
    pytest.skip("limiting a group's memory takes root and a writable cgroup")


@pytest.fixture
def group() -> Iterator[Path]:
    """A real memory group of 2 GiB."""
    place = made(2 * GIB)
    yield place
    place.rmdir()


@pytest.mark.slow
def test_a_real_limit_of_2_gib(group):
    """An instructor who gives each learner 2 GiB: preflight and `fit.check` go by these 2 GiB."""
    program = (
        f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
        "from course_utils import machine, preflight\n"
        "from course_utils.memory import fit, shapes\n"
        "machine.gpus = lambda: []\n"
        "print('total', preflight.report()['machine']['ram_gib'])\n"
        "fit.check(shapes.config('llama-2-7b'), 'fp16')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=executing.environment(),
        cwd=notebooks.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "total 2.0\n"
    assert "This model does not fit: fp16 needs" in done.stderr
