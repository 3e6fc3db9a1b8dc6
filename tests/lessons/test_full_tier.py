"""The lessons on another Llama: other vocabulary, other chat template, tied, grouped heads."""

import json
import os
from pathlib import Path

import pytest

from course_staff.notebooks import executing
from course_staff.notebooks import store as notebooks
from course_utils import data

# Zephyr's format, as TinyLlama's tokenizer carries it.
ZEPHYR = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# The lessons that must run on any Llama-family folder, by the start of their names.
LESSONS = ["00", "02", "03"]


def build_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer with its own vocabulary, special tokens, padding and template."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    raw = ByteLevelBPETokenizer()
    texts = [review for review, _ in data.reviews()]
    raw.train_from_iterator(
        texts, vocab_size=1200, show_progress=False, special_tokens=["<unk>", "<bos>", "<end>"]
    )
    raw.save(str(folder / "tokenizer.json"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<end>",
        pad_token="<pad>",
        padding_side="right",
        model_max_length=512,
    )
    tokenizer.chat_template = ZEPHYR
    tokenizer.save_pretrained(folder)


def build_model(folder: Path) -> None:
    """Weights at random, as little trained as a model can be: only the shapes are a Llama's."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 5,  # rounded up beyond the tokenizer, as many models have it
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,  # decided answers: at 0.02 all tokens are nearly tied
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.bos_token_id]
    model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9, max_length=512)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def other_llama(tmp_path_factory) -> Path:
    """A folder with another member of the Llama family, made here."""
    folder = tmp_path_factory.mktemp("llamas") / "other-llama"
    folder.mkdir()
    build_tokenizer(folder)
    build_model(folder)
    return folder


@pytest.mark.slow
def test_the_other_llama_is_another(other_llama):
    """A maintainer who relies on this test: the folder must differ where models differ."""
    from transformers import AutoTokenizer

    from course_utils.models import POCKET

    theirs, ours = (json.loads((f / "config.json").read_text()) for f in (other_llama, POCKET))
    for key in ("vocab_size", "hidden_size", "num_key_value_heads", "tie_word_embeddings"):
        assert theirs[key] != ours[key]
    tokenizer = AutoTokenizer.from_pretrained(other_llama)
    assert tokenizer.pad_token and tokenizer.padding_side == "right"
    assert "<|assistant|>" in tokenizer.chat_template


@pytest.mark.slow
@pytest.mark.parametrize("number", LESSONS)
def test_lesson_runs_on_another_llama(other_llama, number):
    """A learner who sets COURSE_MODEL: no cell may assume Pocket Llama's ids, sizes or answers."""
    from nbclient import NotebookClient

    (path,) = notebooks.FOLDER.glob(f"{number}_*.ipynb")
    notebook = notebooks.read(path)
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(
        env={
            **os.environ,
            **executing.environment(),
            "COURSE_MODEL": str(other_llama),
            "HF_HUB_OFFLINE": "1",
        }
    )
    setup = notebooks.cell_by_id(notebook, "setup")
    assert setup.outputs[0]["text"] == "full tier, other-llama\n"
