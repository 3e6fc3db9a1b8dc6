"""The learner's process: runs one exercise's program, then answers for its functions.

It knows the code that was handed in and nothing of the checks: those are in another process. What
it says is an answer to be checked, never a verdict.
"""

import asyncio
import builtins
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from course_staff.collecting import codec
from course_staff.collecting.slicing import ANSWER
from course_staff.collecting.wire import Arrived, Gone, Wire

PRINTED = 2**20  # characters that a program may print
IDLE = 50  # rounds of the event loop after which nothing moves by itself
Notice = Callable[[str], None]


class PrintedTooMuch(BaseException):
    """Not an Exception: `except Exception` does not keep a program printing."""


class Counted:
    """Standard output that goes nowhere and counts."""

    encoding, errors, closed = "utf-8", "strict", False

    def __init__(self, notice: Notice) -> None:
        self.left, self.notice = PRINTED, notice

    def write(self, text: str) -> int:
        """Count it; stop where it is too much."""
        self.left -= len(text)
        if self.left < 0:
            self.notice(f"printed more than {PRINTED:,} characters")
            raise PrintedTooMuch
        return len(text)

    def flush(self) -> None:
        """Nothing is kept."""

    def isatty(self) -> bool:
        """It is no terminal."""
        return False


# Python's own events (sys.addaudithook) that no exercise needs, and what to say of each
EVENTS = {
    "os.remove": "delete a file",
    "os.rmdir": "delete a folder",
    "shutil.rmtree": "delete a folder",
    "os.rename": "move a file",
    "os.truncate": "cut off a file",
    "os.mkdir": "make a folder",
    "os.chmod": "change a file's rights",
    "os.system": "start a program",
    "os.exec": "start a program",
    "os.posix_spawn": "start a program",
    "subprocess.Popen": "start a program",
    "os.fork": "start a process",
    "os.kill": "end a process",
    "socket.connect": "reach the network",
    "socket.getaddrinfo": "reach the network",
    "socket.bind": "reach the network",
}


def watch(readable: Sequence[Path], notice: Notice) -> None:
    """Note what the program tries that it is not allowed. It only notes: the kernel refuses."""
    files = {str(place) for path in readable for place in (path, path.resolve())}
    roots = (*(f"{file}/" for file in files), "/proc/", "/sys/")  # libraries look round there

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in EVENTS:
            notice(f"tried to {EVENTS[event]}")
        elif event == "socket.__new__" and args[1] != 1:  # 1: AF_UNIX, a pair of its own
            notice("tried to reach the network")
        elif event == "open" and isinstance(args[0], str):
            name = os.path.abspath(args[0])
            if isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
                notice("tried to write a file")
            elif not name.startswith(roots) and name not in files and os.path.isfile(name):
                notice(f"tried to read {'/'.join(Path(name).parts[-2:])[:60]}")

    sys.addaudithook(hook)


class Answerer:
    """Runs the program and holds what its cell gives as an answer."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.functions: list[Any] = []
        self.answers: list[tuple[str, Any]] = []
        self.waiting: dict[int, asyncio.Future[Any]] = {}

    def run(self, source: str, notice: Notice) -> str:
        """Run the program; what stopped it, or nothing."""
        from course_utils import checks

        own = (checks, builtins)
        for name in ("check", "hint", "quiz", "progress"):
            setattr(checks, name, lambda *args, **more: None)
        before = [dict(vars(module)) for module in own]
        space = {"__name__": "__main__", ANSWER: lambda *pair: self.answers.append(pair)}
        sys.stdout = sys.stderr = Counted(notice)  # type: ignore[assignment]
        stopped = ""
        try:
            exec(compile(source, "<exercise>", "exec"), space)
        except SystemExit:
            stopped = "your cell ends the kernel"
        except BaseException as error:
            stopped = f"your cell stopped with {_told(error)}"
        if [dict(vars(module)) for module in own] != before:
            notice("changed the checks, or Python itself")
        return stopped

    def function(self, value: Any) -> codec.Json:
        """What stands for a function on the other side."""
        from course_utils.checks import untouched

        self.functions.append(value)
        return {
            "function": len(self.functions) - 1,
            "name": str(getattr(value, "__name__", type(value).__name__))[:60],
            "waits": _waits(value),
            "untouched": untouched(value),
        }

    def encoded(self, value: Any) -> Any:
        """A value for the other side; one that cannot be sent arrives as its type's name."""
        try:
            made = codec.encode(value, self.function)
            codec.packed(made)
        except (RecursionError, codec.Unreadable):
            return {"object": type(value).__name__, "text": f"<{type(value).__name__}, too large>"}
        return made

    def send(self, message: Any) -> None:
        """Send a message up."""
        self.wire.send(codec.packed(message))

    def serve(self, stopped: str) -> None:
        """Say what the answers are, then answer calls until nobody asks any more."""
        answers = [[str(key), self.encoded(value)] for key, value in self.answers[-8:]]
        self.send({"stopped": stopped[:500], "answers": answers})
        while True:
            self.handle(self.receive())

    def receive(self) -> Any:
        """The next message from the other side."""
        return Arrived(self.wire.receive(2**31), self.stand_in).load()

    def handle(self, message: Any) -> None:
        """Do one call and send what comes of it, with the arguments as they are afterwards."""
        _, number, args, more = message
        try:
            value = _called(self.functions[number], args, more)
            if asyncio.iscoroutine(value) and not _waits(self.functions[number]):
                said: dict[str, Any] = {"later": self.function(_later(value))}
            else:
                value = asyncio.run(self.drive(value)) if asyncio.iscoroutine(value) else value
                said = {"value": self.encoded(value)}
        except Gone:
            raise
        except BaseException as error:
            known = getattr(error, "known_as", None)
            said = {"raised": type(error).__name__, "text": str(error)[:300], "known": known}
        kinds = list | dict | set
        kept = [self.encoded(a) if isinstance(a, kinds) or _is_tensor(a) else None for a in args]
        self.send({**said, "args": kept})

    def stand_in(self, number: int, name: str, waits: bool) -> Any:
        """A function of the checks', which runs where the checks are."""

        def sent(args: tuple[Any, ...], more: dict[str, Any]) -> dict[str, Any]:
            named = {key: self.encoded(one) for key, one in more.items()}
            return {"args": [self.encoded(one) for one in args], "more": named}

        def call(*args: Any, **more: Any) -> Any:
            self.send({"call": number, **sent(args, more)})
            while (message := self.receive())[0] == "call":
                self.handle(message)
            return _result(message)

        async def start(*args: Any, **more: Any) -> Any:
            future = asyncio.get_running_loop().create_future()
            self.waiting[ticket := len(self.waiting)] = future
            self.send({"start": number, "ticket": ticket, **sent(args, more)})
            return await future

        made = start if waits else call
        made.__name__ = name
        return made

    async def drive(self, coroutine: Any) -> Any:
        """Run a coroutine whose `await`s end where the checks are.

        Only when nothing moves any more is the other side asked, so that what is under way at the
        same time does not depend on how fast this machine is.
        """
        main = asyncio.ensure_future(coroutine)
        while not main.done():
            for _ in range(IDLE):
                await asyncio.sleep(0)
            if main.done():
                break
            self.send({"blocked": True})
            _, done = self.receive()
            for ticket, *result in done:
                try:
                    self.waiting[ticket].set_result(_result(result))
                except Exception as error:
                    self.waiting[ticket].set_exception(error)
            if not done:
                await asyncio.sleep(0.01)  # it waits for a time of its own
        return main.result()


def _result(message: Sequence[Any]) -> Any:
    """What a function of the checks' returned; raises what it raised."""
    kind, value = message
    if kind == "error":
        raise value
    return value


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _waits(value: Any) -> bool:
    """Whether calling it gives a coroutine: a coroutine function, or an object that is like one."""
    return any(map(asyncio.iscoroutinefunction, (value, type(value).__call__)))


def _called(function: Callable[..., Any], args: Sequence[Any], more: dict[str, Any]) -> Any:
    """What a call returns. One that needs a running event loop is a coroutine, to be run in one."""

    async def inside() -> Any:
        value = function(*args, **more)
        return await value if inspect.isawaitable(value) else value

    try:
        value = function(*args, **more)
    except RuntimeError as error:
        if "event loop" not in str(error):
            raise
        return inside()
    return inside() if asyncio.isfuture(value) else value  # a future of a loop that never runs


def _later(coroutine: Any) -> Callable[[], Any]:
    """A function that gives what a coroutine comes to; the checks await it when they like."""

    async def later() -> Any:
        return await coroutine

    return later


def _told(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, PrintedTooMuch):
        return "PrintedTooMuch: it prints without end"
    try:
        return f"{type(error).__name__}: {error}"[:300].rstrip(": ")
    except Exception:  # a stranger's __str__
        return type(error).__name__
