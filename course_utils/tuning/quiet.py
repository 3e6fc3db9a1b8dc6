"""Keeping the page quiet of what peft, TRL and datasets say while they get ready."""

import warnings
from importlib.util import find_spec


def prepare() -> None:
    """Keep the page quiet of what peft, TRL and datasets say while they get ready.

    peft imports gptqmodel where that is installed, which prints a banner; datasets shows a bar for
    every half second of tokenizing; TRL names its own setting as one that will be renamed; and peft
    says with every checkpoint that an adapted embedding is in it.
    """
    import datasets

    if find_spec("gptqmodel"):
        from course_utils import gptq

        if gptq.why_not() is None:
            with gptq.quiet_gptq():
                pass
    datasets.disable_progress_bars()
    for said in ("gradient_checkpointing", "save_embedding_layers"):
        warnings.filterwarnings("ignore", message=f".*{said}.*")
