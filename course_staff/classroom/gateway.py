"""The class's gateway: lesson 01's own, with a key a learner, and somebody's account behind it.

The account is somebody's money and files. So beside what every gateway keeps to (two requests, one
model, headers from a short list), each request and each learner may only use so many tokens, and
nothing that costs extra. `course_staff.classroom.serving` starts it as a process.

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

import json
import math
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from course_staff.classroom import connections
from course_staff.classroom.account import Account
from course_staff.classroom.lending import Lending
from course_utils.endpoint import gateway
from course_utils.endpoint.bucket import Bucket
from course_utils.endpoint.refusals import Json, Refusal, as_object, wrong
from course_utils.endpoint.upstream import MOST_CONNECTIONS
from course_utils.endpoint.wishes import USUAL_MOST

USAGE = "used by each learner: "  # what the last line of the log begins with
# what costs extra, or leaves something in the account; values that do neither
FREE: dict[str, tuple[Any, ...]] = {
    "store": (False,),
    "service_tier": ("auto", "default", "flex"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
    # of routers and of vLLM: other models, searches, replies that nobody sees
    "models": (),
    "plugins": (),
    "best_of": (1,),
}
Count = Annotated[int, Field(ge=1)] | None


class Size(BaseModel):
    """How much a request asks for; its other parameters are for the server behind to read."""

    model_config = ConfigDict(strict=True, extra="ignore")
    max_tokens: Count = None
    max_completion_tokens: Count = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stream: bool | None = None


class ClassGateway(gateway.Gateway):
    """The gateway of a class.

    Its settings are `keys` (names with keys), `tokens_each` (of each learner) and `most_tokens`
    (of each request), beside those that `course_utils.endpoint.gateway` knows.
    """

    def __init__(self, config: Json) -> None:
        """Prepare, without loading anything."""
        super().__init__(gateway.behind(config, Account), "")
        limit, each = config.get("requests_per_minute", 0), config.get("tokens_each", 0)
        self.lending = Lending(config["keys"], limit, each)
        self.most, self.upstream = config.get("most_tokens", 0), config.get("upstream") or ""
        most = connections.raise_file_limit() - connections.SPARE - MOST_CONNECTIONS
        self.http = connections.guarded_protocol(max(32, most))

    async def admit(self, request: Any) -> Bucket | None:
        """The limit of the learner who holds the request's key; the learner is noted on it."""
        address = request.client.host if request.client else ""
        learner = await self.lending.learner(gateway.key_in(request), address)
        request.state.learner = learner
        return learner.bucket

    async def described(self) -> Json:
        """The model that answers, as its own API shows it where it does."""
        found = await self.back.described() if isinstance(self.back, Account) else None
        return found or await super().described()

    async def complete(self, body: Json, request: Any) -> Any:
        """The response to a chat request; the learner's share is looked at before and after."""
        from starlette.requests import ClientDisconnect

        learner = request.state.learner
        prompt = len(json.dumps(body)) // 4  # about so many tokens, where no answer says it
        most = prompt + self.bounded(body)
        learner.hold(most)
        used, whole = 0, True
        try:
            response = await super().complete(body, request)
            whole = not body.get("stream")
            if whole:
                used = counted_tokens(response.body) or len(response.body) // 4
            else:
                spent = partial(learner.settle, most)
                response.body_iterator = counted(response.body_iterator, spent, prompt)
            return response
        except ClientDisconnect:  # the account pays nevertheless
            used = prompt
            raise
        finally:
            if whole:
                learner.settle(most, used)

    def bounded(self, body: Json) -> int:
        """Bound what one request may cost; how many tokens its replies may have.

        Raises:
            Refusal: it asks for more than the bound, or for what costs extra.
        """
        for name, values in FREE.items() if self.upstream else ():
            if body.get(name) is not None and body[name] not in values:
                message = f"`{name}` is switched off here: it would cost the account extra."
                raise Refusal(400, "unsupported_parameter", message, name)
        try:
            size = Size.model_validate(body)
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            raise wrong(name, f"`{name}`: {error.errors()[0]['msg']}.") from None
        names = [name for name in ("max_completion_tokens", "max_tokens") if body.get(name)]
        choices, each = size.n or 1, max((body[name] for name in names), default=0)
        if not self.most:
            here = getattr(self.back, "prompts", None)  # a model on this machine, once loaded
            return choices * int(min(each or USUAL_MOST, here.context if here else math.inf))
        allowed = self.most // choices
        if not each:
            # OpenAI's reasoning models know only the newer name, many other servers the older
            newer = "api.openai.com" in self.upstream
            body["max_completion_tokens" if newer else "max_tokens"] = each = allowed
        if each > allowed:
            message = f"`{names[-1]}`: replies of {self.most} tokens a request are allowed here."
            raise wrong(names[-1], message)
        return choices * each

    def at_end(self) -> None:
        """Say what each learner used."""
        print(USAGE + json.dumps(self.lending.usage()), flush=True)


async def counted(
    pieces: AsyncIterator[Any], spent: Callable[[int], None], prompt: int
) -> AsyncIterator[Any]:
    """A stream as it is; at its end `spent` is told its tokens, or the prompt's and its events."""
    used, rest = prompt, b""
    try:
        async for piece in pieces:
            yield piece
            rest += piece.encode() if isinstance(piece, str) else piece
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if (event := line.removeprefix(b"data:").lstrip()).startswith(b"{"):
                    used = counted_tokens(event) or used + 1
    finally:
        spent(used)
        await pieces.aclose()  # type: ignore[attr-defined]


def counted_tokens(content: bytes) -> int:
    """The tokens that an answer says it took; 0 where it does not say."""
    usage = (as_object(content) or {}).get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else 0
    return total if isinstance(total, int) else 0


if __name__ == "__main__":
    gateway.main(ClassGateway)
