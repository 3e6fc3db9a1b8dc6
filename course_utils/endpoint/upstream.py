"""Another OpenAI-compatible API behind the gateway, by its address: one model of it.

What it answers, errors included, is passed on as it is. It knows nothing of keys that learners
hold.
"""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from course_utils.endpoint.refusals import Json, Refusal, wrong

# of an answer's headers; none else passes
BACK = ("content-type", "retry-after", "retry-after-ms", "x-should-retry", "x-request-id")
MOST_CONNECTIONS = 100


def http_library() -> Any:
    """The HTTP client that came with openai: httpx2 with 3.x, httpx with 2.x. Same interface."""
    try:
        import httpx2 as httpx
    except ImportError:
        import httpx  # type: ignore[no-redef]
    return httpx


class Upstream:
    """One model of the API at `address`, asked with `key`."""

    def __init__(self, address: str, key: str, model: str) -> None:
        """Prepare; the first request connects."""
        self.address, self.model = address.rstrip("/"), model
        httpx = http_library()
        self.client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {key}", "accept-encoding": "identity"},
            # the caller decides how long to wait; no proxy on the way to this machine's own ports
            timeout=httpx.Timeout(None, connect=10),
            trust_env=urlsplit(self.address).hostname not in ("127.0.0.1", "localhost"),
            limits=httpx.Limits(max_connections=MOST_CONNECTIONS),
        )

    async def complete(self, body: Json) -> Any:
        """The response to a chat request.

        Raises:
            Refusal: the API does not answer.
        """
        from starlette.responses import Response, StreamingResponse

        answer = await self.send("POST", "chat/completions", {**body, "model": self.model})
        back = {name: answer.headers[name] for name in BACK if name in answer.headers}
        if body.get("stream"):
            return StreamingResponse(passed_on(answer), answer.status_code, back)
        return Response(await whole(answer), answer.status_code, back)

    async def send(self, method: str, path: str, body: Json | None = None) -> Any:
        """Ask the API; its answer, whose body is still to be read.

        Raises:
            Refusal: it does not answer, or the body cannot be sent.
        """
        content = None if body is None else as_json(body)
        kind = {"content-type": "application/json"} if body is not None else {}
        url = f"{self.address}/{path}"
        sent = self.client.build_request(method, url, content=content, headers=kind)
        try:
            return await self.client.send(sent, stream=True)
        except http_library().HTTPError as error:
            raise broken(error) from None


def as_json(body: Json) -> str:
    """A request's body to send: escaped, so that half a character is the API's to refuse.

    Raises:
        Refusal: it holds a number that JSON does not know.
    """
    for name, value in body.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise wrong(name, f"`{name}` holds NaN or infinity, no number of JSON.") from None
    return json.dumps(body)


async def whole(answer: Any) -> bytes:
    """The body of an answer.

    Raises:
        Refusal: it breaks off.
    """
    try:
        return await answer.aread()
    except http_library().HTTPError as error:
        raise broken(error) from None


async def passed_on(answer: Any) -> AsyncIterator[bytes]:
    """The body of a stream as it comes; closed also where the client has gone away."""
    try:
        async for piece in answer.aiter_bytes():
            yield piece
    except http_library().HTTPError as error:
        yield f"data: {json.dumps(broken(error).body())}\n\n".encode()
    finally:
        await answer.aclose()


def broken(error: Exception) -> Refusal:
    """No answer, or one that broke off."""
    message = f"The model server did not answer, or broke off: {type(error).__name__}"
    return Refusal(502, "bad_gateway", message)
