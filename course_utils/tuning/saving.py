"""What a training writes: a full disk ends in one message, a cut checkpoint is passed over."""

import contextlib
import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path

from course_utils import machine
from course_utils.errors import FULL, CourseError
from course_utils.units import size

TORCH_CUT = re.compile(r"PytorchStreamWriter|inline_container")  # torch.save, cut off in the middle


@contextlib.contextmanager
def writing(folder: str | Path, need_bytes: int = 0) -> Iterator[Path]:
    """Around a block that writes files: a full disk ends in one message, before or after.

        with tuning.writing("adapter", 2**20) as folder:
            model.save_pretrained(folder)

    Args:
        folder: where the block writes; made where it is missing.
        need_bytes: what it is going to write; refused at once where that is not free.

    Raises:
        CourseError: not enough room, or the folder cannot be written to.
    """
    folder = Path(folder)
    free = machine.disk_free_bytes(folder)
    if need_bytes > free:
        raise _full(folder, f"It takes {size(need_bytes)} and {size(free)} are free.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except Exception as error:
        # safetensors and PyTorch wrap the system's error: only the text is left of it
        if FULL.search(str(error)) or TORCH_CUT.search(str(error)):
            why = "It filled up while writing; what was written is not whole."
            raise _full(folder, why) from None
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise CourseError(
                f"{folder.name} cannot be written to.", error.strerror or "", "Name another folder."
            ) from None
        raise


def newest_checkpoint(folder: str | Path) -> str | None:
    """The newest whole checkpoint of a trainer's folder, to resume from; None: there is none.

    The trainer writes `trainer_state.json` last. A checkpoint without it, or with a cut one, was
    interrupted while it was written, and is passed over.
    """
    whole: dict[int, str] = {}
    for path in Path(folder).glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            whole[int(path.name.rpartition("-")[2])] = str(path)
        except (OSError, ValueError):
            continue
    return whole[max(whole)] if whole else None


def _full(folder: Path, why: str) -> CourseError:
    """The message for a full disk."""
    return CourseError(
        f"The disk is too full to write {folder.name}.",
        why,
        "Free some space or name a folder on a larger disk, and run the cell again.",
    )
