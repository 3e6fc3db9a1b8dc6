"""Another OpenAI-compatible API behind the gateway, by its address: one model of it, and no more.

The account behind the key is somebody's money and files. So two requests go there, with headers
from a short list both ways, no cookies and no redirects, for the chosen model, and with a bound on
the tokens of a reply. It knows nothing of keys that learners hold.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

from course_utils.endpoint.refusals import ClientGone, Json, Refusal, wrong
from course_utils.endpoint.wishes import Size, read

BACK = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id")
MOST_CONNECTIONS = 100
# what costs extra, or leaves something in the account; values that do neither
FREE: dict[str, tuple[Any, ...]] = {
    "store": (False,),
    "service_tier": ("auto", "default", "flex"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}


def http_library() -> Any:
    """The HTTP client that came with openai: httpx2 with 3.x, httpx with 2.x. Same interface."""
    try:
        import httpx2 as httpx
    except ImportError:
        import httpx  # type: ignore[no-redef]
    return httpx


class Upstream:
    """One model of the API at `address`, asked with `key`."""

    def __init__(self, address: str, key: str, model: str, most: int) -> None:
        """`most`: how many tokens one request's replies may have together; 0 for no bound."""
        self.address, self.model, self.most = address.rstrip("/"), model, most
        httpx = http_library()
        headers = {"authorization": f"Bearer {key}", "accept-encoding": "identity"}
        self.client = httpx.AsyncClient(
            headers=headers,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            # the caller decides how long to wait; no proxy on the way to this machine's own ports
            timeout=httpx.Timeout(None, connect=10),
            trust_env=urlsplit(self.address).hostname not in ("127.0.0.1", "localhost"),
            limits=httpx.Limits(max_connections=MOST_CONNECTIONS),
        )

    async def models(self) -> Json:
        """The chosen model as the API shows it."""
        told = await self.send("GET", "models")
        listed = as_object(await told.aread()).get("data")
        for one in listed if isinstance(listed, list) else []:
            if isinstance(one, dict) and one.get("id") == self.model:
                return one
        return {"id": self.model, "object": "model", "created": 0, "owned_by": "upstream"}

    async def complete(self, body: Json, learner: Any, gone: Callable[[], Any]) -> Any:
        """The response to a chat request; arguments as for `Local.complete`."""
        from starlette.responses import Response, StreamingResponse

        body = {**body, "model": self.model}
        most = len(json.dumps(body)) // 4 + self.bounded(body)
        learner.hold(most)
        used, streaming = 0, False
        try:
            answer = await unless_gone(self.send("POST", "chat/completions", body), gone)
            back = {name: answer.headers[name] for name in BACK if name in answer.headers}
            streaming = bool(body.get("stream"))
            if streaming:
                pieces = passed_on(answer, lambda counted: learner.settle(most, counted))
                return StreamingResponse(pieces, answer.status_code, back)
            content = await unless_gone(answer.aread(), gone)
            used = counted_tokens(as_object(content)) or len(content) // 4
            return Response(content, answer.status_code, back)
        finally:
            if not streaming:
                learner.settle(most, used)

    def bounded(self, body: Json) -> int:
        """Bound what one request may cost; how many tokens its replies may have.

        Raises:
            Refusal: it asks for more than the bound, or for what costs extra.
        """
        for name, values in FREE.items():
            if body.get(name) is not None and body[name] not in values:
                message = f"`{name}` is switched off here: it would cost the account extra."
                raise Refusal(400, "unsupported_parameter", message, name)
        size = read(Size, body)
        choices, each = size.n or 1, size.most()
        if not self.most:
            return choices * (each or 0)
        allowed = self.most // choices
        if each is None:
            # OpenAI's reasoning models know only the newer name, many other servers the older
            newer = "api.openai.com" in self.address
            body["max_completion_tokens" if newer else "max_tokens"] = each = allowed
        if each > allowed:
            name = "max_tokens" if body.get("max_tokens") else "max_completion_tokens"
            raise wrong(
                name, f"`{name}`: replies of {self.most} tokens a request are allowed here."
            )
        return choices * each

    async def send(self, method: str, path: str, body: Json | None = None) -> Any:
        """Ask the API; its answer, whose body is still to be read.

        Raises:
            Refusal: it refuses, does not answer, or answers something else.
        """
        sent = self.client.build_request(method, f"{self.address}/{path}", json=body)
        try:
            answer = await self.client.send(sent, stream=True)
        except http_library().HTTPError as error:
            name = type(error).__name__
            raise Refusal(502, "bad_gateway", f"The model server did not answer: {name}") from None
        if answer.status_code >= 300:
            raise await translated(answer)
        return answer


async def unless_gone(work: Any, gone: Callable[[], Any]) -> Any:
    """The result of `work`, which is given up as soon as the client has gone away."""
    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        watch.cancel()


async def passed_on(answer: Any, spent: Callable[[int], None]) -> AsyncIterator[bytes]:
    """The body of a stream as it comes; closed also where the client has gone away."""
    counted, rest = 0, b""
    try:
        async for piece in answer.aiter_bytes():
            yield piece
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data: {"):
                    counted = counted_tokens(as_object(line[6:])) or counted + 1
    except http_library().HTTPError as error:
        yield f"data: {json.dumps(broken(error).body())}\n\n".encode()
    finally:
        spent(counted)
        await answer.aclose()


def broken(error: Exception) -> Refusal:
    """An answer that broke off."""
    return Refusal(502, "bad_gateway", f"The model server broke off: {type(error).__name__}")


def as_object(content: bytes) -> Json:
    """A body as a JSON object; empty where it is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def counted_tokens(body: Json) -> int:
    """The tokens that an answer says it took; 0 where it does not say."""
    usage = body.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else 0
    return total if isinstance(total, int) else 0


async def translated(answer: Any) -> Refusal:
    """An error of the API as a refusal, without what is the account's own business."""
    status = answer.status_code
    content = await answer.aread()
    if status < 400:
        message = "The model server answers with a redirect. Its address must be the final one."
        return Refusal(502, "bad_gateway", message)
    if status in (401, 403):
        message = "The server behind this one refuses its key. Tell whoever started it."
        return Refusal(502, "bad_gateway", message)
    told = as_object(content).get("error")
    told = told if isinstance(told, dict) else {"message": told or as_object(content).get("detail")}
    message = str(told.get("message") or content.decode("utf-8", "replace")[:200] or "no reason")
    headers = {k.replace("-", "_"): answer.headers[k] for k in BACK[1:] if k in answer.headers}
    code, param = (told.get(name) for name in ("code", "param"))
    return Refusal(status, str(code or "upstream"), message, param and str(param), **headers)
