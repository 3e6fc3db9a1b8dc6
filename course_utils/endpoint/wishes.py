"""What a request to `/v1/chat/completions` asks for, checked: every parameter is done or refused.

The names and ranges are those of OpenAI's API reference for Chat Completions. A parameter that
this server does not know, or knows and cannot do, is a 400 that names it; none is ignored. It
knows neither HTTP nor models.
"""

from dataclasses import dataclass, field
from typing import Any

from course_utils.endpoint.refusals import Json, Refusal, wrong

MOST_CHOICES = 16
MOST_STOPS = 4
# change nothing about the reply, so that taking them is no lie
HARMLESS = {"user", "safety_identifier", "prompt_cache_key", "metadata"}
# known, and done only in so far as they ask for nothing: these values, or null
ONLY: dict[str, tuple[Any, ...]] = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "modalities": (["text"],),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "function_call": ("none",),
    "parallel_tool_calls": (),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
}
DONE = {"model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens"}
DONE |= {"stop", "seed", "n", "logprobs", "top_logprobs", "stream", "stream_options"}
DONE |= {"response_format", "presence_penalty", "frequency_penalty", "logit_bias"}


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


def known(body: Json) -> None:
    """Raise `Refusal` for a parameter that is unknown or cannot be done."""
    for name, value in body.items():
        if name in ONLY:
            if value is not None and value not in ONLY[name]:
                message = f"`{name}` is not supported by this server. Leave it out."
                raise Refusal(400, "unsupported_parameter", message, name)
        elif name in HARMLESS:
            if value is not None and not isinstance(value, dict if name == "metadata" else str):
                kind = "an object" if name == "metadata" else "a string"
                raise wrong(name, f"`{name}` must be {kind}.")
        elif name not in DONE:
            # escaped: a name may hold what no answer can carry
            shown = name.encode("ascii", "backslashreplace").decode()[:100]
            message = f"Unknown parameter: `{shown}`. It would be ignored, so leave it out."
            raise Refusal(400, "unknown_parameter", message, shown)


def number(body: Json, name: str, low: float, high: float) -> float | None:
    """The number under `name`, or None where there is none."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise wrong(name, f"`{name}` must be a number from {low:g} to {high:g}.")
    return float(value)


def whole(body: Json, name: str, low: int, high: int) -> int | None:
    """The whole number under `name`, or None where there is none."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong(name, f"`{name}` must be a whole number from {low} to {high}.")
    return value


def flag(body: Json, name: str) -> bool:
    """Whether `name` is set."""
    value = body.get(name)
    if (
        value not in (None, True, False)
        or isinstance(value, int | float)
        and value is not bool(value)
    ):
        raise wrong(name, f"`{name}` must be true or false.")
    return bool(value)


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
    known(body)
    most = most_tokens(body) or min(usual.get("max_new_tokens") or 512, room)
    wish: Json = {"most": min(most, room), "stop": stops(body), "bias": bias(body, vocabulary)}
    wish |= sampling(body, usual)
    wish["seed"] = whole(body, "seed", -(2**63), 2**63 - 1)
    wish["n"] = whole(body, "n", 1, MOST_CHOICES) or 1
    wish["presence"] = number(body, "presence_penalty", -2, 2) or 0.0
    wish["frequency"] = number(body, "frequency_penalty", -2, 2) or 0.0
    wish["json"] = json_wanted(body)
    beside = whole(body, "top_logprobs", 0, 20)
    if flag(body, "logprobs"):
        wish["logprobs"] = min(beside or 0, vocabulary)
    elif beside is not None:
        raise wrong("top_logprobs", "`top_logprobs` needs `logprobs` to be true.")
    wish["stream"] = flag(body, "stream")
    wish["usage"] = usage_wanted(body, wish["stream"])
    return Wish(**wish)


def most_tokens(body: Json) -> int | None:
    """How many tokens a reply may have, under the newer name or the older one."""
    names = ("max_completion_tokens", "max_tokens")
    newer, older = (whole(body, name, 1, 10**9) for name in names)
    if newer is not None and older is not None:
        message = "`max_tokens` is the older name of `max_completion_tokens`. Give one of them."
        raise wrong("max_tokens", message)
    return newer if newer is not None else older


def sampling(body: Json, usual: Json) -> Json:
    """Temperature, top_p and top_k: the request's, or the model's own where it names neither."""
    temperature = number(body, "temperature", 0, 2)
    top_p = number(body, "top_p", 0, 1)
    if temperature is None and top_p is None:
        if not usual.get("do_sample"):
            return {}
        own = {name: usual.get(name) for name in ("temperature", "top_p", "top_k")}
        return {"temperature": 1.0} | {name: v for name, v in own.items() if v is not None}
    return {
        "temperature": 1.0 if temperature is None else temperature,
        "top_p": 1.0 if top_p is None else top_p,
    }


def stops(body: Json) -> tuple[str, ...]:
    """The texts that end a reply."""
    value = body.get("stop")
    found = [] if value is None else [value] if isinstance(value, str) else value
    fine = isinstance(found, list) and all(isinstance(text, str) and text for text in found)
    if not fine or len(found) > MOST_STOPS:
        raise wrong("stop", f"`stop` must be a text or a list of at most {MOST_STOPS} texts.")
    return tuple(found)


def bias(body: Json, vocabulary: int) -> dict[int, float]:
    """What the logits of tokens gain, by token id."""
    value = body.get("logit_bias")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong("logit_bias", "`logit_bias` must be an object: token ids with numbers.")
    found = {}
    for key in value:
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < vocabulary):
            raise wrong("logit_bias", f'`logit_bias`: ids are "0" to "{vocabulary - 1}".')
        gain = value[key]
        good = isinstance(gain, int | float) and not isinstance(gain, bool) and -100 <= gain <= 100
        if not good:
            raise wrong("logit_bias", "`logit_bias`: each number is from -100 to 100.")
        found[int(key)] = float(gain)
    return found


def json_wanted(body: Json) -> bool:
    """Whether the reply must be JSON."""
    value = body.get("response_format")
    kind = value.get("type") if isinstance(value, dict) else None if value is None else ""
    if kind == "json_schema":
        message = "`response_format` of type json_schema is not supported by this server. "
        message += "It can do json_object; vLLM, llama.cpp and OpenAI can do both."
        raise Refusal(400, "unsupported_value", message, "response_format")
    if value is not None and value not in ({"type": "text"}, {"type": "json_object"}):
        message = '`response_format` must be {"type": "text"} or {"type": "json_object"}.'
        raise wrong("response_format", message)
    return kind == "json_object"


def usage_wanted(body: Json, stream: bool) -> bool:
    """Whether a stream ends with a count of its tokens."""
    value = body.get("stream_options")
    if value is None:
        return False
    if not stream or not isinstance(value, dict) or value.keys() - {"include_usage"}:
        message = '`stream_options` can be {"include_usage": true}, where `stream` is true.'
        raise wrong("stream_options", message)
    try:
        return flag(value, "include_usage")
    except Refusal:
        raise wrong("stream_options", "`include_usage` must be true or false.") from None
