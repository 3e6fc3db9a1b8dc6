"""The process that checks: it holds the right answers, and only asks the learner's for values.

The checks are the lesson's own, from the collector's copy, in a process that no learner's code has
ever been in. A function in an answer is a stand-in here that asks over the wire.
"""

import asyncio
import builtins
from collections.abc import Callable
from typing import Any

from course_staff.collecting import codec
from course_staff.collecting.wire import Gone, Wire, down
from course_utils import checks

Complete = Callable[[Any], str]
ENDED = "its process ended before it answered"


class Cheated(Exception):
    """The other side sends what no honest one sends."""


class Judge:
    """Reads one program's answers and puts them to the checks."""

    def __init__(self, wire: Wire, complete: Complete) -> None:
        self.wire, self.complete = wire, complete
        self.functions: list[Any] = []
        self.errors: list[BaseException] = []

    def verdicts(self, keys: list[str]) -> list[tuple[str, bool | None, str]]:
        """(exercise, solved or None where it was left as it is, message) for each of `keys`."""
        try:
            first = self.read()
            stopped = str(first["stopped"])
            found = {str(key): answer for key, answer in first["answers"]}
        except Gone:
            return [(key, False, ENDED) for key in keys]
        except (codec.Unreadable, KeyError, TypeError, ValueError):
            return [(key, False, "it answers with what no answer is") for key in keys]
        rows: list[tuple[str, bool | None, str]] = []
        for key in keys:
            if key in found:
                rows.append((key, *self.judged(key, found[key])))
            else:
                rows.append((key, False, stopped or "its check(...) was not reached"))
        return rows

    def judged(self, key: str, answer: Any) -> tuple[bool | None, str]:
        """(solved, message) of one answer."""
        try:
            value = codec.decode(answer, self.function)
            if isinstance(value, tuple):  # what stands behind the answer is the lesson's own model
                value = (*value[:1], *(self.complete if callable(v) else v for v in value[1:]))
            # no limit here: after one, a late reply would be taken for that to another call
            solved, message = checks.judged(key, value, patience=0)
        except codec.Unreadable:
            return False, "it answers with what no answer is"
        except Gone:
            return False, ENDED
        return solved, codec.PLACE.sub("", message)[:500]

    def read(self) -> Any:
        """The next message from the learner's process."""
        import json

        try:
            return json.loads(self.wire.receive())
        except (ValueError, RecursionError):
            raise codec.Unreadable("no JSON") from None

    def post(self, *message: Any) -> None:
        """Send a message down."""
        self.wire.send(down(message, self.functions, self.errors))

    def function(self, found: codec.Json) -> Any:
        """A function that runs where the learner's code is; `...` for an untouched starter."""
        if found["untouched"]:
            return ...
        number = int(found["function"])

        def call(*args: Any, **more: Any) -> Any:
            self.post("call", number, args, more)
            while "call" in (message := self.read()):
                self.post(*self.called_back(message))
            return self.result(message, args)

        async def wait(*args: Any, **more: Any) -> Any:
            self.post("call", number, args, more)
            return self.result(await self.attend(), args)

        made = wait if found["waits"] else call
        made.__name__ = made.__qualname__ = str(found["name"])[:60]
        return made

    def called_back(self, message: codec.Json) -> tuple[str, Any]:
        """Call one of the checks' own functions for the learner's code."""
        try:
            return "value", self.own(message["call"])(*self.values(message), **self.named(message))
        except Gone:
            raise
        except Exception as error:
            return "error", error

    def own(self, number: int) -> Any:
        """The function that went down under this number."""
        if not (isinstance(number, int) and 0 <= number < len(self.functions)):
            raise Gone
        return self.functions[number]

    def values(self, message: codec.Json) -> list[Any]:
        """Arguments from the learner's side, by their places."""
        return [codec.decode(one, self.function) for one in message["args"]]

    def named(self, message: codec.Json) -> dict[str, Any]:
        """Arguments from the learner's side, by their names."""
        more = message["more"].items()
        return {str(key): codec.decode(one, self.function) for key, one in more}

    async def attend(self) -> codec.Json:
        """Go along with a coroutine over there until it has an end; its last message.

        What it has started runs here, all of it at once, whenever it can go no further itself.
        """
        running: dict[asyncio.Task[Any], int] = {}
        while True:
            message = self.read()
            if "start" in message:
                started = self.own(message["start"])(*self.values(message), **self.named(message))
                running[asyncio.ensure_future(started)] = message["ticket"]
            elif "blocked" in message:
                done = []
                if running:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in running if task.done()]:
                    error = task.exception()
                    result = ("error", error) if error else ("value", task.result())
                    done.append((running.pop(task), *result))
                self.post("done", done)
                await asyncio.sleep(0)
            else:
                return message

    def result(self, message: codec.Json, args: tuple[Any, ...]) -> Any:
        """What came out over there: returned, or raised anew; `args` become what they became."""
        for mine, theirs in zip(args, message.get("args") or [], strict=False):
            if theirs is not None:
                _follow(mine, codec.decode(theirs, self.function))
        if "later" in message:  # a coroutine, from a function that is none of `async def`
            return self.function(message["later"])()
        if "value" in message:
            return codec.decode(message["value"], self.function)
        known = message.get("known")
        if isinstance(known, int) and 0 <= known < len(self.errors):
            raise self.errors[known]
        name = "".join(c for c in str(message.get("raised"))[:60] if c.isalnum()) or "Error"
        kind = getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = type(name, (Exception,), {})
        text = str(message.get("text", ""))[:300]
        try:
            raise kind(text)
        except TypeError:  # one that wants more than a text
            raise type(name, (Exception,), {})(text) from None


def _follow(mine: Any, theirs: Any) -> None:
    """Make a value here what the learner's code made of it there, where it may have changed it."""
    if isinstance(mine, list | dict | set) and repr(mine) == repr(theirs):
        return  # a nan that came back would no longer equal the one that it is
    if isinstance(mine, list) and isinstance(theirs, list):
        mine[:] = theirs
    elif isinstance(mine, dict | set) and type(mine) is type(theirs):
        mine.clear()
        mine.update(theirs)
    elif hasattr(mine, "copy_") and getattr(theirs, "shape", None) == mine.shape:
        mine.copy_(theirs)
