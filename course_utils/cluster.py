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
from contextlib import suppress
from pathlib import Path
from typing import Any

from course_utils import machine
from course_utils.errors import CourseError

INSTALL = 'pip install "open-llms-hands-on[cluster]"; in the course\'s own folder '
INSTALL += 'pip install -e ".[cluster]"'
STORE = 200 << 20  # bytes for rows on their way between workers; Ray's own default is 30 % of RAM
SHARED = Path("/dev/shm")
TOKEN = Path("~/.ray/auth_token")  # Ray makes it; who has it may join
TRIES = 3
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to Ray's makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # and no warning of how that will change
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # nor what Ray tells of each worker; it is in its logs
    "RAY_num_workers_soft_limit": "2",  # processes without work to keep: each takes 100 MB
    "RAY_prestart_worker_first_driver": "0",  # workers when they are wanted, not before
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its C++ part; what stops a job comes as a Python error
}
# Ports that a node's own helpers would choose and tell Ray; where the machine is busy they tell it
# later than the 15 s that Ray waits, and the start fails. Chosen here, they need not be told.
PORTS = ["metrics_agent_port", "dashboard_agent_listen_port", "runtime_env_agent_port"]
PORTS += ["metrics_export_port"]
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"  # how gRPC, Ray's language, begins
LEAN = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
# what Ray says, and what that means: (pattern, what happened, what to do)
MEANINGS = (
    (
        "ersion mismatch",
        "This machine and the cluster have different versions of Ray or Python.",
        "Install the same ones on every node: Ray's words above name both.",
    ),
    (
        r"ray\[client\]|Ray Client",
        "Addresses that begin with ray:// need Ray's client, which is not installed.",
        'pip install "ray[client]", or run it on the head node with the address auto.',
    ),
    (
        "Ray client server failed|Proxy failed to Connect",
        "The cluster answers, and did not get ready for this program in time.",
        "It may have just started, or be busy: wait a minute, and run it again.",
    ),
    (
        "Could not find any running|multiple active Ray",
        "There is not one Ray cluster here that could be meant.",
        "Start one (`ray start --head`), or give its address, like 10.0.0.5:6379.",
    ),
    (
        "RAY_AUTH_MODE is currently 'disabled'",
        "The cluster wants a token, and Ray was imported before it could be told to show one.",
        "Restart the kernel, and let cluster.start come before `import ray`.",
    ),
    (
        "[Tt]oken|uthenticat|Failed to connect to Ray|get cluster ID",
        "The cluster does not let this machine in.",
        "Copy ~/.ray/auth_token from the head node to the same place here; if it is the same, "
        "what answers at that address is no Ray.",
    ),
    (
        "in use|occupied|not available",
        "A port that Ray wants is taken.",
        "Stop what listens there (`ray stop`, where it is another Ray), or name another port.",
    ),
)
_started: list[Any] = []  # the clusters of `nodes`, for `stop`


def ready() -> Any:
    """The module `ray`, and the environment set that keeps it quiet.

    Raises:
        CourseError: Ray is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # By itself Ray does not show its token to a cluster that it joins. It reads this setting when
    # it is imported; set later, it would hold for Ray's other processes and not for this one.
    if TOKEN.expanduser().exists() and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    if sys.platform == "win32":
        print("Windows: Ray calls its support there beta, and several nodes are untested.")
        print("Where this stops, use WSL or Colab.")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise CourseError("Ray is not installed.", str(error), f"{INSTALL}.") from None
    logging.getLogger("ray").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):  # what it tells the screen comes as an error
            handler.setLevel(logging.CRITICAL)
    return ray


def start(cpus: int | None = None, address: str | None = None) -> None:
    """`ray.init`, quietly: a Ray of one's own on this machine, or a cluster joined at `address`.

    What this process started before is stopped first. All of it ends with this process.

    Args:
        cpus: how many workers of one core fit; by default as many as there are cores.
        address: "auto", "host:6379" or "ray://host:10001"; None starts a Ray here.

    Raises:
        CourseError: Ray is missing or does not start, nobody answers, versions differ.
    """
    ray = ready()
    ray.shutdown()
    cpus = cpus or machine.cores()
    how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        answers(address)
    elif sys.platform != "win32":
        address = nodes(cpus).address
    how |= {"address": address} if address else {"num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(**how)
    except Exception as error:
        stop()
        raise meaning(error) from None


def nodes(*cpus: int) -> Any:
    """Nodes on this machine, the head first, each with so many cores to give away.

    Returns:
        The `ray.cluster_utils.Cluster`: its `address`, and `remove_node`.

    Raises:
        CourseError: they do not start.
    """
    ready()
    from ray.cluster_utils import Cluster

    stop()
    if SHARED.is_dir() and (free := shutil.disk_usage(SHARED).free) < STORE:
        print(f"/dev/shm has {free >> 20} MiB free, so Ray keeps its rows in /tmp: slower.")
        print("In a container: docker run --shm-size=1g …")
    for left in reversed(range(TRIES)):
        _started.append(Cluster())
        try:
            for count in cpus:
                ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
                one = {"num_cpus": count, "object_store_memory": STORE, **LEAN, **ports}
                _started[-1].add_node(**one)
            return _started[-1]
        except Exception as error:
            stop()
            if not left or "timed out" not in str(error):
                raise meaning(error) from None


def stop() -> None:
    """End this process's Ray and its nodes, half-started ones included."""
    import psutil

    if (ray := sys.modules.get("ray")) is None:
        return
    ray.shutdown()
    while _started:
        _started.pop().shutdown()
    package = os.path.dirname(str(ray.__file__))
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            said = " ".join(child.cmdline())
            if package in said or said.startswith("ray::"):
                child.kill()


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


def answers(address: str) -> None:
    """Raise `CourseError` unless somebody listens at `address`: Ray itself would wait long."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto" or os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    if not host or not port.isdigit():
        raise CourseError(
            f"{address!r} is no address of a cluster.",
            "It has a host and a port.",
            "Write for example 10.0.0.5:6379, as `ray start --head` prints it, or auto.",
        )
    why = "The head node is down, the port is another, or a firewall is between."
    try:
        with socket.create_connection((host, int(port)), timeout=5) as line:
            line.sendall(HELLO)
            if line.recv(4)[3:] == b"\x04":  # a frame with settings: it speaks as Ray does
                return
            why = "Something else than Ray listens there."
    except TimeoutError:
        why += " Or something else than Ray listens there."
    except (OSError, OverflowError):
        pass
    raise CourseError(
        f"No Ray answers at {host}:{port}.",
        why,
        "Look at what `ray start --head` printed there; `ray status` on it says more.",
    )


def meaning(error: BaseException) -> CourseError:
    """What an error of Ray's start means, in plain words, and Ray's own."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    for pattern, what, next_step in MEANINGS:
        if re.search(pattern, said):
            return CourseError(what, f"Ray says: {said[:300]}", next_step)
    next_step = "Close other programs and try again; Ray's own logs are in /tmp/ray/session_latest."
    return CourseError("Ray did not start.", f"Ray says: {said[:300]}", next_step)
