"""Running examples/label_reviews.py as its users do, and breaking it in the middle.

For the tests beside it and for benchmarks/labelling_job.py.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from course_utils import data

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "label_reviews.py"
MARK = "TEST_OF_LABEL_REVIEWS"  # set in a run's environment, by which its processes are found
PATIENCE = 400  # seconds for what takes ten on a quiet machine


def module() -> Any:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def write_reviews(path: Path, rows: int) -> None:
    """A Parquet file of so many reviews, the course's own again and again."""
    known = [text for text, _ in data.reviews()]
    texts = [known[i % len(known)] for i in range(rows)]
    pq.write_table(pa.table({"id": list(range(rows)), "text": texts}), path)


class Run:
    """The script at work in a process of its own."""

    def __init__(self, *arguments: Any, program: tuple[str, ...] = (str(SCRIPT),)) -> None:
        """Start it."""
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            env={**os.environ, MARK: self.mark, "PYTHONPATH": f"{ROOT}{os.pathsep}{SCRIPT.parent}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self) -> tuple[int, str]:
        """(exit status, all that it printed), once it has ended."""
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out + err

    def processes(self) -> list[psutil.Process]:
        """Every process that came of this run and has not ended."""
        found = []
        for one in psutil.process_iter():
            try:
                if one.environ().get(MARK) == self.mark and one.status() != psutil.STATUS_ZOMBIE:
                    found.append(one)
            except psutil.Error:
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        """Those with a model in them."""
        found = []
        for one in self.processes():
            try:
                found += [one] if "MapWorker" in " ".join(one.cmdline()) else []
            except psutil.Error:
                continue
        return found

    def kill(self, sent: int = signal.SIGKILL) -> None:
        """Send a signal to the script itself."""
        self.process.send_signal(sent)


def until(true: Callable[[], Any], what: str) -> None:
    """Wait for an event."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
        time.sleep(0.05)


def booked(target: Path) -> int:
    """How many label files are booked in `target`'s progress."""
    return len([p for p in target.glob("progress/*.parquet") if ".pending." not in p.name])


def labels(target: Path) -> dict[int, str | None]:
    """{id: label} of a finished job; fails where an id is there twice."""
    table = pq.read_table(target / "labels", columns=["id", "label"])
    ids = table["id"].to_pylist()
    twice = [one for one, times in Counter(ids).items() if times > 1]
    assert not twice, f"labelled twice: {twice[:5]}"
    return dict(zip(ids, table["label"].to_pylist(), strict=True))


def kill_a_worker(source: Path, target: Path) -> str:
    """The job with one of its two workers killed in the middle; returns what it printed."""
    run = Run(source, target, "--workers", 2)
    until(lambda: booked(target) or run.process.poll() is not None, "the first labels")
    victims = run.workers()
    assert victims and run.process.poll() is None, run.end()
    victims[0].kill()
    status, said = run.end()
    assert status == 0, said
    return said


def kill_the_driver(source: Path, target: Path) -> str:
    """The job killed in the middle with all that belongs to it, then run again."""
    run = Run(source, target, "--workers", 2)
    until(lambda: booked(target) or run.process.poll() is not None, "the first labels")
    assert run.process.poll() is None, run.end()
    run.kill()
    run.process.communicate()
    status, said = Run(source, target, "--workers", 2).end()
    assert status == 0, said
    until(lambda: not run.processes(), "the killed driver's processes to end")
    return said


LOSE_A_NODE = """
import sys, threading, time
from pathlib import Path
sys.path.insert(0, {folder!r})
import label_reviews
from course_utils import cluster

source, target = Path(sys.argv[1]), Path(sys.argv[2])
machines = cluster.nodes(6, 3)
joined = cluster.start

def start(cpus, address=None):
    joined(address=machines.address)

def lose():
    while not list(target.glob("progress/*[0-9].parquet")):
        time.sleep(0.05)  # the driver's own threads want this process, too
    for node in list(machines.worker_nodes):
        machines.remove_node(node, allow_graceful=False)

cluster.start = start
threading.Thread(target=lose, daemon=True).start()
code = label_reviews.main([str(source), str(target), "--workers", "2"])
print("nodes left:", 1 + len(machines.worker_nodes))
sys.exit(code)
"""


def lose_a_node(source: Path, target: Path) -> str:
    """The job on two nodes of this machine, of which one is lost in the middle."""
    program = ("-c", LOSE_A_NODE.format(folder=str(SCRIPT.parent)))
    status, said = Run(source, target, program=program).end()
    assert status == 0, said
    assert "nodes left: 1" in said, said
    return said


LATE_NODE = """
import sys
sys.path.insert(0, {folder!r})
import label_reviews
from course_utils import cluster

machines = cluster.nodes(3)
joined = cluster.start

def start(cpus, address=None):
    joined(address=machines.address)

def said(text, **how):
    print(text, **how)
    if "waiting" in text:  # now, and not before
        ports = dict(zip(cluster.PORTS, cluster.free_ports(len(cluster.PORTS))))
        machines.add_node(num_cpus=3, object_store_memory=cluster.STORE, **cluster.LEAN, **ports)

cluster.start = start
label_reviews.print = said
given = ["--workers", "2", "--address", machines.address]
sys.exit(label_reviews.main(sys.argv[1:] + given))
"""


def a_node_joins_late(source: Path, target: Path) -> str:
    """The job on a cluster whose second node is not there yet; returns what it printed."""
    program = ("-c", LATE_NODE.format(folder=str(SCRIPT.parent)))
    status, said = Run(source, target, program=program).end()
    assert status == 0, said
    return said


OUTSIDE = """
import os, socket, subprocess, sys, time
sys.path.insert(0, {folder!r})
import label_reviews
from course_utils import cluster

from ray.cluster_utils import Cluster

cluster.ready()
os.environ["RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S"] = "300"  # not 30: the machine is busy
os.environ["RAY_worker_niceness"] = "0"  # nor behind all others
door, *rest = cluster.free_ports(1 + len(cluster.PORTS))
ports = dict(zip(cluster.PORTS, rest))
machine = Cluster()
machine.add_node(
    num_cpus=6, object_store_memory=cluster.STORE, ray_client_server_port=door,
    **cluster.LEAN, **ports,
)
for port in (door, ports["runtime_env_agent_port"]):  # a cluster that is still starting says no
    end = time.monotonic() + {patience}
    while socket.socket().connect_ex((machine.head_node.node_ip_address, port)):
        assert time.monotonic() < end, f"nobody listens at {{port}}"
        time.sleep(0.2)
said = [*sys.argv[1:], "--workers", "2", "--address", f"ray://127.0.0.1:{{door}}"]
code = subprocess.call([sys.executable, label_reviews.__file__, *said])
machine.shutdown()
sys.exit(code)
"""


def from_outside(source: Path, target: Path) -> str:
    """The job sent through Ray's client by a process that is on no node; what it printed."""
    program = ("-c", OUTSIDE.format(folder=str(SCRIPT.parent), patience=PATIENCE))
    status, said = Run(source, target, program=program).end()
    assert status == 0, said
    return said
