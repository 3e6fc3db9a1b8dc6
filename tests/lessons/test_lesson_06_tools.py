"""Lesson 06's exercises on tools tell right from wrong, and say what the answer did on what."""

import json

import pytest

from course_utils.checks import Wrong
from course_utils.exercises import lesson_06_tools as lesson


def one(name, parameters, **more):
    """A schema of the calls of one tool."""
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
        **more,
    }


def by_definitions(tools):
    return {
        "$defs": {name: one(name, parameters) for name, parameters in tools.items()},
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in tools],
    }


RIGHT_SCHEMAS = {
    "anyOf": lambda tools: {"anyOf": [one(*pair) for pair in tools.items()]},
    "oneOf": lambda tools: {"oneOf": [one(*pair) for pair in tools.items()]},
    "enum of one": lambda tools: {
        "anyOf": [
            one(name, p) | {"properties": {"name": {"enum": [name]}, "arguments": p}}
            for name, p in tools.items()
        ]
    },
    "as text": lambda tools: json.dumps({"anyOf": [one(*pair) for pair in tools.items()]}),
    "by definitions": by_definitions,
    "arguments first": lambda tools: {
        "anyOf": [
            {**one(name, p), "required": ["arguments", "name"], "title": f"calls {name}"}
            for name, p in tools.items()
        ]
    },
}
NO_LIMIT = {"additionalProperties": True}
WRONG_SCHEMAS = {
    "any name": (
        lambda tools: {"anyOf": [one("x", p) | {"properties": {
            "name": {"type": "string"}, "arguments": p}} for p in tools.values()]},
        "a tool that is not there",
    ),
    "names alone": (
        lambda tools: one("", {"type": "object"}) | {"properties": {
            "name": {"enum": list(tools)}, "arguments": {"type": "object"}}},
        "arguments of another tool",
    ),
    "any of the arguments": (
        lambda tools: one("", {}) | {"properties": {
            "name": {"enum": list(tools)}, "arguments": {"anyOf": list(tools.values())}}},
        "arguments of another tool",
    ),
    "arguments may be left out": (
        lambda tools: {"anyOf": [one(n, p, required=["name"]) for n, p in tools.items()]},
        "a call without arguments",
    ),
    "name may be left out": (
        lambda tools: {"anyOf": [one(n, p, required=["arguments"]) for n, p in tools.items()]},
        "a call without a name",
    ),
    "anything beside": (
        lambda tools: {"anyOf": [one(*pair, **NO_LIMIT) for pair in tools.items()]},
        "something beside the call",
    ),
    "first tool only": (
        lambda tools: one(*next(iter(tools.items()))), "does not allow"),
    "names written out": (
        lambda tools: {"anyOf": [one(n, p) for n, p in lesson.TOOLS.items()]},
        "For a single tool",
    ),
    "a list": (lambda tools: [one(*pair) for pair in tools.items()], "a schema is a dictionary"),
    "nothing": (lambda tools: None, "NoneType"),
    "no JSON": (lambda tools: "{'type': 'object'}", "no JSON"),
    "the tools themselves": (lambda tools: {"enum": list(tools)}, "does not allow"),
    "unknown type": (lambda tools: {"type": "tool"}, "tool"),
    "all at once": (lambda tools: {"allOf": [one(*pair) for pair in tools.items()]}, "For"),
    "changes them": (
        lambda tools: {"anyOf": [one(n, tools.pop(n)) for n in list(tools)]}, "changes the tools"),
}  # fmt: skip


@pytest.mark.parametrize("kind", RIGHT_SCHEMAS)
def test_a_right_schema_is_taken_however_it_is_written(kind):
    """A learner whose schema allows the right calls is told so, whatever words it uses."""
    assert lesson.EXERCISES["06.4"].test(RIGHT_SCHEMAS[kind])


@pytest.mark.parametrize("kind", WRONG_SCHEMAS)
def test_a_wrong_schema_is_told_which_call_it_lets_through(kind):
    """A learner reads which call their schema allows or refuses, not what would be right."""
    answer, said = WRONG_SCHEMAS[kind]
    with pytest.raises(Wrong) as wrong:
        lesson.EXERCISES["06.4"].test(answer)
    assert said in str(wrong.value)


def by_steps(call, tools):
    try:
        read = json.loads(call)
    except ValueError as error:
        return f"no JSON: {error}"
    if not isinstance(read, dict) or "name" not in read or "arguments" not in read:
        return "A call has a name and arguments."
    if read["name"] not in tools:
        return f"{read['name']} is none of {', '.join(tools)}."
    try:
        return str(tools[read["name"]](**read["arguments"]))
    except Exception as error:
        return f"{read['name']} failed: {error}"


def all_in_one_try(call, tools):
    name = call
    try:
        read = json.loads(call)
        name = read["name"]
        return tools[name](**read["arguments"])
    except Exception as error:
        return f"{name}: {type(error).__name__}, there are {list(tools)}"


def as_json(call, tools):
    said = by_steps(call, tools)
    return json.dumps(json.loads(said)) if said.replace(".", "").isdigit() else said


class Runner:
    """An answer that is no function."""

    def __call__(self, call, tools):
        """Run the call."""
        return by_steps(call, tools)


def matching(call, tools):
    try:
        match json.loads(call):
            case {"name": str(name), "arguments": dict(arguments)} if name in tools:
                return f"{tools[name](**arguments)}\n"
            case {"name": name, "arguments": _}:
                return f"no {name}; {sorted(tools)}"
    except (ValueError, TypeError, ZeroDivisionError) as error:
        return f"{error} in {call}"
    return f"not a call: {call}"


def without(step):
    """`by_steps` with one of its cares left out."""

    def answer(call, tools):
        if step == "json":
            read = json.loads(call)
        else:
            try:
                read = json.loads(call)
            except ValueError:
                return None if step == "said" else "no JSON"
        if step != "shape" and not (isinstance(read, dict) and {"name", "arguments"} <= {*read}):
            return "no call"
        if step != "name" and read["name"] not in tools:
            return {"bare": "no such tool", "list": f"{read['name']}?"}.get(
                step, f"{read['name']}: {[*tools]}"
            )
        if step in ("error", "name"):
            return str(tools[read["name"]](**read["arguments"]))
        try:
            result = tools[read["name"]](**read["arguments"])
        except Exception as error:
            return "" if step == "quiet" else f"{read['name']}: {error}"
        return {"none": None, "type": type(result).__name__}.get(step, str(result))

    return answer


WRONG_RUNS = {
    "json": "stops with JSONDecodeError",
    "said": "it returns None",
    "shape": "stops with",
    "name": "stops with KeyError",
    "bare": "does not name",
    "list": "the tools that there are",
    "error": "stops with TypeError",
    "quiet": "it returns ''",
    "none": "returns nothing",
    "type": "the tool itself gives",
}


@pytest.mark.parametrize("answer", [by_steps, all_in_one_try, as_json, Runner(), matching])
def test_a_right_way_to_run_a_call_is_taken(answer):
    """A learner who guards the call, step by step or all at once, is told that it is right."""
    assert lesson.EXERCISES["06.5"].test(answer)


@pytest.mark.parametrize("step", WRONG_RUNS)
def test_a_missing_care_is_named_with_the_call_that_shows_it(step):
    """A learner who forgot one of the four ways to fail reads the call that it fails on."""
    with pytest.raises(Wrong) as wrong:
        lesson.EXERCISES["06.5"].test(without(step))
    assert WRONG_RUNS[step] in str(wrong.value)
    assert str(wrong.value).startswith("For the call")


def test_the_last_hint_solves_the_exercise():
    """A learner who is stuck gets through with the hints."""
    hint = lesson.EXERCISES["06.4"].hints[-1]
    assert lesson.EXERCISES["06.4"].test(lambda tools: eval(hint, {"tools": tools}))


def test_each_question_has_one_right_choice_that_the_others_do_not_name():
    """A learner who chooses wrongly is told why, and can still find the right one."""
    for question in lesson.QUIZ:
        assert 0 <= question.right < len(question.choices)
        right = question.choices[question.right][0]
        assert all(right not in why for _, why in question.choices)
