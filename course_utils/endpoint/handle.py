"""What a lesson holds of a server: its address, its key, and the process where it is ours."""

import subprocess
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from course_utils.errors import CourseError, without_password

# what the gateway tells whoever started it, a line each
SAYS = "gateway: "
LISTENING, READY, PORT_TAKEN = "listening on port ", "ready", "the port is taken"
AGAIN = "Run the cell with endpoint.start() again, then the cell that makes the client."
KILLED = (-9, 137)  # exit codes of a process that the system ended, by POSIX and by a shell


@dataclass(eq=False)
class Server:
    """Where requests go. Use it as a context manager, or call `stop()`.

    Attributes:
        base_url: what `OpenAI(base_url=...)` takes.
        key: what `OpenAI(api_key=...)` takes. Never shown.
        model: what `chat.completions.create(model=...)` takes.
        said_by: one line to print beside a result: which tier and model made it.
        local: whether the model runs on this machine, started here.
        process: the gateway, where it was started here.
        log: the last lines that it wrote.
    """

    base_url: str = field(repr=False)  # it may hold a password
    key: str = field(repr=False)
    model: str
    said_by: str
    local: bool = False
    process: "subprocess.Popen[str] | None" = field(default=None, repr=False)
    log: "deque[str]" = field(default_factory=lambda: deque(maxlen=40), repr=False)
    reader: threading.Thread | None = field(default=None, repr=False)
    stopped: bool = field(default=False, repr=False)

    @property
    def where(self) -> str:
        """The address as it may be shown: without a password."""
        url = self.base_url
        return without_password(url) if "//" in url else without_password(f"//{url}")[2:]

    def ended(self, within: float = 0.0) -> CourseError | None:
        """Why a server started here is gone, or goes within so many seconds; None while it runs."""
        if self.process is None:
            return None
        if self.stopped:
            return CourseError("The local server is stopped.", "server.stop() ended it.", AGAIN)
        with suppress(subprocess.TimeoutExpired):
            code = self.process.wait(within)
            if code in KILLED:
                why = "The system ended it: most often because memory ran out."
                step = f"Close other programs and notebooks (Kernel > Shut Down). {AGAIN}"
                return CourseError("The local server has ended.", why, step)
            why = last_words(self.log) or f"It stopped with exit code {code}."
            return CourseError("The local server has ended.", why, AGAIN)
        return None

    def stop(self) -> None:
        """End a server started here. Doing it twice does no harm."""
        if self.process is None or self.stopped:
            return
        self.stopped = True
        with suppress(OSError, ValueError):  # it may have ended before
            # a byte and not only the end of the pipe, which a forked child may hold open
            self.process.stdin.write("\n")  # type: ignore[union-attr]
            self.process.stdin.close()  # type: ignore[union-attr]
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        if self.reader:
            self.reader.join(5)

    def __enter__(self) -> "Server":
        """The server itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()


def last_words(log: "deque[str]") -> str:
    """The end of a server's log, without the indented lines of a traceback."""
    lines = [line[:200] for line in log if line.strip() and not line.startswith(" ")][-3:]
    return "\n".join(["Its last words:", *(f"  {line}" for line in lines)]) if lines else ""
