"""Starting and stopping Ray, quietly, and with one clear message where it cannot start.

It knows where Ray runs and nothing of what it computes there: reading, labelling and writing stand
in lesson 07 and in examples/label_reviews.py.
"""

import logging
import os
import re
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

from course_utils import machine
from course_utils.errors import CourseError
from course_utils.units import GIB

INSTALL = 'pip install "open-llms-hands-on[cluster]", or in the course\'s folder: '
INSTALL += 'pip install -e ".[cluster]"'
STORE_BYTES = 200 << 20  # for rows on their way between workers; Ray's own default is 30 % of RAM
SHARED = Path("/dev/shm")
TOKEN = Path("~/.ray/auth_token")  # Ray makes it at its first start; who has it may join
TRIES = 3  # on a busy machine Ray's own helpers can miss its time limits; the next try is quicker
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # and no warning of how that will change
}
# what Ray says, and what that means: (pattern, what, why, next step)
MEANINGS = (
    (
        r"[Vv]ersion mismatch",
        "This machine and the cluster have different versions.",
        "Ray and Python have to be the same on every node.",
        "Install the cluster's versions here (they stand in the line above), or ours there.",
    ),
    (
        r"Failed to connect to Ray cluster|[Aa]uthenti|[Tt]oken",
        "The cluster does not let this machine in.",
        "A head node asks for its token; or what answers there is no head node.",
        "Copy the head's ~/.ray/auth_token to the same place here, then try again.",
    ),
    (
        r"[Aa]ddress already in use|[Pp]ort.*(?:in use|occupied|not available|taken)",
        "A port that Ray wants is taken.",
        "Another Ray, or another program, listens there.",
        "Stop it (`ray stop`), or name another port.",
    ),
    (
        r"ray\[client\]|Ray Client requires|grpc",
        "An address with ray:// needs Ray's client, which is not installed.",
        "The course's extra brings Ray Data alone.",
        'pip install "ray[client]", or run the script on the head node with --address auto.',
    ),
    (
        r"Could not find any running Ray|Found multiple active Ray",
        "There is no one Ray cluster on this machine to join.",
        "`auto` joins the cluster that `ray start` has started here.",
        "Start one (`ray start --head`), or give its address, like 10.0.0.5:6379.",
    ),
)


def ready() -> Any:
    """The module `ray`, and the environment set that keeps it quiet.

    Raises:
        CourseError: Ray is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if TOKEN.expanduser().exists():  # by itself Ray does not show it to a cluster that it joins
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if sys.platform == "win32":
        print("Windows: Ray calls its support there beta, and several nodes untested. Where this")
        print("lesson stops, run it under WSL or on Colab.")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise CourseError("Ray is not installed.", str(error), f"{INSTALL}.") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    return ray


def start(cpus: int | None = None, address: str | None = None) -> None:
    """`ray.init`, quietly: a Ray of one's own on this machine, or a cluster joined at `address`.

    One that runs already is stopped first. All of its processes end with this one.

    Args:
        cpus: how many workers of one core fit; by default as many as there are cores.
        address: "auto", "host:6379" or "ray://host:10001"; None starts a Ray here.

    Raises:
        CourseError: Ray is missing or does not start, nobody answers at the address, versions
            differ.
    """
    ray = ready()
    ray.shutdown()
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        store = store_bytes()
        how |= {"address": "local", "num_cpus": cpus or machine.cores()}
        how |= {"include_dashboard": False, "object_store_memory": store}
    else:
        answers(address)
        how["address"] = address
    for left in reversed(range(TRIES if address is None else 1)):
        try:
            ray.init(**how)
            return
        except Exception as error:
            ray.shutdown()
            if not left or "timed out" not in str(error):
                raise meaning(error) from None


def answers(address: str) -> None:
    """Raise `CourseError` unless somebody listens at `address`, which Ray waits for minutes for."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise CourseError(
            f"{address!r} is no address of a cluster.",
            "It has a host and a port.",
            "Write for example 10.0.0.5:6379, as `ray start --head` prints it, or auto.",
        )
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        raise CourseError(
            f"Nobody answers at {host}:{port}.",
            "The head node is down, the port is another, or a firewall is between.",
            "Look at what `ray start --head` printed there; `ray status` on the head says more.",
        ) from None


def store_bytes() -> int:
    """Memory for rows on their way, in bytes; says so where shared memory is too small for it."""
    if SHARED.is_dir() and (free := shutil.disk_usage(SHARED).free) < STORE_BYTES:
        print(f"/dev/shm has {free / GIB:.2f} GiB free, so Ray keeps its rows in /tmp: slower.")
        print("In a container: docker run --shm-size=1g …")
    return STORE_BYTES


def meaning(error: BaseException) -> CourseError:
    """What an error of Ray's start means, in plain words."""
    said = f"{type(error).__name__}: {error}"
    line = " ".join(said.split())[:300]
    for pattern, what, why, next_step in MEANINGS:
        if re.search(pattern, said):
            return CourseError(what, f"{why} Ray says: {line}", next_step)
    return CourseError(
        "Ray did not start.", line, "Close other programs, run `ray stop`, and try again."
    )
