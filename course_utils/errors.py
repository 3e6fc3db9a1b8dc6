"""The one kind of error a learner meets from this package: what happened, why, what to do now."""

import re

# a full disk, in the words of the systems and libraries that meet one
FULL = re.compile(r"No space left on device|Disk quota exceeded|File too large|os error 2[78]\b")


def without_password(text: str) -> str:
    """The text without the name and password that an address in it carries before its host."""
    return re.sub(r"//\S*@", "//", text)


def ended_by(code: int) -> str:
    """How the system ended a process, told by its exit code: a sentence, or "" for none.

    Out of memory, Linux kills with SIGKILL: -9, or 137 as a shell passes it on.
    """
    if code in (-9, 137):
        return "Killed by the system, most often because the memory ran out."
    return f"Ended by signal {-code}." if code < 0 else ""


class CourseError(Exception):
    """Something the course foresaw. A notebook shows its message without a traceback.

    A password inside an address never gets into the message.

    Args:
        what: what happened, one sentence.
        why: the cause, as far as it is known; may be empty.
        next_step: what to do now.
    """

    def __init__(self, what: str, why: str = "", next_step: str = "") -> None:
        """Join the three parts into the message."""
        what, why, next_step = map(without_password, (what, why, next_step))
        self.what, self.why, self.next_step = what, why, next_step
        lines = [what]
        if why:
            lines.append(f"Why:  {why}")
        if next_step:
            lines.append(f"Next: {next_step}")
        super().__init__("\n".join(lines))

    def _render_traceback_(self) -> list[str]:
        """Used by IPython in place of a traceback."""
        return str(self).splitlines()
