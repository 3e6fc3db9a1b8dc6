"""GPTQ with GPTQModel: quantize in a child process, load quietly, refuse what cannot work."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
from gptq_children import LIMIT, chats, load_quietly, needs_gptq, perplexity_in_fp16

from course_staff.recording.checkpoints import in_gptqmodel
from course_utils import models
from course_utils.errors import CourseError
from course_utils.gptq import build as gptq_build
from course_utils.gptq import child
from course_utils.gptq import gptqmodel as gptq
from course_utils.gptq import layouts as gptq_layouts
from course_utils.memory import predict
from tests.utils.families import config


@pytest.fixture(scope="module")
def texts():
    """The first 64 to calibrate on, the rest to read."""
    return chats(128)


@pytest.fixture(scope="module")
def fp16(texts):
    """Perplexity of the checkpoint that is quantized, on the texts not calibrated on."""
    return perplexity_in_fp16(texts[64:])


def in_child(function, folder, *arguments):
    """What the function returns in a process of its own, working in an empty folder."""
    work = folder / "work"
    work.mkdir()
    names = function.__code__.co_varnames
    return child.run([function], dict(zip(names, arguments, strict=False)), work)


# -- quantize, save, reload ----------------------------------------------------------------------


@needs_gptq
@pytest.mark.slow
@pytest.mark.parametrize(("bits", "group_size"), [(4, 128), (4, 32), (8, 128)])
def test_a_checkpoint_loads_with_plain_from_pretrained(tmp_path, texts, fp16, bits, group_size):
    """A learner's quantized model answers like the original, in the bytes that were predicted."""
    out = tmp_path / "quantized"
    folder = gptq.quantize(models.POCKET, out, texts[:64], bits=bits, group_size=group_size)
    assert folder == out
    assert list(tmp_path.iterdir()) == [out], "something is left beside it"
    found = gptq_layouts.describe(folder)
    assert (found.maker, found.version) == ("gptqmodel", "gptq")
    assert (found.bits, found.group_size) == (bits, group_size)

    read = in_child(load_quietly, tmp_path, str(folder), texts[64:])
    assert read["layer"].startswith("gptqmodel.")
    assert read["perplexity"] / fp16 < LIMIT
    wanted = predict.weights(predict.config(models.POCKET), f"gptq-{bits}bit-{group_size}g").total
    assert read["bytes"] == pytest.approx(wanted, rel=0.01)
    # a learner's kernel is what it was, and the notebook shows no log lines
    assert read["changed"] == []
    assert read["printed"] == ""
    assert not {"logs"} & set(read["files"])


@needs_gptq
@pytest.mark.slow
@pytest.mark.parametrize("family", predict.GPTQ_TRIED)
def test_every_family_said_to_be_tried_was(family, tmp_path, texts):
    """A learner who reads what GPTQ makes of another family: a checkpoint of it takes that."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.POCKET)
    tiny = config(family)
    tiny.vocab_size = len(tokenizer)
    tiny.bos_token_id, tiny.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    made = tmp_path / family
    AutoModelForCausalLM.from_config(tiny, dtype=torch.float16).save_pretrained(made)
    tokenizer.save_pretrained(made)
    folder = gptq.quantize(made, tmp_path / "quantized", texts[:16], group_size=64)
    read = in_child(load_quietly, tmp_path, str(folder), texts[64:68])
    wanted = predict.weights(predict.config(made), "gptq-4bit-64g").total
    assert read["bytes"] == pytest.approx(wanted, rel=0.01)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory, texts):
    """One checkpoint for the tests that need any."""
    out = tmp_path_factory.mktemp("gptq") / "quantized"
    return gptq.quantize(models.POCKET, out, texts[:64], group_size=64)


@needs_gptq
@pytest.mark.slow
def test_what_quantizing_does_not_concern_stays(quantized):
    """A learner's quantized model has the same tokenizer, template and settings as the original."""
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (quantized / name).read_bytes() == (models.POCKET / name).read_bytes()
    before = json.loads((models.POCKET / "config.json").read_text(encoding="utf-8"))
    after = json.loads((quantized / "config.json").read_text(encoding="utf-8"))
    said = after.pop("quantization_config")
    assert after == before
    assert str(quantized.parent) not in json.dumps(said), "a path of the maker's machine"


@needs_gptq
@pytest.mark.slow
def test_gptqmodel_reads_its_own(quantized, texts, fp16):
    """A learner who compares readers gets the same answer from GPTQModel itself."""
    assert in_gptqmodel(quantized, texts[64:]) / fp16 < LIMIT


@needs_gptq
def test_a_recipe_from_a_cell_is_what_runs(tmp_path, texts):
    """A learner who changes the quantizing cell changes what happens, and its prints do no harm."""

    def recipe(model, out, texts, bits, group_size):
        import json
        import shutil
        from pathlib import Path

        shutil.copytree(model, out)
        path = Path(out, "config.json")
        config = json.loads(path.read_text())
        said = {"quant_method": "gptq", "bits": bits, "group_size": group_size}
        said |= {"checkpoint_format": "gptq", "texts": len(texts), "first": texts[0]}
        path.write_text(json.dumps({**config, "quantization_config": said}))
        print("Quantizing layer 1 of 3")

    folder = gptq.quantize(
        models.POCKET, tmp_path / "out", texts[:20], recipe=recipe, group_size=64
    )
    said = gptq_layouts.quantization(folder)
    assert (said["bits"], said["group_size"], said["texts"]) == (4, 64, 20)
    assert texts[0].startswith("<s>"), "the template spells BOS out"
    assert not said["first"].startswith("<s>"), "the tokenizer would add a second BOS"


# -- refusals --------------------------------------------------------------------------------------


def refused(tmp_path, *arguments, **more):
    """The message of the refusal; nothing may be left behind."""
    out = tmp_path / "out"
    with pytest.raises(CourseError) as caught:
        gptq.quantize(*arguments[:1], out, *arguments[1:], **more)
    assert list(tmp_path.iterdir()) == []
    assert caught.value.next_step
    return str(caught.value)


@needs_gptq
def test_no_calibration_text(tmp_path):
    """A learner who passes no texts, or single words, is told what GPTQ needs them for."""
    assert "no calibration text" in refused(tmp_path, models.POCKET, [])
    said = refused(tmp_path, models.POCKET, ["Great.", "Awful."])
    assert "too short" in said and "tokens" in said


@needs_gptq
def test_a_group_size_that_does_not_divide(tmp_path, texts):
    """A learner who takes group size 100 reads which layer stops it and which sizes fit."""
    said = refused(tmp_path, models.POCKET, texts, group_size=100)
    assert "has 256 inputs" in said and "64, 32" in said
    assert "group size of 0" in refused(tmp_path, models.POCKET, texts, group_size=0)
    assert "3 bits" in refused(tmp_path, models.POCKET, texts, bits=3)


@needs_gptq
def test_a_checkpoint_quantized_already(tmp_path, texts):
    """A learner who quantizes a quantized model is sent to the fp16 one."""
    there = tmp_path / "there"
    shutil.copytree(models.POCKET, there / "nf4")
    config = json.loads((there / "nf4" / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (there / "nf4" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CourseError, match="already quantized"):
        gptq.quantize(there / "nf4", tmp_path / "out", texts)
    with pytest.raises(CourseError, match="not a GPTQ checkpoint") as caught:
        in_gptqmodel(there / "nf4", texts)
    assert "bitsandbytes" in str(caught.value)
    with pytest.raises(CourseError, match="not quantized"):
        in_gptqmodel(models.POCKET, texts)


@needs_gptq
def test_nothing_of_the_learners_is_overwritten(tmp_path, texts):
    """A learner who names the wrong folder loses nothing."""
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "todo.txt").write_text("do not lose", encoding="utf-8")
    with pytest.raises(CourseError, match="something else"):
        gptq.quantize(models.POCKET, notes, texts)
    with pytest.raises(CourseError, match="replaced while it is read"):
        gptq.quantize(models.POCKET, models.POCKET, texts)
    assert [p.name for p in notes.iterdir()] == ["todo.txt"]


def test_the_extra_is_missing(tmp_path, texts, monkeypatch):
    """A learner without the extra reads one line, and how to get it, a compiler first."""
    monkeypatch.setitem(sys.modules, "gptqmodel", None)  # what Python makes of a missing module
    said = refused(tmp_path, models.POCKET, texts)
    assert "not installed" in said.lower() and "make gptq" in said
    assert "\n" not in gptq.why_not()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CC", "")
    said = refused(tmp_path, models.POCKET, texts)
    assert "no C compiler" in said and "Then:" in said
    with pytest.raises(CourseError, match="not installed"), gptq.quiet_gptq():
        pass


@needs_gptq
def test_a_full_disk(tmp_path, texts, monkeypatch):
    """A learner whose disk is full is told before it starts, with the numbers."""
    monkeypatch.setattr(gptq_build.machine, "disk_free_bytes", lambda folder: 2**20)
    said = refused(tmp_path, models.POCKET, texts, group_size=64)
    assert "too full" in said and "1.00 MiB" in said


@needs_gptq
@pytest.mark.slow
def test_the_disk_runs_full_on_the_way(tmp_path, texts):
    """A learner whose disk runs full while the weights are written keeps no half of them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))  # files above 1 MiB fail
    try:
        said = refused(tmp_path, models.POCKET, texts[:16], group_size=64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "disk ran full" in said


@needs_gptq
def test_a_recipe_that_fails(tmp_path, texts):
    """A learner's mistake in the recipe is shown in one line, and nothing stays behind."""

    def wrong(model, out, texts, bits, group_size):
        from pathlib import Path

        Path(out).write_text("half of a checkpoint")
        raise ValueError("bits are bitten")

    def forgetful(model, out, texts, bits, group_size):
        print("done")

    assert "ValueError: bits are bitten" in refused(
        tmp_path, models.POCKET, texts, group_size=64, recipe=wrong
    )
    assert "wrote no checkpoint" in refused(
        tmp_path, models.POCKET, texts, group_size=64, recipe=forgetful
    )
    assert "plain function" in refused(
        tmp_path, models.POCKET, texts, group_size=64, recipe=lambda *all: None
    )


def test_a_child_killed_for_memory_is_explained(tmp_path):
    """A learner whose machine runs out of memory while quantizing reads so."""

    def taken():
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(child.ChildFailed, match="memory ran out"):
        child.run([taken], {}, tmp_path)
    with pytest.raises(CourseError, match="memory ran out"):
        gptq.install([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "some memory")


STOPPED = """
import signal, sys
from course_utils import gptq, models

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it

def slow(model, out, texts, bits, group_size):
    import os, time
    os.makedirs(out)
    open(out + "/half", "w").write("half")
    time.sleep(60)

gptq.quantize(models.POCKET, sys.argv[1], ["a text of many words " * 9], group_size=64, recipe=slow)
"""


@needs_gptq
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_learner_stops_it(tmp_path, how):
    """A learner who interrupts the cell, or whose kernel dies, finds no half-written folder."""
    script = tmp_path / "script.py"
    script.write_text(STOPPED, encoding="utf-8")
    place = tmp_path / "place"
    place.mkdir()
    command = [sys.executable, str(script), str(place / "out")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, cwd=tmp_path) as running:
        wait_for(lambda: list(place.glob("*/out/half")))
        running.send_signal(how)
        running.wait(30)
    wait_for(lambda: not list(place.iterdir()))


def wait_for(there, seconds=60):
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)
