"""An OpenAI-compatible endpoint for lesson 01: the learner's own, or one started here.

With `OPENAI_API_KEY` or `OPENAI_BASE_URL` set, `start()` checks that one and returns it. Without,
it starts the gateway with Pocket Llama behind `transformers serve` on loopback. Either way the
lesson gets a base URL, a key and a model name, and makes its own `OpenAI(...)` of them.

The gateway ends with this process, however this process ends: see `course_utils.gateway`.
"""

import atexit
import json
import os
import queue
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from course_utils import gateway, models, settings
from course_utils.errors import CourseError

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-4.1-mini"
START_SECONDS = 180
STEPS = (gateway.LISTENING, gateway.LOADING, gateway.READY)
ROUTINE = ("INFO:", *(gateway.SAYS + step for step in STEPS))
AGAIN = "Run the cell with endpoint.start() again, then the cell that makes the client."
BACK_TO_POCKET = "unset OPENAI_API_KEY and OPENAI_BASE_URL to go on with Pocket Llama"


@dataclass(eq=False)
class Server:
    """Where requests go. Use it as a context manager, or call `stop()`.

    Attributes:
        base_url: what `OpenAI(base_url=...)` takes.
        key: what `OpenAI(api_key=...)` takes. Never shown.
        model: what `chat.completions.create(model=...)` takes.
        said_by: one line to print beside a result: which tier and model made it.
        local: whether it was started here.
    """

    base_url: str
    key: str = field(repr=False)
    model: str
    said_by: str
    local: bool = False
    _process: "subprocess.Popen[str] | None" = field(default=None, repr=False)
    _log: "deque[str]" = field(default_factory=lambda: deque(maxlen=40), repr=False)
    _stopped: bool = field(default=False, repr=False)

    def ended(self, within: float = 0.0) -> CourseError | None:
        """Why a server started here is gone, or goes within so many seconds; None while it runs."""
        if self._process is None:
            return None
        if self._stopped:
            return CourseError("The local server is stopped.", "server.stop() ended it.", AGAIN)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(within)
            return CourseError("The local server has ended.", last_words(self._log), AGAIN)
        return None

    def stop(self) -> None:
        """End a server started here. Doing it twice does no harm."""
        if self._process is None or self._stopped:
            return
        self._stopped = True
        with suppress(OSError):  # it may have ended before
            self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def __enter__(self) -> "Server":
        """The server itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()


_started: list[Server] = []


def last_words(log: "deque[str]") -> str:
    """The end of a server's log, without the indented lines of a traceback."""
    lines = [line[:200] for line in log if line.strip() and not line.startswith(" ")][-3:]
    return "\n".join(["Its last words:", *(f"  {line}" for line in lines)]) if lines else ""


def start(port: int = 0) -> Server:
    """The endpoint this lesson talks to, checked and ready to answer.

    Run again, it returns the server that already runs.

    Args:
        port: where a local server listens; 0 takes any free port.

    Raises:
        CourseError: the learner's own endpoint refuses or is out of reach; or the local server
            did not start: the port is taken, a package is missing, the model is damaged.
    """
    own = learners_own()
    if own:
        probe(own)
        return own
    for server in _started:
        if server.local and not server.ended():
            return server
    models.check_folder(models.POCKET)
    told = {"folder": str(models.POCKET), "port": port}
    said_by = "pocket tier, Pocket Llama behind transformers serve"
    return _launch(told, models.POCKET.name, said_by)


def serve(folder: str | Path, port: int = 0) -> Server:
    """A server here for the model in `folder`: one that you trained or downloaded.

    Stop it when done, or use it as a context manager.

    Args:
        folder: a whole Hugging Face checkpoint; its name is the model's name in requests.
        port: where the server listens; 0 takes any free port.

    Raises:
        CourseError: the folder holds no whole model, or the server did not start.
    """
    folder = Path(folder).resolve()
    models.check_folder(folder)
    said_by = f"{folder.name} behind transformers serve"
    return _launch({"folder": str(folder), "port": port}, folder.name, said_by)


def limited(server: Server, requests_per_minute: float) -> Server:
    """A gateway in front of `server` that takes only so many requests a minute.

    It answers with 429 and `Retry-After` beyond that, whatever the tier. Stop it when done.
    """
    told = {"upstream": server.base_url, "upstream_key": server.key}
    return _launch(
        {**told, "requests_per_minute": requests_per_minute}, server.model, server.said_by
    )


def stop() -> None:
    """End every server started here."""
    for server in _started:
        server.stop()


# -- a server of our own --------------------------------------------------------------------------


def _launch(told: dict[str, Any], model: str, said_by: str) -> Server:
    """Start a gateway with these settings and wait until it is ready."""
    missing = [name for name in ("fastapi", "starlette", "uvicorn") if not find_spec(name)]
    if missing:
        raise CourseError(
            "The local server cannot start.",
            f"Missing: {', '.join(missing)}.",
            'Install it with: pip install "transformers[serving]"',
        )
    key = "local-" + secrets.token_urlsafe(24)
    # Its own session: an interrupt meant for a cell must not end the server.
    windows = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
    process = subprocess.Popen(
        [sys.executable, "-m", "course_utils.gateway"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        cwd=Path(__file__).parent.parent,
        start_new_session=not windows,
        creationflags=windows,
    )
    server = Server("", key, model, said_by, "folder" in told, process)
    _started.append(server)
    try:
        with suppress(OSError):  # where it is gone already, its last words say more
            process.stdin.write(json.dumps({"key": key, **told}) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        server.base_url = f"http://127.0.0.1:{_wait(server, told.get('port', 0))}/v1"
    except BaseException:
        server.stop()
        raise
    _no_proxy_to_loopback()
    _explain_a_dead_server()
    return server


def _read(server: Server, said: "queue.Queue[str]") -> None:
    """Keep the server's log and pass on what the gateway itself says, until its output ends."""
    assert server._process and server._process.stdout
    for line in server._process.stdout:
        if line.startswith(gateway.SAYS):
            said.put(line.removeprefix(gateway.SAYS).strip())
        if not line.startswith(ROUTINE) and "Loading weights" not in line:
            server._log.append(line.rstrip())
    said.put("")


def _wait(server: Server, port: int) -> str:
    """Wait, with a progress bar, until the gateway says it is ready; returns the port it has."""
    from tqdm.auto import tqdm

    said: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(server, said), daemon=True).start()
    until = time.monotonic() + START_SECONDS
    quiet = settings.static()
    with tqdm(total=len(STEPS), desc="starting the server", leave=False, disable=quiet) as bar:
        while True:
            try:
                word = said.get(timeout=0.5)
            except queue.Empty:
                bar.refresh()
                if time.monotonic() < until:
                    continue
                reason = f"It was not ready after {START_SECONDS} s. {last_words(server._log)}"
                raise CourseError("The local server did not start.", reason, AGAIN) from None
            if word.startswith(gateway.LISTENING):
                found = word.removeprefix(gateway.LISTENING)
            elif word == gateway.READY:
                return found
            elif word == gateway.PORT_TAKEN:
                raise CourseError(
                    f"The local server cannot listen on port {port}.",
                    "Another program uses it, or this account may not.",
                    "Leave the port out: endpoint.start() takes any free one.",
                )
            elif not word:
                raise CourseError("The local server did not start.", last_words(server._log), AGAIN)
            bar.update(word.startswith(STEPS))


def _no_proxy_to_loopback() -> None:
    """Keep requests to this machine away from a proxy that the environment names."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))


def _explain_a_dead_server() -> None:
    """In a notebook, show one clear message where a call fails because the local server is gone."""
    import openai

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None  # type: ignore[attr-defined]
    if shell is None:
        return

    def explain(shell: Any, kind: Any, error: Any, trace: Any, tb_offset: Any = None) -> None:
        for server in _started:
            if str(error.request.url).startswith(server.base_url):
                # the gateway notices only after a moment that its model server is gone
                error = server.ended(within=0.5) or error
                break
        shell.showtraceback((type(error), error, trace), tb_offset=tb_offset)

    shell.set_custom_exc((openai.APIConnectionError, openai.InternalServerError), explain)


atexit.register(stop)


# -- the learner's own endpoint -----------------------------------------------------------------


def learners_own() -> Server | None:
    """The endpoint that the learner's settings name; None where they name none."""
    if settings.api_is_local():
        return None
    key = settings.secret("OPENAI_API_KEY")
    base_url = settings.plain("OPENAI_BASE_URL") or OPENAI_URL
    host = urlsplit(base_url).netloc or base_url
    # servers on the own machine mostly want no key, but the client wants one to send
    server = Server(base_url, key or "none", settings.api_model() or "", "")
    server.model = server.model or first_model(server)
    server.said_by = f"full tier, {server.model} at {host}"
    return server


def first_model(server: Server) -> str:
    """The course's model at OpenAI; elsewhere the first one the server offers."""
    if server.base_url.rstrip("/") == OPENAI_URL:
        return OPENAI_MODEL
    offered = asked(server, lambda client: [model.id for model in client.models.list()])
    if not offered:
        raise CourseError(
            f"{server.base_url} offers no model.", "", "Load one there, or set COURSE_API_MODEL."
        )
    return offered[0]


def probe(server: Server) -> None:
    """Send one tiny request, so that what is wrong shows now and in plain words."""
    messages = [{"role": "user", "content": "Say OK."}]
    asked(
        server,
        lambda client: client.chat.completions.create(
            model=server.model, messages=messages, temperature=0, max_completion_tokens=16
        ),
    )


def asked(server: Server, ask: Any) -> Any:
    """The answer to `ask(client)`; errors of the API as a `CourseError` with the next step."""
    import openai

    client = openai.OpenAI(base_url=server.base_url, api_key=server.key, timeout=30, max_retries=0)
    where, model = server.base_url, server.model
    try:
        return ask(client)
    except openai.APIConnectionError as error:
        what = f"{where} cannot be reached."
        why = f"{type(error).__name__}: no network, a wrong OPENAI_BASE_URL, or no server there."
        step = f"Check both, or {BACK_TO_POCKET}."
    except openai.AuthenticationError:
        what, why = f"{where} refuses the key (401).", "It is wrong, deleted or of another service."
        step = f"Set OPENAI_API_KEY to a valid key, or {BACK_TO_POCKET}."
    except openai.PermissionDeniedError as error:
        what, why = f"{where} does not allow this (403).", first_line(error)
        step = f"Ask for access to {model}, or {BACK_TO_POCKET}."
    except openai.NotFoundError as error:
        what, why = f"{where} knows no model {model!r} (404).", first_line(error)
        step = f"Set COURSE_API_MODEL to a model it offers, or {BACK_TO_POCKET}."
    except openai.RateLimitError as error:
        what, why = f"{where} takes no more requests now (429).", first_line(error)
        step = f"Check your credit there, or wait a minute, or {BACK_TO_POCKET}."
    except openai.APIStatusError as error:
        what, why = f"{model} does not answer (HTTP {error.status_code}).", first_line(error)
        step = "This lesson needs a chat model that takes `temperature`: set COURSE_API_MODEL "
        step += f"(for example {OPENAI_MODEL}), or {BACK_TO_POCKET}."
    raise CourseError(what, why, step)


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
