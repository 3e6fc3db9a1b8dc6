"""JSON in and out, and how a request is turned down: a status, and the body OpenAI would send.

It knows nothing of models.
"""

import json
from typing import Any

Json = dict[str, Any]


class Refusal(Exception):
    """A request that is turned down.

    Attributes:
        status: the HTTP status.
        code: OpenAI's word for what is wrong.
        param: the parameter it is about, where it is about one.
        headers: what goes out beside it, like `Retry-After`.
    """

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, **headers: str
    ) -> None:
        """Keep what the gateway makes a response of."""
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    def body(self) -> Json:
        """The error as OpenAI's API sends it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        told = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return {"error": told}


def wrong(param: str, message: str) -> Refusal:
    """A 400 for a parameter whose value cannot be."""
    return Refusal(400, "invalid_value", message, param)


def busy(message: str, seconds: int = 2) -> Refusal:
    """A 503 for now; clients wait as `Retry-After` says and ask again."""
    return Refusal(503, "overloaded", message, Retry_After=str(seconds))


def as_object(content: bytes) -> Json | None:
    """A body as a JSON object; None where it is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def requested(content: bytes) -> Json:
    """A request's body as a JSON object.

    Raises:
        Refusal: it is none, or says one thing twice.
    """
    try:
        found = json.loads(content, object_pairs_hook=once)
        reason = "" if isinstance(found, dict) else f"it is of type {type(found).__name__}"
    except (ValueError, RecursionError) as error:
        found, reason = {}, str(error)[:200]
    if reason:
        message = f"The body of the request is not a JSON object: {reason}."
        raise Refusal(400, "invalid_json", message)
    return found


def once(pairs: list[tuple[str, Any]]) -> Json:
    """An object of JSON, in which no name stands twice: one of the values would be ignored."""
    found: Json = {}
    for name, value in pairs:
        if name in found:
            raise wrong(name, f"`{name}` is given twice in one object.")
        found[name] = value
    return found


def as_response(body: Json, status: int = 200) -> Any:
    """An HTTP response with a JSON body."""
    from starlette.responses import Response

    # escaped, unlike JSONResponse: half a character somewhere must not break the answer
    return Response(json.dumps(body), status, media_type="application/json")
