"""A small API gateway: what stands between a client and a model in real life.

It checks the bearer key, keeps a limit, answers in OpenAI's error shape, and knows two requests:
`GET /v1/models` and `POST /v1/chat/completions`. Behind it stands one of two things: a model on
this machine (`local`), or any OpenAI-compatible API, named by its address (`upstream`).

`course_utils.endpoint.server` starts it as a process, its settings as one line of JSON on stdin,
so that no key shows in a list of processes. The stdin pipe then stays open. When it closes,
whoever held its other end is gone, crashed or restarted, and this process ends too.

It knows nothing of notebooks, reviews or settings; `course_staff.classroom` builds on it.
"""

import asyncio
import json
import os
import secrets
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from course_utils.endpoint.bucket import Bucket
from course_utils.endpoint.handle import LISTENING, PORT_TAKEN, READY, SAYS
from course_utils.endpoint.local import Local
from course_utils.endpoint.refusals import Json, Refusal, as_response, requested
from course_utils.endpoint.upstream import Upstream

MOST_BYTES = 1_000_000
BODY_SECONDS = 30
REST_SECONDS = 2  # for the rest of a body that is too large anyway
METHODS = {"/v1/models": "GET", "/v1/chat/completions": "POST"}
CHAT_ONLY = "This server speaks Chat Completions: client.chat.completions.create(...)."


class Gateway:
    """The HTTP side: whose key, which request, passing it on. An ASGI application.

    Attributes:
        back: what answers; it has `model` and `complete(body)`.
        http: the protocol that uvicorn speaks.
    """

    http: Any = "auto"

    def __init__(self, back: Local | Upstream, key: str, requests_per_minute: float = 0) -> None:
        """Open to whoever has `key`; a limit of 0 is none."""
        self.back, self.key = back, key
        self.bucket = Bucket(requests_per_minute) if requests_per_minute else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        from starlette.requests import ClientDisconnect, Request

        headers: dict[str, str] = {}
        try:
            response = await self.answer(Request(scope, receive), headers)
        except ClientDisconnect:
            return
        except Exception as error:
            no = error if isinstance(error, Refusal) else unforeseen(error)
            headers |= no.headers
            response = as_response(no.body(), no.status)
        response.headers.update(headers)
        await response(scope, receive, send)

    async def answer(self, request: Any, headers: dict[str, str]) -> Any:
        """The response to a request; `headers` gains what goes out beside it, whatever it is."""
        bucket = await self.admit(request)
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
        if bucket:
            headers["x-ratelimit-limit-requests"] = f"{bucket.limit:g}"
            headers["x-ratelimit-remaining-requests"] = "0"
            headers["x-ratelimit-remaining-requests"] = str(bucket.take())
        if allowed == "GET":
            model = await self.described()
            return as_response(model if one_model else {"object": "list", "data": [model]})
        body = requested(await read_body(request))
        if body.get("model", self.back.model) != self.back.model:
            raise no_model(body["model"])
        return await self.complete(body, request)

    async def described(self) -> Json:
        """The model that answers, as OpenAI's API shows one."""
        owner = "open-llms-hands-on"
        return {"id": self.back.model, "object": "model", "created": 0, "owned_by": owner}

    async def admit(self, request: Any) -> Bucket | None:
        """The limit of whoever holds the request's key.

        Raises:
            Refusal: the key is wrong.
        """
        if not secrets.compare_digest(key_in(request).encode(), self.key.encode()):
            raise wrong_key()
        return self.bucket

    async def complete(self, body: Json, request: Any) -> Any:
        """The response to a chat request, given up when the client goes away."""
        from starlette.requests import ClientDisconnect

        work = asyncio.ensure_future(self.back.complete(body))
        gone = asyncio.ensure_future(request.receive())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnect
            return work.result()
        finally:
            work.cancel()
            gone.cancel()

    def at_end(self) -> None:
        """Called just before this process ends."""


def key_in(request: Any) -> str:
    """The bearer key of a request; empty where there is none."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def wrong_key() -> Refusal:
    """The refusal of a key that is none."""
    return Refusal(401, "invalid_api_key", "Incorrect API key provided.")


def unforeseen(error: Exception) -> Refusal:
    """The refusal for a fault of this server; the log has the rest."""
    traceback.print_exception(error)
    return Refusal(500, "server_error", f"This server has a fault: {type(error).__name__}.")


def no_model(name: object) -> Refusal:
    """The refusal of a model that does not stand behind this server."""
    message = f"The model {name!a:.100} does not exist or you have no access to it."
    return Refusal(404, "model_not_found", message, "model")


def unknown(method: str, path: str) -> Refusal:
    """The refusal of a path that this server does not have."""
    before, _, name = path.partition("/v1/models/")
    if name and not before:
        return no_model(name)
    if path == "/v1/responses":
        return Refusal(400, "unsupported_endpoint", f"There is no Responses API here. {CHAT_ONLY}")
    shown = path.encode("ascii", "backslashreplace").decode()[:100]
    return Refusal(404, "unknown_url", f"Unknown request: {method} {shown}. {CHAT_ONLY}")


async def read_body(request: Any) -> bytes:
    """A request's body, up to `MOST_BYTES`.

    Raises:
        Refusal: it is larger, of another kind, or does not come to an end.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        message = "The request's Content-Type must be application/json "
        message += "(curl: -H 'Content-Type: application/json')."
        raise Refusal(415, "unsupported_media_type", message)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "unsupported_media_type", "Send the body without Content-Encoding.")
    length, content, read = request.headers.get("content-length", ""), b"", 0
    size = int(length) if length.isdigit() else 0
    try:
        async with asyncio.timeout(REST_SECONDS if size > MOST_BYTES else BODY_SECONDS):
            # to its end: most clients that are still sending see a broken pipe, and no answer
            async for piece in request.stream():
                read += len(piece)
                content += piece if read <= MOST_BYTES else b""
    except TimeoutError:
        if max(size, read) <= MOST_BYTES:
            message = f"No whole request came in {BODY_SECONDS} s."
            raise Refusal(408, "timeout", message) from None
    if max(size, read) <= MOST_BYTES:
        return content
    message = f"The request is larger than {MOST_BYTES:,} bytes. Send less text at once."
    raise Refusal(413, "request_too_large", message)


# -- the process -----------------------------------------------------------------------------------


def say(text: str) -> None:
    """Tell the parent process one thing, on stdout."""
    print(SAYS + text, flush=True)


def end_with_parent(at_end: Callable[[], None]) -> None:
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


def listen(port: int, host: str) -> socket.socket:
    """A socket that listens on `host`, on `port` or (0) on any free one.

    Raises:
        OSError: the port is taken, or not for this account.
    """
    made = socket.create_server((host, port), backlog=2048)  # from now on who connects waits
    # named TCP: asyncio switches Nagle's algorithm off only then, which costs 40 ms an answer
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, made.detach())


async def serve(gateway: Gateway, listening: socket.socket) -> None:
    """Serve until the process ends, or the model cannot be loaded."""
    import uvicorn

    settings = uvicorn.Config(
        gateway,
        http=gateway.http,
        lifespan="off",
        log_level="warning",
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    serving = asyncio.create_task(uvicorn.Server(settings).serve(sockets=[listening]))
    if isinstance(gateway.back, Local):
        await asyncio.to_thread(gateway.back.load)
    say(READY)
    await serving


def behind(config: Json, api: type[Upstream] = Upstream) -> Local | Upstream:
    """What stands behind the gateway: the model in `folder`, or the API at `upstream`."""
    if folder := config.get("folder"):
        return Local(Path(folder), config["model"])
    return api(config["upstream"], config["upstream_key"], config["model"])


def own(config: Json) -> Gateway:
    """The gateway of one learner."""
    return Gateway(behind(config), config["key"], config.get("requests_per_minute", 0))


def main(make: Callable[[Json], Gateway] = own) -> None:
    """Read the settings from stdin and serve until stdin closes."""
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1) or sys.exit(1)  # byte by byte: nothing may be read ahead
    config = json.loads(line)
    try:
        listening = listen(config.get("port", 0), config.get("host", "127.0.0.1"))
    except OSError:
        say(PORT_TAKEN)
        sys.exit(1)
    say(LISTENING + str(listening.getsockname()[1]))
    gateway = make(config)
    end_with_parent(gateway.at_end)
    asyncio.run(serve(gateway, listening))


if __name__ == "__main__":
    main()
