"""Starting Ray: one clear message for whatever is in the way, and nothing left behind."""

import http.server
import os
import socket
import subprocess
import sys
import threading

import pytest

from course_utils import cluster
from course_utils.errors import CourseError

pytest.importorskip("ray", reason="Ray is not installed")
ROOT = cluster.Path(cluster.__file__).parents[1]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What a test sets for Ray is gone after it."""
    for name in (*cluster.QUIET, "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, os.environ.get(name, cluster.QUIET.get(name, "token")))


def test_without_ray_there_is_a_next_step(monkeypatch):
    """A learner who has the course but not its extra: what to install, no traceback."""
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CourseError, match="Ray is not installed") as error:
        cluster.ready()
    assert 'pip install "open-llms-hands-on[cluster]"' in error.value.next_step


def test_on_windows_it_is_said_before_it_fails(monkeypatch, capsys):
    """A learner on Windows knows where the fault may lie, and what to use."""
    monkeypatch.setattr(cluster.sys, "platform", "win32")
    cluster.ready()
    said = capsys.readouterr().out
    assert "Windows" in said and "WSL" in said


@pytest.fixture
def silent():
    """A port where somebody listens and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.fixture
def web():
    """The port of a web server."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    server.RequestHandlerClass.log_message = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "localhost:{}"])
def test_an_address_where_nobody_listens(form):
    """A user whose head node is down, or who mistyped the port: told at once, not after minutes."""
    (port,) = cluster.free_ports(1)
    with pytest.raises(CourseError, match=f"No Ray answers at .*:{port}"):
        cluster.start(address=form.format(port))


def test_an_address_where_something_else_listens(web):
    """A user who names the dashboard's port: Ray itself would try for minutes."""
    with pytest.raises(CourseError, match="Something else than Ray"):
        cluster.start(address=f"127.0.0.1:{web}")


@pytest.mark.slow  # it waits the five seconds that an answer may take
def test_an_address_where_nobody_says_anything(silent):
    """A user behind a firewall that swallows everything."""
    with pytest.raises(CourseError, match="No Ray answers"):
        cluster.start(address=f"127.0.0.1:{silent}")


@pytest.mark.parametrize("wrong", ["nonsense", "ray://head", "10.0.0.5", ":6379", "head:ray", ""])
def test_what_is_no_address(wrong):
    """A user's typo is told apart from a cluster that is down."""
    with pytest.raises(CourseError, match="no address of a cluster"):
        cluster.answers(wrong)


def versions_differ():
    """What Ray raises where the cluster has another version."""
    import ray
    from ray._private import utils

    theirs = {"ray_version": "1.0.0", "python_version": "3.9.1", "ray_commit": "x"}
    if not hasattr(utils, "check_version_info"):
        pytest.skip(f"Ray {ray.__version__} compares versions elsewhere")
    utils.check_version_info(theirs, "this node", raise_on_mismatch=True)


def no_cluster_here():
    """What Ray raises for `auto` on a machine without one."""
    raise ConnectionError("Could not find any running Ray instance. Please specify the one to …")


def other_token():
    """What Ray raises where the head node's token is another."""
    raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.5:6379")


def imported_too_early():
    """What Ray raises where it was imported before it was told to show its token."""
    raise RuntimeError("Authentication token is missing. RAY_AUTH_MODE is currently 'disabled'")


def client_missing():
    """What Ray raises for ray:// without its client."""
    raise ImportError("Ray Client requires pip package `ray[client]`.")


def door_not_open_yet():
    """What Ray raises for ray:// where the cluster has only just started."""
    raise ConnectionAbortedError("Initialization failure: Starting Ray client server failed. See …")


def port_taken():
    """What Ray raises where its own port is taken."""
    raise RuntimeError("Failed to start GCS. Failed to bind: Address already in use")


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        (versions_differ, "different versions"),
        (no_cluster_here, "not one Ray cluster here"),
        (other_token, "does not let this machine in"),
        (imported_too_early, "Ray was imported before"),
        (client_missing, "Ray's client"),
        (door_not_open_yet, "did not get ready"),
        (port_taken, "port that Ray wants is taken"),
    ],
)
def test_what_ray_says_is_said_in_plain_words(fails, told):
    """A user who meets Ray's own errors: what it means, Ray's words, and a next step."""
    with pytest.raises(Exception) as error:
        fails()
    said = cluster.meaning(error.value)
    assert told in said.what and "Ray says: " in said.why and said.next_step


PROGRAM = """
import psutil, shutil, sys
from collections import namedtuple
from pathlib import Path
from course_utils import cluster

if "imported" in sys.argv:
    import ray  # before the course could set anything
if "small" in sys.argv:
    usage = namedtuple("usage", "total used free")
    cluster.shutil.disk_usage = lambda path: usage(64 << 20, 0, 64 << 20)
cluster.start(2)
cluster.start(2)  # once more, as where a cell is run again
import ray
print("CPU", ray.cluster_resources()["CPU"], ray.get(ray.remote(lambda: 6 * 7).remote()))
cluster.stop()
cluster.stop()
print("left", [p.pid for p in psutil.Process().children(recursive=True)
               if p.status() != psutil.STATUS_ZOMBIE])
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["plain", "small", "imported"])
def test_it_starts_twice_and_leaves_no_process(case, tmp_path):
    """A learner who runs the cell again, has little shared memory, or imported Ray themselves.

    Once Ray has made a token, a Ray that was imported before it heard of it would be shut out.
    """
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if case == "imported":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("0" * 64)
        env["HOME"] = str(tmp_path)
        del env["RAY_AUTH_MODE"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, case], env=env, capture_output=True, text=True, timeout=400
    )
    assert "CPU 2.0 42" in done.stdout and "left []" in done.stdout, done.stdout + done.stderr
    assert ("--shm-size" in done.stdout) == (case == "small")
