"""Run by the GPTQ tests in a process of its own, since importing gptqmodel changes a process."""


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
