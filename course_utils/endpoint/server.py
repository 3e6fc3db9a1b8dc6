"""An OpenAI-compatible endpoint for lesson 01: the learner's own, or one started here.

With `OPENAI_API_KEY` or `OPENAI_BASE_URL` set, `start()` checks that one and returns it. Without,
it starts the gateway with Pocket Llama behind `transformers serve` on loopback. Either way the
lesson gets a base URL, a key and a model name, and makes its own `OpenAI(...)` of them.

The gateway ends with this process, however this process ends: see `course_utils.endpoint.gateway`.
"""

import atexit
import json
import os
import queue
import re
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

from course_utils import models, settings
from course_utils.endpoint import gateway
from course_utils.errors import CourseError

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_MODEL = "gpt-4.1-mini"
START_SECONDS = 180
STEPS = (gateway.LISTENING, gateway.LOADING, gateway.READY)
ROUTINE = ("INFO:", *(gateway.SAYS + step for step in STEPS))
# what other libraries say while they are imported: warnings of PyTorch's logger, missing kernels
CHATTER = re.compile(r"[IW]\d{4} \d\d:|Failed to load .*torchao|.*Loading weights")
AGAIN = "Run the cell with endpoint.start() again, then the cell that makes the client."
BACK_TO_POCKET = "unset OPENAI_API_KEY and OPENAI_BASE_URL to go on with Pocket Llama"
# What a refusal means by its HTTP status: what happened; what to do at the learner's own endpoint;
# what to do where the server was started here.
REFUSALS: dict[int | None, tuple[str, str, str]] = {
    400: (
        "{model} refuses the request",
        "Change what the reason names, and run the cell again",
        "Change what the reason names, and run the cell again",
    ),
    401: (
        "{where} refuses the key",
        "Set OPENAI_API_KEY to a valid key",
        "Make the client with api_key=server.key",
    ),
    403: ("{where} does not allow this", "Ask for access to the model", "Use model=server.model"),
    404: (
        "{where} knows no model {model!r}",
        "Set COURSE_API_MODEL to a model it offers",
        "Use model=server.model",
    ),
    413: ("The request is too large", "Send less text at once", "Send less text at once"),
    429: (
        "{where} takes no more requests now",
        "Check your credit there, or wait a minute",
        "Wait a few seconds and run the cell again",
    ),
    None: ("{model} does not answer", "Wait a minute and run the cell again", AGAIN[:-1]),
}


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
            code = self._process.wait(within)
            why = last_words(self._log) or (
                f"It stopped with exit code {code}: something ended it, perhaps for want of memory."
            )
            return CourseError("The local server has ended.", why, AGAIN)
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
_explained: list[Server] = []


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
        _explain_errors(own)
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
        [sys.executable, "-m", "course_utils.endpoint.gateway"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        cwd=Path(__file__).parents[2],
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
    _explain_errors(server)
    return server


def _read(server: Server, said: "queue.Queue[str]") -> None:
    """Keep the server's log and pass on what the gateway itself says, until its output ends."""
    assert server._process and server._process.stdout
    for line in server._process.stdout:
        if line.startswith(gateway.SAYS):
            said.put(line.removeprefix(gateway.SAYS).strip())
        if not line.startswith(ROUTINE) and not CHATTER.match(line):
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
                bar.update(bar.total - bar.n)  # or a gateway without a model leaves a red bar
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


def _explain_errors(server: Server) -> None:
    """In a notebook, show one clear message where a call to one of the lesson's servers fails.

    Only what nobody caught comes here: a cell that catches an error gets the error itself.
    """
    import openai

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None  # type: ignore[attr-defined]
    if server not in _explained:
        _explained.append(server)
    if shell is None:
        return

    def explain(shell: Any, kind: Any, error: Any, trace: Any, tb_offset: Any = None) -> None:
        address = str(error.request.url)
        for known in reversed(_explained):
            if address.startswith(known.base_url):
                broken = isinstance(error, openai.APIConnectionError | openai.InternalServerError)
                # the gateway notices only after a moment that its model server is gone
                ended = known.ended(within=0.5) if broken else None
                error = ended or explained(known, error)
                break
        shell.showtraceback((type(error), error, trace), tb_offset=tb_offset)

    shell.set_custom_exc((openai.APIError,), explain)


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
    try:
        return ask(client)
    except openai.APIError as error:
        raise explained(server, error) from None


def explained(server: Server, error: Any) -> CourseError:
    """What an `openai.APIError` means for the learner, with the next step."""
    import openai

    if isinstance(error, openai.APIConnectionError):
        return _no_answer(server, error)
    status, said = getattr(error, "status_code", None), first_line(error)
    what, step, step_here = REFUSALS.get(status, REFUSALS[None])
    if status == 401:
        said = "It is wrong, deleted or of another service."  # theirs repeats part of the key
    elif status == 400 and "temperature" in said:
        step = f"Set COURSE_API_MODEL to a chat model that takes it, like {OPENAI_MODEL}"
    code = f" ({status})" if status else ""
    ours = server._process is not None
    back = "." if ours else f", or {BACK_TO_POCKET}."
    return CourseError(
        what.format(where=server.base_url, model=server.model) + code + ".",
        said,
        (step_here if ours else step) + back,
    )


def _no_answer(server: Server, error: Any) -> CourseError:
    """No HTTP answer at all: out of time, or nobody there."""
    import openai

    kind, where = type(error).__name__, server.base_url
    what, why = f"{where} cannot be reached.", f"{kind}: no network, or no server at this address."
    if isinstance(error, openai.APITimeoutError):
        what, why = f"{where} did not answer in time.", f"{kind}: {first_line(error)}"
    elif not where.startswith(("http://", "https://")):
        why = "That is no address: one begins with http:// or https://."
    if server._process is not None:
        return CourseError(what, why, AGAIN)
    step = f"Check the network and OPENAI_BASE_URL, or {BACK_TO_POCKET}."
    return CourseError(what, why, step)


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
