"""A small API gateway: what stands between a client and a model in real life.

It checks the bearer key, keeps limits, answers in OpenAI's error shape, and knows two requests:
`GET /v1/models` and `POST /v1/chat/completions`. Behind it stands one of two things: a model on
this machine (`local`), or any OpenAI-compatible API, named by its address (`upstream`).

`course_utils.endpoint.server` starts it as a process, its settings as one line of JSON on stdin,
so that no key shows in a list of processes. The stdin pipe then stays open. When it closes,
whoever held its other end is gone, crashed or restarted, and this process ends too.

It knows nothing of notebooks, reviews or settings.

**Why the model is computed in this process.** Until November 2026 two `transformers serve` stood
behind the gateway: one with `--continuous-batching`, which gives every request the sampling
settings of its first one, and a plain one for the rest. Against `generate` in one process on one
thread, in the same run (`benchmarks/class_endpoint.py`, two cores, other programs on them):

| | two `transformers serve` | this |
| --- | --- | --- |
| 20 learners x 48 reviews, 16 at once, of the rate in batches of 32 | 0.32 to 0.64 | 0.92 to 2.24 |
| one learner one by one, of the rate in batches of 1 | 0.12 to 0.24 | 0.61 to 1.19 |
| 200 x 16 at once, slowest 1 % against 3,200 reviews in batches | time-out of 60 s | 0.48 to 1.06 |

`generate` batched here was no choice: a batch ends with its longest reply, and all wait for it.
llama.cpp was not tried: it needs a compiler, and a second copy of each model in its own format.
"""

import asyncio
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from course_utils.endpoint import connections
from course_utils.endpoint.handle import LISTENING, LOADING, PORT_TAKEN, READY, SAYS, USAGE
from course_utils.endpoint.lending import Learner, Lending
from course_utils.endpoint.local import Local
from course_utils.endpoint.refusals import ClientGone, Json, Refusal
from course_utils.endpoint.upstream import MOST_CONNECTIONS, Upstream

MOST_BYTES = 1_000_000
BODY_SECONDS = 30
METHODS = {"/v1/models": "GET", "/v1/chat/completions": "POST"}
CHAT_ONLY = "This server speaks Chat Completions: client.chat.completions.create(...)."


def say(text: str) -> None:
    """Tell the parent process one thing, on stdout."""
    print(SAYS + text, flush=True)


def end_with_parent(at_end: Any) -> None:
    """End this process when a byte comes on stdin, when stdin closes, or the parent is gone.

    A pipe closes however its holder went away, but a forked child of the parent holds it too.
    """
    parent = os.getppid()

    def end() -> None:
        try:
            at_end()
        finally:  # also where nobody reads any more what is said
            os._exit(0)

    def listen() -> None:
        # not sys.stdin: Python cannot end in order while a thread waits inside that
        os.read(0, 1)
        end()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        end()

    for work in (listen, watch):
        threading.Thread(target=work, daemon=True).start()


class Gateway:
    """The HTTP side: whose key, which request, passing it on. An ASGI application.

    `config` holds either `folder` (a model on this machine) or `upstream` and `upstream_key` (an
    API's address and its key); the `model`'s name; `keys` (names with keys); and where they are
    wanted `requests_per_minute` and `tokens_each` (for each learner) and `most_tokens` (for each
    request).
    """

    def __init__(self, config: Json) -> None:
        """Prepare, without loading anything."""
        limit, tokens = config.get("requests_per_minute", 0), config.get("tokens_each", 0)
        self.lending = Lending(config["keys"], limit, tokens)
        self.back: Local | Upstream
        if folder := config.get("folder"):
            self.back = Local(Path(folder), config["model"])
        else:
            at, key, most = (config.get(k) for k in ("upstream", "upstream_key", "most_tokens"))
            self.back = Upstream(str(at), key or "none", config["model"], most or 0)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        from starlette.requests import Request
        from starlette.responses import Response

        request = Request(scope, receive)
        headers: dict[str, str] = {}
        try:
            response = await self.answer(request, headers)
        except ClientGone:
            return
        except Exception as error:
            no = error if isinstance(error, Refusal) else unforeseen(error)
            headers |= no.headers
            body = json.dumps(no.body())
            response = Response(body, no.status, media_type="application/json")
        response.headers.update(headers)
        await response(scope, receive, send)

    async def answer(self, request: Any, headers: dict[str, str]) -> Any:
        """The response to a request; `headers` gains what goes out beside it, whatever it is."""
        address = request.client.host if request.client else ""
        given = request.headers.get("authorization", "")
        learner = await self.lending.learner(given, address)
        path, method = request.scope["path"], request.method
        one_model = path == f"/v1/models/{self.back.model}"
        allowed = "GET" if one_model else METHODS.get(path)
        if allowed is None:
            raise unknown(method, path)
        if method != allowed and (method, allowed) != ("HEAD", "GET"):
            message = f"{path} takes {allowed}, not {method}."
            raise Refusal(405, "method_not_allowed", message, Allow=allowed)
        if request.scope["query_string"]:
            message = "This address takes no query (the part behind `?`)."
            raise Refusal(400, "unknown_parameter", message)
        self.count(learner, headers)
        if allowed == "GET":
            return await self.models(one_model)
        body = as_json(await read_body(request))
        if body.get("model", self.back.model) != self.back.model:
            shown = f"{body['model']!a:.100}"
            message = f"The model {shown} does not exist or you have no access to it."
            raise Refusal(404, "model_not_found", message, "model")
        return await self.back.complete(body, learner, request.receive)

    def count(self, learner: Learner, headers: dict[str, str]) -> None:
        """Take one request from the learner's limit, and say how many are left."""
        if learner.bucket:
            headers["x-ratelimit-limit-requests"] = f"{learner.bucket.limit:g}"
            headers["x-ratelimit-remaining-requests"] = "0"
            headers["x-ratelimit-remaining-requests"] = str(learner.bucket.take())

    async def models(self, one: bool) -> Any:
        """The answer to `GET /v1/models`, or to the same for the one model there is."""
        from starlette.responses import Response

        model = await self.back.models()
        told = model if one else {"object": "list", "data": [model]}
        return Response(json.dumps(told), media_type="application/json")

    async def prepare(self) -> None:
        """Load the model, where it is one on this machine; then say that all is ready."""
        if isinstance(self.back, Local):
            say(LOADING)
            await asyncio.to_thread(self.back.load)
        say(READY)


def unforeseen(error: Exception) -> Refusal:
    """The refusal for a fault of this server; the log has the rest."""
    traceback.print_exception(error)
    return Refusal(500, "server_error", f"This server has a fault: {type(error).__name__}.")


def unknown(method: str, path: str) -> Refusal:
    """The refusal of a path that this server does not have."""
    if path == "/v1/responses":
        return Refusal(400, "unsupported_endpoint", f"There is no Responses API here. {CHAT_ONLY}")
    shown = path.encode("ascii", "backslashreplace").decode()[:100]
    return Refusal(404, "unknown_url", f"Unknown request: {method} {shown}. {CHAT_ONLY}")


async def read_body(request: Any) -> bytes:
    """A request's body, up to `MOST_BYTES`."""
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        message = "The request's Content-Type must be application/json "
        message += "(curl: -H 'Content-Type: application/json')."
        raise Refusal(415, "unsupported_media_type", message)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "unsupported_media_type", "Send the body without Content-Encoding.")
    too_large = f"The request is larger than {MOST_BYTES:,} bytes. Send less text at once."
    from starlette.requests import ClientDisconnect

    length, content = request.headers.get("content-length", ""), b""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            if not (length.isdigit() and int(length) > MOST_BYTES):
                async for piece in request.stream():
                    content += piece
                    if len(content) > MOST_BYTES:
                        break
                else:
                    return content
    except TimeoutError:
        raise Refusal(408, "timeout", f"No whole request came in {BODY_SECONDS} s.") from None
    except ClientDisconnect:
        raise ClientGone from None
    raise Refusal(413, "request_too_large", too_large)


def as_json(content: bytes) -> Json:
    """A body as a JSON object."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, "invalid_json", "The body of the request is not a JSON object.")
    return body


async def serve(config: Json, listening: Any) -> None:
    """Serve until the process ends, or the model cannot be loaded."""
    import uvicorn

    gateway = Gateway(config)
    end_with_parent(lambda: say(USAGE + json.dumps(gateway.lending.usage())))
    most = connections.raise_file_limit() - connections.SPARE
    protocol = connections.guarded_protocol(max(32, most - MOST_CONNECTIONS))
    settings = uvicorn.Config(
        gateway,
        http=protocol,
        lifespan="off",
        log_level="warning",
        server_header=False,
        timeout_keep_alive=connections.IDLE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(settings)
    sweeping = asyncio.create_task(connections.sweep(server.server_state.connections))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await gateway.prepare()
        await serving
    finally:
        sweeping.cancel()


def main() -> None:
    """Read the settings from stdin and serve until stdin closes."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1) or sys.exit(1)  # byte by byte: nothing may be read ahead
    config = json.loads(line)
    try:
        listening = connections.listen(config.get("port", 0), config.get("host", "127.0.0.1"))
    except OSError:
        say(PORT_TAKEN)
        sys.exit(1)
    say(LISTENING + str(listening.getsockname()[1]))
    asyncio.run(serve(config, listening))


if __name__ == "__main__":
    main()
