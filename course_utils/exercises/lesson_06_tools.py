"""Lesson 06, second half: exercises on tools, and questions on files, servers and tools."""

import json
from collections.abc import Callable
from typing import Any

from course_utils.checks import Exercise, Question, Wrong

TOOLS: dict[str, dict[str, Any]] = {
    "count_reviews": {
        "type": "object",
        "properties": {"word": {"type": "string"}},
        "required": ["word"],
        "additionalProperties": False,
    },
    "multiply": {
        "type": "object",
        "properties": {"a": {"type": "number"}, "b": {"type": "number"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}
ADD = {
    "type": "object",
    "properties": {"first": {"type": "integer"}},
    "required": ["first"],
    "additionalProperties": False,
}
# a call -> what is wrong with it; None where it must be allowed
CALLS: tuple[tuple[Any, str | None], ...] = (
    ({"name": "count_reviews", "arguments": {"word": "soup"}}, None),
    ({"name": "multiply", "arguments": {"a": 3, "b": 4.5}}, None),
    ({"name": "delete_reviews", "arguments": {"word": "soup"}}, "a tool that is not there"),
    ({"name": "multiply", "arguments": {"word": "soup"}}, "the arguments of another tool"),
    ({"name": "count_reviews", "arguments": {"a": 3, "b": 4}}, "the arguments of another tool"),
    ({"name": "multiply", "arguments": {"a": 3}}, "a call without b"),
    ({"name": "multiply", "arguments": {"a": 3, "b": "four"}}, "a text where a number belongs"),
    ({"name": "count_reviews", "arguments": {}}, "a call without its word"),
    ({"name": "count_reviews"}, "a call without arguments"),
    ({"arguments": {"word": "soup"}}, "a call without a name"),
    ({"name": "multiply", "arguments": {"a": 3, "b": 4, "c": 5}}, "an argument too many"),
    ({"name": "multiply", "arguments": {"a": 3, "b": 4}, "why": "x"}, "something beside the call"),
    ("multiply", "a bare name"),
)


def _allows(matcher: Any, value: Any) -> bool:
    """Whether a grammar over bytes takes this value as JSON."""
    fresh = matcher.deep_copy()
    text = json.dumps(value).encode()
    return fresh.try_consume_tokens(list(text)) == len(text) and fresh.is_accepting()


def _matcher(schema: Any, asked: str) -> Any:
    """What follows a reply under this schema, byte by byte."""
    from llguidance import LLMatcher, LLTokenizer

    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError:
            raise Wrong(f"{asked} it returns a text that is no JSON: {schema[:60]!r}.") from None
    if not isinstance(schema, dict):
        raise Wrong(f"{asked} it returns {type(schema).__name__}; a schema is a dictionary.")
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema)
    except (TypeError, ValueError) as error:
        raise Wrong(f"{asked} what it returns is no JSON schema: {error}.") from None
    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    if matcher.is_error():
        raise Wrong(f"{asked} nothing can be written: {' '.join(matcher.get_error().split())}.")
    return matcher


def _call_schema(answer: Callable[[dict[str, Any]], Any]) -> str:
    """Tools' parameters by name -> a schema of which every call fits one tool."""
    given = json.loads(json.dumps(TOOLS))
    asked = f"For the tools {' and '.join(TOOLS)}"
    matcher = _matcher(answer(given), asked)
    if given != TOOLS:
        raise Wrong(f"{asked} it changes the tools that it was given. Build a new dictionary.")
    for call, wrong in CALLS:
        if wrong is None and not _allows(matcher, call):
            raise Wrong(f"{asked} it does not allow {json.dumps(call)}.")
        if wrong and _allows(matcher, call):
            raise Wrong(f"{asked} it allows {wrong}: {json.dumps(call)}.")
    matcher = _matcher(answer({"add": ADD}), "For a single tool, add,")
    if not _allows(matcher, {"name": "add", "arguments": {"first": 1}}):
        raise Wrong("For a single tool, add, it does not allow a call of it.")
    if _allows(matcher, {"name": "multiply", "arguments": {"a": 1, "b": 2}}):
        raise Wrong("For a single tool, add, it allows multiply: the names come from the tools.")
    return "Bounded by it, no model can call what is not there, or leave an argument out."


def _shelf(word: str) -> int:
    """A tool for the check: counts in a text that nobody can guess."""
    return ["soup", "tea", "soup", "salad", "soup", "tea"].count(word)


def _half(number: float) -> float:
    """A tool for the check: fails with text."""
    return number / 2


def _divide(a: float, b: float) -> float:
    """A tool for the check: fails with b = 0."""
    return a / b


def _said(result: Any, asked: str) -> str:
    """A message as text; anything else is wrong."""
    if not isinstance(result, str) or not result.strip():
        raise Wrong(
            f"{asked} it returns {result!r}; the model needs a text that says what is wrong."
        )
    return result


def _run_call(answer: Callable[[str, dict[str, Any]], Any]) -> str:
    """(call as JSON, tools by name) -> its result as text, or what is wrong as text."""
    tools = {"count": _shelf, "half": _half, "divide": _divide}
    for call, wanted in (
        ('{"name": "count", "arguments": {"word": "soup"}}', "3"),
        ('{"name": "count", "arguments": {"word": "cake"}}', "0"),
        ('{"arguments": {"b": 4, "a": 6}, "name": "divide"}', "1.5"),
    ):
        asked = f"For the call {call}"
        result = _tried(answer, call, tools, asked)
        if result is None:
            raise Wrong(f"{asked} it returns nothing. Is there a return for a call that works?")
        if str(result).strip() not in (wanted, f"{wanted}.0"):
            raise Wrong(f"{asked} it returns {result!r}; the tool itself gives {wanted}.")
    for call, must, what in (
        ('{"name": "delete", "arguments": {}}', "count", "the tools that there are"),
        ('{"name": "delete", "arguments": {}}', "delete", "the name that was called"),
        ('{"name": "count", "arguments": {"text": "soup"}}', "count", "the tool it was for"),
        ('{"name": "half", "arguments": {"number": "four"}}', "half", "the tool that failed"),
        ('{"name": "divide", "arguments": {"a": 1, "b": 0}}', "divide", "the tool that failed"),
        ("I would call count.", "", "what is wrong"),
        ('{"arguments": {"word": "soup"}}', "", "what is wrong"),
        ('{"name": "count"}', "", "what is wrong"),
        ('["count"]', "", "what is wrong"),
    ):
        asked = f"For the call {call}"
        said = _said(_tried(answer, call, tools, asked), asked)
        if must not in said:
            raise Wrong(f"{asked} it says {said[:80]!r}, which does not name {what}.")
    return "What went wrong is handed back to the model like any result: it can try again."


def _tried(answer: Callable[..., Any], call: str, tools: dict[str, Any], asked: str) -> Any:
    """What an answer returns; that it stops with an error is wrong, and said with the call."""
    try:
        return answer(call, dict(tools))
    except Exception as error:
        kind = f"{type(error).__name__}: {error}"
        raise Wrong(
            f"{asked} it stops with {kind}. A model's slip must not end the program."
        ) from (None)


EXERCISES = {
    "06.4": Exercise(
        "a schema for calls",
        _call_schema,
        (
            "One tool first: an object with a name that can only be this one, and its arguments.",
            '{"const": name} allows one value. anyOf takes a list: one object for each tool.',
            '{"anyOf": [{"type": "object", "properties": {"name": {"const": name}, "arguments": '
            'parameters}, "required": ["name", "arguments"], "additionalProperties": False} '
            "for name, parameters in tools.items()]}",
        ),
    ),
    "06.5": Exercise(
        "running a call",
        _run_call,
        (
            "Four things can go wrong: no JSON, no call, no such tool, a tool that fails.",
            "json.loads inside try; then look the name up in tools; then call it inside try.",
            "tools[name](**arguments) runs it. except Exception as error: return "
            'f"{name} failed: {error}". For a wrong name, say which and ", ".join(tools).',
        ),
    ),
}

QUIZ = [
    Question(
        "At 4 bits a model's perplexity rises by a fifth, and its labels stay the same. Why?",
        (
            (
                "Perplexity was measured on other texts than the labels, so nothing follows.",
                "On the same texts it would be so too: the two ask for different things.",
            ),
            (
                "A label needs one decision to stay on its side; perplexity counts every word.",
                "A tuned model's two labels stand far apart: small errors rarely swap them.",
            ),
            (
                "The label words were left out when the weights were rounded, as in lesson 04.",
                "All matrices were rounded, and they make every word.",
            ),
        ),
        1,
    ),
    Question(
        "What has to be in a GGUF file so that another program can chat with the model?",
        (
            (
                "The weights; the program brings everything else.",
                "It would not know which text each number of the vocabulary stands for.",
            ),
            (
                "The weights and the Python code of the model.",
                "The other program has its own code for each family; it reads which one this is.",
            ),
            (
                "Weights, sizes, the tokenizer and the chat template.",
                "All in one file: that is why people pass it on so easily.",
            ),
        ),
        2,
    ),
    Question(
        "Who runs a tool that a model calls?",
        (
            (
                "Your program: the model only writes which one and with what.",
                "So you decide what may be run at all, and check the arguments before.",
            ),
            (
                "The model, inside the server.",
                "A model writes text, here or at any API; nothing runs by it.",
            ),
            (
                "The server, as soon as the JSON of the call is whole and fits the schema.",
                "It hands the call to you. (Some services offer tools of their own beside that.)",
            ),
        ),
        0,
    ),
]
