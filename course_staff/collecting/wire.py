"""The line between a learner's process and the one that checks: frames of bytes over a socket.

Down to the learner go pickles, which only the checking side makes; up come `codec`'s values.
"""

import io
import pickle
import socket
import struct
import types
from collections.abc import Callable
from typing import Any

from course_staff.collecting.codec import MOST


class Gone(Exception):
    """The other side has ended."""


class Wire:
    """One end of the line."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def send(self, frame: bytes) -> None:
        """Send one frame; raises `Gone`."""
        try:
            self.end.sendall(struct.pack("!I", len(frame)) + frame)
        except OSError:
            raise Gone from None

    def receive(self, most: int = MOST) -> bytes:
        """The next frame; raises `Gone`, also where it says that it is longer than `most`."""
        (size,) = struct.unpack("!I", self._exactly(4))
        if size > most:
            raise Gone
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        """So many bytes."""
        parts = []
        while size:
            try:
                part = self.end.recv(min(size, 2**20))
            except OSError:
                raise Gone from None
            if not part:
                raise Gone
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _whole_error(number: int, kind: type, args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    """An error as it was, with the number it is known by: many cannot be made from `args` alone."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    error.__dict__["known_as"] = number
    return error


class Down(pickle.Pickler):
    """Pickles what the checks pass on; their functions stay here, and errors are remembered."""

    def __init__(self, file: Any, functions: list[Any], errors: list[BaseException]) -> None:
        super().__init__(file)
        self.functions, self.errors = functions, errors

    def persistent_id(self, value: Any) -> Any:
        """A number in place of a function that only the checking process has."""
        import asyncio

        ours = isinstance(value, types.MethodType) or (
            isinstance(value, types.FunctionType)
            and ("<locals>" in value.__qualname__ or ".exercises." in value.__module__)
        )
        if not ours:
            return None
        self.functions.append(value)
        return len(self.functions) - 1, value.__name__, asyncio.iscoroutinefunction(value)

    def reducer_override(self, value: Any) -> Any:
        """An error with all that it carries."""
        if not isinstance(value, BaseException):
            return NotImplemented
        self.errors.append(value)
        state = {k: v for k, v in vars(value).items() if k != "known_as"}
        return _whole_error, (len(self.errors) - 1, type(value), value.args, state)


def down(message: Any, functions: list[Any], errors: list[BaseException]) -> bytes:
    """A message to the learner's process as bytes."""
    file = io.BytesIO()
    Down(file, functions, errors).dump(message)
    return file.getvalue()


class Arrived(pickle.Unpickler):
    """Reads such a message in the learner's process; `stand_in` makes what calls back."""

    def __init__(self, frame: bytes, stand_in: Callable[[int, str, bool], Any]) -> None:
        super().__init__(io.BytesIO(frame))
        self.stand_in = stand_in

    def persistent_load(self, pid: Any) -> Any:
        """A function that asks the checking process."""
        return self.stand_in(*pid)
