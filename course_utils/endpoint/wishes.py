"""What a request to `/v1/chat/completions` asks for, checked: every parameter is done or refused.

Names and ranges are those of OpenAI's API reference for Chat Completions; pydantic holds a request
against them. A parameter that this server does not know, or knows and cannot do, is a 400 that
names it; none is ignored. It knows neither HTTP nor models.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from course_utils.endpoint.refusals import Json, Refusal, wrong

USUAL_MOST = 512  # tokens of a reply where neither request nor model says a number
Penalty = Annotated[float, Field(ge=-2, le=2)] | None
Count = Annotated[int, Field(ge=1)] | None
Text = Annotated[str, Field(min_length=1)]
TokenId = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Nothing = Annotated[list[Any], Field(max_length=0)] | None
ONE_IN_A_LIST = BeforeValidator(lambda given: [given] if isinstance(given, str) else given)


class Strict(BaseModel):
    """Nothing is converted, nothing unknown is let through."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")


class StreamOptions(Strict):
    """How a stream ends."""

    include_usage: bool | None = None


class Named(Strict):
    """A JSON schema with its name. The name and the description change no reply here."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    of: Json = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None


class Format(Strict):
    """What the reply must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Named | None = None

    @model_validator(mode="after")
    def whole(self) -> "Format":
        """A schema belongs to the type `json_schema`, and only to that."""
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("`json_schema` and the type json_schema belong together")
        return self

    def schema_asked(self) -> Json | None:
        """The JSON schema that the reply must fit; None for any text."""
        if self.json_schema:
            return self.json_schema.of
        return {"type": "object"} if self.type == "json_object" else None


class Unsupported(Strict):
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

    model: Any = None
    messages: Any = None
    max_tokens: Count = None
    max_completion_tokens: Count = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    stop: Annotated[list[Text], Field(max_length=4), ONE_IN_A_LIST] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: Format | None = None

    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None


class Wish(Asked):
    """A request whose gaps are filled.

    Attributes:
        most: how many tokens a reply may have.
        temperature: 0 for the most probable token each time.
        top_k: only so many of the most probable tokens; 0 for all.
        schema_asked: the JSON schema that a reply must fit; None for any text.
    """

    n: int
    most: int
    temperature: float
    top_p: float
    top_k: int
    stop: list[str]
    schema_asked: Json | None


def read(body: Json) -> Asked:
    """A request with every parameter in its range.

    Raises:
        Refusal: with the name of the first parameter that is unknown, or cannot be.
    """
    for name in body:
        if name not in Asked.model_fields:
            # escaped: a name may hold what no answer can carry
            shown = name.encode("ascii", "backslashreplace").decode()[:100]
            message = f"Unknown parameter: `{shown}`. It would be ignored, so leave it out."
            raise Refusal(400, "unknown_parameter", message, shown)
    try:
        asked = Asked.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        name = str(first["loc"][0])
        if name in Unsupported.model_fields:
            message = f"`{name}` is not supported by this server. Leave it out."
            raise Refusal(400, "unsupported_parameter", message, name) from None
        raise wrong(name, f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}.") from None
    if asked.max_tokens and asked.max_completion_tokens:
        message = "`max_tokens` is the older name of `max_completion_tokens`. Give one of them."
        raise wrong("max_tokens", message)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise wrong("top_logprobs", "`top_logprobs` needs `logprobs` to be true.")
    if asked.stream_options and not asked.stream:
        raise wrong("stream_options", "`stream_options` needs `stream` to be true.")
    return asked


def wished(body: Json, room: int, usual: Json, vocabulary: int) -> Wish:
    """The wish in a request.

    Args:
        body: the request; its model and messages are looked at elsewhere.
        room: how many tokens the model's context has left after the prompt.
        usual: the model's own generation settings, for what the request leaves out.
        vocabulary: how many token ids there are.

    Raises:
        Refusal: a parameter is unknown, out of range or cannot be done.
    """
    asked = read(body)
    if max(map(int, asked.logit_bias or {}), default=0) >= vocabulary:
        raise wrong("logit_bias", f"`logit_bias`: this model's token ids end at {vocabulary - 1}.")
    most = asked.max_completion_tokens or asked.max_tokens or usual.get("max_new_tokens")
    chance: Json = {"temperature": asked.temperature, "top_p": asked.top_p}
    if not any(given is not None for given in chance.values()):
        # the model's own settings, where the request names none
        sampled = usual if usual.get("do_sample") else {"temperature": 0.0}
        chance = {name: sampled.get(name) for name in ("temperature", "top_p", "top_k")}
    usually = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    filled = {
        "n": asked.n or 1,
        "most": min(most or USUAL_MOST, room),
        "stop": asked.stop or [],
        "schema_asked": asked.response_format and asked.response_format.schema_asked(),
        **usually,
        **{name: value for name, value in chance.items() if value is not None},
    }
    return Wish.model_construct(**{**dict(asked), **filled})
