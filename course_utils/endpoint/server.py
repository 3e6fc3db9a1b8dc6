"""An OpenAI-compatible endpoint for the lessons: the learner's own, or one started here.

With `OPENAI_API_KEY` or `OPENAI_BASE_URL` set, `start()` checks that one and returns it. Without,
it starts the gateway with the tier's model on loopback. Either way the lesson gets a base URL, a
key and a model name, and makes its own `OpenAI(...)` of them.

The gateway ends with this process, however this process ends: see `course_utils.endpoint.gateway`.
"""

import atexit
import json
import math
import os
import queue
import re
import secrets
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from course_utils import machine, models, settings
from course_utils.endpoint.handle import (
    AGAIN,
    LISTENING,
    PORT_TAKEN,
    READY,
    SAYS,
    Server,
    last_words,
)
from course_utils.endpoint.own import explain_errors, learners_own, probe
from course_utils.errors import CourseError

START_SECONDS = 180
# what other libraries say while they are imported: warnings of PyTorch's logger, missing kernels
CHATTER = re.compile(r"INFO:|[IW]\d{4} \d\d:|Failed to load .*torchao|.*Loading weights")
HERE = "behind a local server"
GATEWAY = "course_utils.endpoint.gateway"
# threads that wait must sleep: with the usual spinning, a busy machine is slowed many times over
QUIET_THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
_started: list[Server] = []
_owner = os.getpid()


def start(port: int = 0) -> Server:
    """The endpoint this lesson talks to, checked and ready to answer.

    Run again, it returns the server that already runs.

    Args:
        port: where a local server listens; 0 takes any free port.

    Raises:
        CourseError: the learner's own endpoint refuses, is out of reach or answers something odd;
            or the local server did not start: the port is taken, a package is missing, the model
            is damaged.
    """
    own = learners_own()
    if own:
        probe(own)
        explain_errors(own)
        return own
    folder, model, who = tiers_model()
    said_by = f"{who} {HERE}"
    for server in _started:
        same_port = not port or f":{port}/" in server.base_url
        if server.said_by == said_by and server.local and same_port and not server.ended():
            return server
    models.check_folder(folder)
    return launch({"folder": str(folder), "port": port}, model, said_by)


def tiers_model() -> tuple[Path, str, str]:
    """The model a local server serves: its folder, its name in requests, and how it is called.

    The tier's own where it is on this machine and fits into its memory; else Pocket Llama.
    """
    name = settings.model_name()
    folder = None if name == settings.POCKET else models.is_here(name)
    if folder and (models.weights_bytes(name) or 0) < machine.ram_bytes()[1]:
        return Path(models.model_path(name)).resolve(), Path(name).name, models.said_by()
    return models.POCKET, models.POCKET.name, "pocket tier, Pocket Llama"


def serve(model: str | Path, port: int = 0) -> Server:
    """A server here for a model of your own choice: one that you trained or downloaded.

    Stop it when done, or use it as a context manager.

    Args:
        model: a folder with a whole Hugging Face checkpoint, or a name as in `COURSE_MODEL`:
            `smollm2`, a hub id. Its last part is the model's name in requests.
        port: where the server listens; 0 takes any free port.

    Raises:
        CourseError: there is no such model, it is not whole, or the server did not start.
    """
    check_port(port)
    folder, name = whole(model)
    return launch({"folder": str(folder), "port": port}, name, f"{name} {HERE}")


def whole(model: str | Path) -> tuple[Path, str]:
    """The folder that holds a model, checked, and its name in requests.

    Raises:
        CourseError: as `serve`.
    """
    folder = Path(model).expanduser().resolve()
    if isinstance(model, Path) or folder.exists():
        models.check_folder(folder)
        return folder, folder.name
    return Path(models.model_path(model)).resolve(), Path(model).name


def limited(server: Server, requests_per_minute: float) -> Server:
    """A gateway in front of `server` that takes only so many requests a minute.

    It answers with 429 and `Retry-After` beyond that, whatever the tier. Stop it when done.

    Raises:
        CourseError: the limit is no number from 1 on, or the gateway did not start.
    """
    check_limit(requests_per_minute)
    told = {"upstream": server.base_url, "upstream_key": server.key}
    return launch(
        {**told, "requests_per_minute": requests_per_minute}, server.model, server.said_by
    )


@atexit.register
def stop() -> None:
    """End every server started here. A forked child leaves its parent's alone."""
    for server in _started if os.getpid() == _owner else []:
        server.stop()


def check_limit(requests_per_minute: float) -> None:
    """Raise `CourseError` where this is no limit of requests per minute."""
    fine = isinstance(requests_per_minute, int | float) and math.isfinite(requests_per_minute)
    if not fine or isinstance(requests_per_minute, bool) or requests_per_minute < 1:
        raise CourseError(
            f"{requests_per_minute!r} is no limit of requests per minute.",
            "It must be a number from 1 on.",
            "Take for example 20.",
        )


def check_port(port: int) -> None:
    """Raise `CourseError` where this is no TCP port."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise CourseError(
            f"{port!r} is no port.",
            "Ports are whole numbers from 0 to 65535; 0 takes any free one.",
            "Take for example 8000.",
        )


# -- a server of our own --------------------------------------------------------------------------


def launch(told: dict[str, Any], model: str, said_by: str, program: str = GATEWAY) -> Server:
    """Start a gateway with these settings and wait until it is ready.

    Args:
        told: `folder` (a model on this machine), or `upstream` and `upstream_key` (an API's address
            and its key); `requests_per_minute`, `host` and `port`, where they are wanted.
        model: the model's name in requests.
        said_by: one line to print beside a result.
        program: the module that is started.

    Raises:
        CourseError: the port is taken or none, the model cannot be loaded, a package is missing.
    """
    check_port(told.get("port", 0))
    told = {"key": secrets.token_urlsafe(24), **told, "model": model}  # 192 bits
    process = begin(program)
    server = Server("", told["key"], model, said_by, "folder" in told, process)
    _started.append(server)
    try:
        with suppress(OSError):  # where it is gone already, its last words say more
            process.stdin.write(json.dumps(told) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        server.base_url = f"http://127.0.0.1:{wait(server, told.get('port', 0))}/v1"
    except BaseException:
        server.stop()
        raise
    for name in ("NO_PROXY", "no_proxy"):  # requests to this machine need no proxy
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    explain_errors(server)
    return server


def begin(program: str) -> "subprocess.Popen[str]":
    """The gateway's process, which waits for its settings."""
    # Its own session: an interrupt meant for a cell must not end the server.
    windows = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    hidden = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    return subprocess.Popen(
        [sys.executable, "-m", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**environment, **QUIET_THREADS, "HF_HUB_OFFLINE": "1"},
        cwd=Path(__file__).parents[2],
        start_new_session=not windows,
        creationflags=windows,
    )


def read(server: Server, said: "queue.Queue[str]") -> None:
    """Keep the server's log and pass on what the gateway itself says, until its output ends."""
    assert server.process and server.process.stdout
    for line in server.process.stdout:
        if line.startswith(SAYS):
            said.put(line.removeprefix(SAYS).strip())
        elif not CHATTER.match(line):
            server.log.append(line.rstrip())
    said.put("")


def wait(server: Server, port: int) -> str:
    """Wait, with a progress bar, until the gateway says it is ready; returns the port it has."""
    from tqdm.auto import tqdm

    said: queue.Queue[str] = queue.Queue()
    server.reader = threading.Thread(target=read, args=(server, said), daemon=True)
    server.reader.start()
    until, found, why = time.monotonic() + START_SECONDS, "", ""
    with tqdm(total=2, desc="starting the server", leave=False, disable=settings.static()) as bar:
        while not why:
            try:
                word = said.get(timeout=0.5)
            except queue.Empty:
                bar.refresh()
                if time.monotonic() > until:
                    why = f"It was not ready after {START_SECONDS} s. {last_words(server.log)}"
                continue
            bar.update()
            if word == READY:
                return found
            if word == PORT_TAKEN:
                raise CourseError(
                    f"The local server cannot listen on port {port}.",
                    "Another program uses it, or this account may not.",
                    "Take another port, or 0 for any free one.",
                )
            found = word.removeprefix(LISTENING)
            why = "" if word else last_words(server.log) or "It said nothing."
    raise CourseError("The local server did not start.", why, AGAIN)
