"""What the GPTQ tests share; `load_quietly` runs in a process of its own, which it changes."""

import pytest

from course_utils import data, models, sentiment
from course_utils.gptq import autogptq, gptqmodel
from course_utils.perplexity import perplexity

needs_gptq = pytest.mark.skipif(bool(gptqmodel.why_not()), reason=str(gptqmodel.why_not()))
needs_autogptq = pytest.mark.skipif(bool(autogptq.why_not()), reason=str(autogptq.why_not()))
LIMIT = 1.05  # a broken checkpoint is off by a factor, a right one by a few percent


def chats(count: int) -> list[str]:
    """Reviews with their labels, in the chat format of Pocket Llama."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.POCKET)
    return [
        tokenizer.apply_chat_template(
            [*sentiment.messages(review), {"role": "assistant", "content": label}], tokenize=False
        )
        for review, label in data.reviews(count)
    ]


def perplexity_in_fp16(texts: list[str]) -> float:
    """What the checkpoint that is quantized makes of the texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(models.POCKET)
    return perplexity(model, AutoTokenizer.from_pretrained(models.POCKET), texts)


def load_quietly(folder: str, texts: list[str]) -> dict[str, object]:
    """Load a checkpoint as lesson 04 does; what changed, what was printed, how it reads."""
    import contextlib
    import io
    import logging
    import os
    import warnings

    from course_utils import settings
    from course_utils.gptq import gptqmodel as gptq
    from course_utils.memory import measured as memory
    from course_utils.perplexity import perplexity

    settings.prepare()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    warnings.filterwarnings("ignore", message="a filter of the learner's own")
    os.environ["A_SETTING"] = "the learner's own"
    root = logging.getLogger()

    def state():
        around = {**os.environ, "cwd": os.getcwd()}
        return [around, root.level, list(root.handlers), list(warnings.filters)]

    before = state()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), gptq.quiet_gptq():
        model = AutoModelForCausalLM.from_pretrained(folder)
    changed = [i for i, (old, new) in enumerate(zip(before, state(), strict=True)) if old != new]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return {
        "changed": changed,
        "printed": out.getvalue() + err.getvalue(),
        "layer": type(model.model.layers[0].self_attn.q_proj).__module__,
        "dtype": str(model.dtype),
        "bytes": sum(memory.tensor_bytes(model).values()),
        "perplexity": perplexity(model, tokenizer, texts),
        "files": os.listdir(),
    }
