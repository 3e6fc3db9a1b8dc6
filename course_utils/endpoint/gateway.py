"""A small API gateway on loopback: what stands between a client and a model server in real life.

It checks the bearer key, keeps a limit of requests per minute, answers in OpenAI's error shape,
and passes everything else on, streams included. Behind it stands one of two things:

- `transformers serve` with the bundled model, which the gateway starts itself;
- any OpenAI-compatible API, named by its address.

`course_utils.endpoint` starts it as a process, its settings as one line of JSON on stdin (
so that no key shows in a list of processes). The stdin pipe then stays open. When
it closes, whoever held its other end is gone, crashed or restarted, and everything here ends too.

It knows nothing of notebooks, reviews or settings.
"""

import asyncio
import hmac
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

SAYS = "gateway: "
LISTENING, LOADING, READY = "listening on port ", "loading the model", "ready"
PORT_TAKEN = "the port is taken"
BURST = 2
MAX_BODY_BYTES = 1_000_000
HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
Json = dict[str, Any]


def say(text: str) -> None:
    """Tell the parent process one thing, on stdout."""
    print(SAYS + text, flush=True)


def end_with_parent() -> None:
    """End this process as soon as stdin closes. A pipe closes however its holder went away."""

    def watch() -> None:
        # not sys.stdin: Python cannot end in order while a thread waits inside that
        while os.read(0, 1):
            pass
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


def free_port() -> int:
    """A TCP port on loopback that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def http_library() -> Any:
    """The HTTP client that came with openai: httpx2 with 3.x, httpx with 2.x. Same interface."""
    try:
        import httpx2 as httpx
    except ImportError:
        import httpx  # type: ignore[no-redef]
    return httpx


class Refusal(Exception):
    """A request the gateway turns down, as an HTTP status and OpenAI's error code."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        """Keep what `refused` makes a response of."""
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


def in_openais_shape(status: int, code: str | None, message: str) -> Json:
    """An error body as OpenAI's API sends it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Bucket:
    """A limit of requests per minute, kept as a token bucket.

    It holds `BURST` requests and gains one every 60 / limit seconds. OpenAI spreads its limits in
    the same way: "for example, 1 request per second for a 60 RPM limit"
    (help.openai.com/en/articles/5955604).
    """

    def __init__(self, requests_per_minute: float) -> None:
        """Start full."""
        self.limit = requests_per_minute
        self.seconds_each = 60 / requests_per_minute
        self.held, self.at = float(BURST), time.monotonic()

    def take(self) -> int:
        """Take one request out and return how many are left.

        Raises:
            Refusal: the bucket is empty; with `Retry-After`, in seconds.
        """
        now = time.monotonic()
        self.held = min(BURST, self.held + (now - self.at) / self.seconds_each)
        self.at = now
        if self.held < 1:
            # A whole interval, not what is left of it: enough for certain, and a round number.
            wait = f"{self.seconds_each:.0f}"
            raise Refusal(
                429,
                "rate_limit_exceeded",
                f"Rate limit reached: {self.limit:g} requests per minute. Try again in {wait} s.",
                **{"Retry-After": wait},
            )
        self.held -= 1
        return int(self.held)


class Prompts:
    """What the model's own files say of a prompt: its template, its tokens, the longest it takes.

    The model server would answer a broken prompt with a bare 500; here the reason is found first.
    """

    def __init__(self, folder: Path) -> None:
        """Read template, tokenizer and context length, without loading the model."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from tokenizers import Tokenizer

        def read(name: str) -> str:
            return (folder / name).read_text(encoding="utf-8")

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = self._refuse
        self.template = environment.from_string(read("chat_template.jinja"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.special = {
            k: v for k, v in json.loads(read("tokenizer_config.json")).items() if k[3:] == "_token"
        }
        self.context = json.loads(read("config.json"))["max_position_embeddings"]
        self.generation = json.loads(read("generation_config.json"))

    @staticmethod
    def _refuse(message: str) -> None:
        raise ValueError(message)

    def count(self, messages: Any) -> int:
        """The number of tokens of these chat messages.

        Raises:
            Refusal: they are no messages, or the model's template does not take them.
        """
        try:
            flat = [{"role": m["role"], "content": as_text(m.get("content"))} for m in messages]
            text = self.template.render(messages=flat, add_generation_prompt=True, **self.special)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = str(error) if isinstance(error, ValueError) else "`messages` must be a list"
            raise Refusal(400, "invalid_messages", reason) from None
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)


def as_text(content: Any) -> str:
    """A message's content as text: a string, or a list of parts that are all text."""
    if isinstance(content, list):
        return " ".join(part["text"] for part in content)
    if isinstance(content, str):
        return content
    raise ValueError("The content of a message must be text.")


def number(body: Json, name: str, low: float, high: float) -> float | None:
    """The number under `name` in a request, or None where there is none."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        reason = f"`{name}` must be a number from {low:g} to {high:g}."
        raise Refusal(400, "invalid_value", reason)
    return value


class Backend:
    """One `transformers serve` process with the model in `folder`, on a port of its own.

    `batching` adds `--continuous-batching`: requests that arrive together are computed together.
    """

    def __init__(self, folder: Path, batching: bool) -> None:
        """Start the process; it takes some seconds until it answers."""
        self.model, self.port, self.ready = folder.name, free_port(), False
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        command = [
            sys.executable,
            "-m",
            "course_utils.endpoint.gateway",
            "backend",
            str(folder.parent),
        ]
        command += ["serve", folder.name, "--host", "127.0.0.1", "--port", str(self.port)]
        # In fp32 an answer does not depend on what else is in the batch; fp16 rounds too coarsely.
        command += ["--device", "cpu", "--dtype", "float32", "--log-level", "error"]
        if batching:
            # Left alone, its cache takes most of the memory; 32 blocks hold 8,192 tokens.
            command += ["--continuous-batching", "--cb-num-blocks", "32"]
            command += ["--cb-max-batch-tokens", "1024"]
        hidden = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN")
        environment = {k: v for k, v in os.environ.items() if k not in hidden}
        # So small a model is fastest on one thread, and leaves the GPU to the lesson.
        environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=environment, cwd=Path(__file__).parents[2]
        )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    async def warm_up(self, client: Any) -> None:
        """Wait for the answer to a first request, and be `ready` if it is a good one.

        It is a greedy request on purpose: with continuous batching `transformers serve` keeps the
        sampling settings of its first request for all that follow.
        """
        body: Json = {"model": self.model, "messages": [{"role": "user", "content": "Hi"}]}
        body |= {"temperature": 0, "max_completion_tokens": 1}
        while self.alive:
            try:
                answer = await client.post(f"{self.base_url}/chat/completions", json=body)
            except http_library().TransportError:
                await asyncio.sleep(0.1)
            else:
                self.ready = answer.status_code == 200
                if not self.ready:
                    say(f"transformers serve answers {answer.status_code}: {answer.text[:200]}")
                return


class Local:
    """The bundled model behind two `transformers serve` processes, and which request goes where.

    Greedy requests (temperature 0 or none) go to the one that batches; it cannot sample as each
    request asks. Sampled ones go to the plain one, and so does everything while the other is not
    there.
    """

    def __init__(self, folder: Path) -> None:
        """Read what the model's files say."""
        self.folder, self.model, self.prompts = folder, folder.name, Prompts(folder)

    async def start(self, client: Any) -> None:
        """Start both, the plain one first, and end the gateway when that one ends."""
        say(LOADING)
        self.plain = Backend(self.folder, batching=False)
        await self.plain.warm_up(client)
        if self.plain.ready:
            say(READY)
            self.batching = Backend(self.folder, batching=True)
            warming = asyncio.create_task(self.batching.warm_up(client))
            while self.plain.alive:
                await asyncio.sleep(0.2)
            warming.cancel()
        if not self.plain.alive:
            say(f"transformers serve ended with exit code {self.plain.process.poll()}")
        os._exit(1)

    def route(self, path: str, body: Json) -> Backend:
        """Check a request's body, complete it, and choose who answers."""
        if body.get("model") != self.model:
            message = f"The model {body.get('model')!r} does not exist or you have no access to it."
            raise Refusal(404, "model_not_found", message)
        if path != "chat/completions":
            return self.plain
        room = self.prompts.context - self.prompts.count(body.get("messages"))
        if room < 1:
            message = f"This model's maximum context length is {self.prompts.context} tokens, and "
            message += f"your messages have {self.prompts.context - room}. Shorten them."
            raise Refusal(400, "context_length_exceeded", message)
        name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        most = number(body, name, 1, 1e9) or self.prompts.generation.get("max_new_tokens", room)
        # transformers before 5.23 knows only the older of the two names
        body["max_tokens"] = body["max_completion_tokens"] = int(min(most, room))
        if number(body, "temperature", 0, 2):
            # transformers samples only where its generation config says so
            sampling = {**self.prompts.generation, "do_sample": True, "top_k": 0}
            body["generation_config"] = json.dumps(sampling)
            return self.plain
        body["temperature"] = 0
        return self.batching if self.batching.ready and self.batching.alive else self.plain

    def models(self) -> Json:
        """The answer to `GET /v1/models`."""
        one = {"id": self.model, "object": "model", "created": 0, "owned_by": "open-llms-hands-on"}
        return {"object": "list", "data": [one]}


class Gateway:
    """The HTTP side: key, limit, passing on.

    `config` holds `key`, `requests_per_minute` (0: no limit), and either `folder` (a local model)
    or `upstream` and `upstream_key` (an API's address and its key).
    """

    def __init__(self, config: Json) -> None:
        """Prepare, without starting anything."""
        self.key: str = config["key"]
        limit = config.get("requests_per_minute")
        self.bucket = Bucket(limit) if limit else None
        self.local = Local(Path(config["folder"])) if config.get("folder") else None
        self.upstream = config.get("upstream", "").rstrip("/")
        self.upstream_key: str = config.get("upstream_key", "")

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Hold the HTTP client, and run the local model where there is one."""
        # The caller decides how long to wait. No proxy on the way to this machine's own ports.
        outside = not self.local and "://127.0.0.1" not in self.upstream
        async with http_library().AsyncClient(timeout=None, trust_env=outside) as self.client:
            if self.local:
                self.task = asyncio.create_task(self.local.start(self.client))
            else:
                say(READY)
            yield

    def check_key(self, request: Any) -> None:
        """Raise `Refusal` unless the request carries the key."""
        _, _, given = request.headers.get("authorization", "").partition(" ")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            raise Refusal(401, "invalid_api_key", "Incorrect API key provided.")

    async def handle(self, request: Any) -> Any:
        """Answer one request: refuse it, or pass it on."""
        from starlette.responses import JSONResponse

        try:
            self.check_key(request)
            left = self.bucket.take() if self.bucket else None
            path = request.path_params["path"]
            if self.local and path == "models":
                return JSONResponse(self.local.models())
            response = await self.forward(request, path, await read_body(request))
        except Refusal as no:
            shape = in_openais_shape(no.status, no.code, str(no))
            return JSONResponse(shape, no.status, headers=no.headers)
        if self.bucket and left is not None:
            response.headers["x-ratelimit-limit-requests"] = f"{self.bucket.limit:g}"
            response.headers["x-ratelimit-remaining-requests"] = str(left)
        return response

    async def forward(self, request: Any, path: str, content: bytes) -> Any:
        """Send the request on and hand back the answer, piece by piece as it comes."""
        from starlette.responses import Response, StreamingResponse

        backend, body = self.local.plain if self.local else None, {}
        if self.local and content:
            body = as_json(content)
            backend = self.local.route(path, body)
            content = json.dumps(body).encode()
        base_url = backend.base_url if backend else self.upstream
        headers = {k: v for k, v in request.headers.items() if k not in HOP_BY_HOP}
        headers.pop("authorization")
        if self.upstream_key:
            headers["authorization"] = f"Bearer {self.upstream_key}"
        sent = self.client.build_request(
            request.method, f"{base_url}/{path}", headers=headers, content=content
        )
        try:
            answer = await self.client.send(sent, stream=True)
        except http_library().TransportError as error:
            name = type(error).__name__
            raise Refusal(502, "bad_gateway", f"The model server did not answer: {name}") from None
        if backend and answer.status_code >= 400:
            # 503: its batching thread died. The plain one takes over, already for the retry.
            backend.ready = answer.status_code != 503
            raise await translated(answer)
        back = {k: v for k, v in answer.headers.items() if k not in HOP_BY_HOP}
        if self.local and not body.get("stream"):
            # transformers before 5.24 adds "@main" to the model's name
            told, own = await answer.aread(), self.local.model
            await answer.aclose()
            told = told.replace(f'"{own}@main"'.encode(), f'"{own}"'.encode())
            return Response(told, answer.status_code, back)
        return StreamingResponse(pieces(answer), answer.status_code, back)


async def pieces(answer: Any) -> AsyncIterator[bytes]:
    """The body of an answer as it comes; closed also where the client has gone away."""
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()


async def read_body(request: Any) -> bytes:
    """A request's body, up to `MAX_BODY_BYTES`."""
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > MAX_BODY_BYTES:
            message = (
                f"The request is larger than {MAX_BODY_BYTES:,} bytes. Send less text at once."
            )
            raise Refusal(413, "request_too_large", message)
    return content


def as_json(content: bytes) -> Json:
    """A body as a JSON object."""
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, "invalid_json", "The body of the request is not a JSON object.")
    return body


async def translated(answer: Any) -> Refusal:
    """An error of `transformers serve` as a refusal in OpenAI's shape."""
    content = await answer.aread()
    await answer.aclose()
    try:
        message = str(json.loads(content)["detail"])
    except (ValueError, KeyError, TypeError):
        message = content.decode("utf-8", "replace") or "no reason given"
    return Refusal(answer.status_code, "model_server", f"transformers serve: {message}")


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens on `host`, on `port` or (0) on any free one; says which."""
    listening = socket.socket()
    if sys.platform != "win32":
        # or a port just left would count as taken; on Windows the option means sharing a port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError:
        say(PORT_TAKEN)
        sys.exit(1)
    say(LISTENING + str(listening.getsockname()[1]))
    return listening


def serve_model(folder: str, arguments: list[str]) -> None:
    """Run `transformers ARGUMENTS` in `folder` until it ends or the parent does."""
    from importlib.metadata import entry_points

    end_with_parent()
    os.chdir(folder)
    sys.argv = ["transformers", *arguments]
    (command,) = entry_points(group="console_scripts", name="transformers")
    command.load()()


def main() -> None:
    """Read the settings from stdin and serve until stdin closes."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Route

    config = json.loads(sys.stdin.buffer.readline())
    end_with_parent()
    listening = listen(config.get("port", 0), config.get("host", "127.0.0.1"))
    gateway = Gateway(config)
    methods = ["GET", "POST", "DELETE"]
    routes = [Route("/v1/{path:path}", gateway.handle, methods=methods)]
    app = Starlette(routes=routes, lifespan=gateway.lifespan)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    server.run(sockets=[listening])


if __name__ == "__main__":
    if sys.argv[1:2] == ["backend"]:
        serve_model(sys.argv[2], sys.argv[3:])
    else:
        main()
