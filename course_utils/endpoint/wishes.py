"""What a request to `/v1/chat/completions` asks for, checked: every parameter is done or refused.

Names and ranges are those of OpenAI's API reference for Chat Completions; pydantic holds a request
against them. A parameter that this server does not know, or knows and cannot do, is a 400 that
names it; none is ignored. It knows neither HTTP nor models.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from course_utils.endpoint.refusals import Json, Refusal, wrong

USUAL_MOST = 512  # tokens of a reply where neither request nor model says a number
Penalty = Annotated[float, Field(ge=-2, le=2)] | None
Text = Annotated[str, Field(min_length=1)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Nothing = Annotated[list[Any], Field(max_length=0)] | None


class Size(BaseModel):
    """How much a request asks for; of a request whose other parameters another server reads."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    stream: bool | None = None

    def most(self) -> int | None:
        """How many tokens a reply may have, under the newer name or the older one."""
        if self.max_tokens and self.max_completion_tokens:
            message = "`max_tokens` is the older name of `max_completion_tokens`. Give one of them."
            raise wrong("max_tokens", message)
        return self.max_completion_tokens or self.max_tokens


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = None


class Format(BaseModel):
    """What the reply must be."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text", "json_object"]


class Unsupported(Size):
    """What OpenAI's API knows and this server cannot do: only values that ask for nothing."""

    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    modalities: list[Literal["text"]] | None = None
    tools: Nothing = None
    functions: Nothing = None
    tool_choice: Literal["none"] | None = None
    function_call: Literal["none"] | None = None
    reasoning_effort: Literal["none"] | None = None
    parallel_tool_calls: None = None
    audio: None = None
    prediction: None = None
    verbosity: None = None
    web_search_options: None = None


class Asked(Unsupported):
    """All that a request may hold here: first what is done, then what changes no reply."""

    model_config = ConfigDict(extra="forbid")
    model: Any = None
    messages: Any = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: Text | Annotated[list[Text], Field(max_length=4)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream_options: StreamOptions | None = None
    response_format: Format | None = None

    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None


Body = TypeVar("Body", bound=Size)


@dataclass(frozen=True)
class Wish:
    """How the replies to one request shall be made.

    Attributes:
        most: how many tokens a reply may have.
        temperature: 0 for the most probable token each time.
        top_p: only the most probable tokens that make up this probability together.
        top_k: only so many of the most probable tokens; 0 for all.
        seed: where chance starts; None for anywhere.
        n: how many replies.
        stop: texts that end a reply and are not part of it.
        presence, frequency: what a token loses once, or each time, it was said.
        bias: what a token's logit gains, by its id.
        logprobs: how many alternatives to report beside each token; None for no report.
        json: whether the reply must be a JSON object.
        stream, usage: whether it comes in pieces, and whether the last one counts the tokens.
    """

    most: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    presence: float = 0.0
    frequency: float = 0.0
    bias: dict[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    json: bool = False
    stream: bool = False
    usage: bool = False


def read(kind: type[Body], body: Json) -> Body:
    """A request as `kind`.

    Raises:
        Refusal: with the name of the first parameter that is unknown, or cannot be.
    """
    for name in body if kind is Asked else ():
        if name not in kind.model_fields:
            # escaped: a name may hold what no answer can carry
            shown = name.encode("ascii", "backslashreplace").decode()[:100]
            message = f"Unknown parameter: `{shown}`. It would be ignored, so leave it out."
            raise Refusal(400, "unknown_parameter", message, shown)
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(first["loc"][0])
        if kind is Asked and name in Unsupported.__annotations__:
            message = f"`{name}` is not supported by this server. Leave it out."
            raise Refusal(400, "unsupported_parameter", message, name) from None
        raise wrong(name, f"`{name}`: {first['msg']}.") from None


def asked(body: Json, room: int, usual: Json, vocabulary: int) -> Wish:
    """The wish in a request.

    Args:
        body: the request; its model and messages are looked at elsewhere.
        room: how many tokens the model's context has left after the prompt.
        usual: the model's own generation settings, for what the request leaves out.
        vocabulary: how many token ids there are.

    Raises:
        Refusal: a parameter is unknown, out of range or cannot be done.
    """
    request = read(Asked, body)
    bias = {int(token): gain for token, gain in (request.logit_bias or {}).items()}
    if max(bias, default=0) >= vocabulary:
        raise wrong("logit_bias", f"`logit_bias`: this model's token ids end at {vocabulary - 1}.")
    if request.top_logprobs is not None and not request.logprobs:
        raise wrong("top_logprobs", "`top_logprobs` needs `logprobs` to be true.")
    if request.stream_options and not request.stream:
        raise wrong("stream_options", "`stream_options` needs `stream` to be true.")
    stop = request.stop or []
    return Wish(
        most=min(request.most() or usual.get("max_new_tokens") or USUAL_MOST, room),
        seed=request.seed,
        n=request.n or 1,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        presence=request.presence_penalty or 0.0,
        frequency=request.frequency_penalty or 0.0,
        bias=bias,
        logprobs=min(request.top_logprobs or 0, vocabulary) if request.logprobs else None,
        json=request.response_format == Format(type="json_object"),
        stream=bool(request.stream),
        usage=bool(request.stream_options and request.stream_options.include_usage),
        **chance(request, usual),
    )


def chance(request: Asked, usual: Json) -> Json:
    """Temperature, top_p and top_k: the request's, or the model's own where it names neither."""
    given = {"temperature": request.temperature, "top_p": request.top_p}
    if given == {"temperature": None, "top_p": None}:
        if not usual.get("do_sample"):
            return {}
        given = {name: usual.get(name) for name in ("temperature", "top_p", "top_k")}
    return {"temperature": 1.0} | {name: v for name, v in given.items() if v is not None}
