"""Somebody's account behind the class's gateway: one model of it, and nothing else.

No cookies, no redirects, and no word of the account's own business in an error. It knows nothing of
keys that learners hold.
"""

from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

from course_utils.endpoint.refusals import Json, Refusal, as_object
from course_utils.endpoint.upstream import BACK, Upstream, whole


class Account(Upstream):
    """One model of an account."""

    def __init__(self, address: str, key: str, model: str) -> None:
        """Prepare; no cookie passes from one learner's request to another's."""
        super().__init__(address, key, model)
        self.client.cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))

    async def described(self) -> Json | None:
        """The chosen model as the API lists it; None where it does not."""
        told = as_object(await whole(await self.send("GET", "models"))) or {}
        listed = told.get("data")
        listed = listed if isinstance(listed, list) else []
        return next((m for m in listed if isinstance(m, dict) and m.get("id") == self.model), None)

    async def send(self, method: str, path: str, body: Json | None = None) -> Any:
        """Ask the API; its answer, whose body is still to be read.

        Raises:
            Refusal: it refuses, does not answer, or answers something else.
        """
        answer = await super().send(method, path, body)
        if answer.status_code >= 300:
            raise await translated(answer)
        return answer


async def translated(answer: Any) -> Refusal:
    """An error of the API as a refusal, without what is the account's own business."""
    status, content = answer.status_code, await whole(answer)
    if status < 400:
        message = "The model server answers with a redirect. Its address must be the final one."
        return Refusal(502, "bad_gateway", message)
    if status in (401, 403):
        message = "The server behind this one refuses its key. Tell whoever started it."
        return Refusal(502, "bad_gateway", message)
    said = as_object(content) or {}
    told = said.get("error")
    told = told if isinstance(told, dict) else {"message": told or said.get("detail")}
    message = str(told.get("message") or content.decode("utf-8", "replace")[:200] or "no reason")
    headers = {k.replace("-", "_"): answer.headers[k] for k in BACK[1:] if k in answer.headers}
    code, param = (told.get(name) for name in ("code", "param"))
    return Refusal(status, str(code or "upstream"), message, param and str(param), **headers)
