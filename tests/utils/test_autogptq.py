"""AutoGPTQ in its own environment, and who reads whose GPTQ checkpoints."""

import json
import shutil

import pytest
from gptq_children import LIMIT, chats, load_quietly, needs_autogptq, needs_gptq, perplexity_in_fp16

from course_staff.recording.checkpoints import in_gptqmodel, with_transformers
from course_utils import models
from course_utils.errors import CourseError
from course_utils.gptq import autogptq, child
from course_utils.gptq import gptqmodel as gptq
from course_utils.gptq import layouts as gptq_layouts


@pytest.fixture(scope="module")
def texts():
    """The first 64 to calibrate on, the rest to read."""
    return chats(96)


@pytest.fixture(scope="module")
def fp16(texts):
    """Perplexity of the checkpoint that is quantized, on the texts not calibrated on."""
    return perplexity_in_fp16(texts[64:])


@pytest.fixture(scope="module")
def by_autogptq(tmp_path_factory, texts):
    """A checkpoint as auto-gptq writes it."""
    out = tmp_path_factory.mktemp("auto") / "by_autogptq"
    return autogptq.quantize(models.POCKET, out, texts[:64])


@pytest.fixture(scope="module")
def by_gptqmodel(tmp_path_factory, texts):
    """A checkpoint as GPTQModel writes it."""
    out = tmp_path_factory.mktemp("own") / "by_gptqmodel"
    return gptq.quantize(models.POCKET, out, texts[:64])


@pytest.fixture(scope="module")
def by_transformers(tmp_path_factory, texts):
    """A checkpoint as transformers writes it: format gptq_v2."""
    out = tmp_path_factory.mktemp("tf") / "by_transformers"
    return gptq.quantize(models.POCKET, out, texts[:64], recipe=with_transformers)


def in_transformers(folder, texts, tmp_path):
    """Perplexity when plain from_pretrained of transformers 5 reads it."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return child.run([load_quietly], {"folder": str(folder), "texts": texts}, work)["perplexity"]


# -- auto-gptq alone -------------------------------------------------------------------------------


@needs_autogptq
@pytest.mark.slow
def test_quantize_save_reload(by_autogptq, texts, fp16):
    """A learner of the AutoGPTQ section gets a checkpoint that auto-gptq itself reads."""
    assert list(by_autogptq.parent.iterdir()) == [by_autogptq], "something is left beside it"
    found = gptq_layouts.describe(by_autogptq)
    assert (found.maker, found.version, found.bits, found.group_size) == (
        "auto-gptq",
        "gptq",
        4,
        128,
    )
    assert found.files == ("gptq_model-4bit-128g.safetensors",)
    assert autogptq.perplexities([by_autogptq], texts[64:])[0] / fp16 < LIMIT


@needs_autogptq
@pytest.mark.slow
def test_group_size_and_recipe(tmp_path, texts, fp16):
    """A learner's own recipe, with group size 32, runs in that environment too."""

    def recipe(model, out, texts, bits, group_size):
        import transformers
        from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig

        assert transformers.__version__ < "5"
        tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        method = BaseQuantizeConfig(bits=bits, group_size=group_size, desc_act=False)
        quantizer = AutoGPTQForCausalLM.from_pretrained(model, method)
        quantizer.quantize([tokenizer(text) for text in texts])
        quantizer.save_quantized(out)
        tokenizer.save_pretrained(out)

    out = tmp_path / "g32"
    folder = autogptq.quantize(models.POCKET, out, texts[:32], group_size=32, recipe=recipe)
    assert gptq_layouts.describe(folder).files == ("gptq_model-4bit-32g.safetensors",)
    assert autogptq.perplexities([folder], texts[64:])[0] / fp16 < LIMIT


def test_not_set_up(tmp_path, monkeypatch, texts):
    """A learner without the environment reads one line, and the one command that makes it."""
    monkeypatch.setattr(autogptq, "HOME", tmp_path / ".venv-autogptq")
    assert "\n" not in autogptq.why_not()
    for call in (
        lambda: autogptq.quantize(models.POCKET, tmp_path / "out", texts),
        lambda: autogptq.perplexities([models.POCKET], texts)[0],
    ):
        with pytest.raises(CourseError) as caught:
            call()
        assert "make autogptq" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_setup_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """A learner without network, or with a Python too new, is told so and keeps no half of it."""
    pins = tmp_path / "constraints-autogptq.txt"
    pins.write_text("auto-gptq==0.0.0.does-not-exist\n", encoding="utf-8")
    monkeypatch.setattr(autogptq, "HOME", tmp_path / ".venv-autogptq")
    monkeypatch.setattr(autogptq, "PINS", pins)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CourseError, match="It needs the network"):
        autogptq.setup()
    assert list(tmp_path.iterdir()) == [pins]


# -- who reads what --------------------------------------------------------------------------------


@needs_autogptq
@needs_gptq
@pytest.mark.slow
def test_gptqmodel_to_autogptq(by_gptqmodel, texts, fp16):
    """A learner's new checkpoint is read by the old library as it is."""
    assert autogptq.perplexities([by_gptqmodel], texts[64:])[0] / fp16 < LIMIT


@needs_autogptq
@needs_gptq
@pytest.mark.slow
def test_autogptq_to_transformers(by_autogptq, texts, fp16, tmp_path):
    """A learner's old checkpoint is not found by transformers until it is converted."""
    with pytest.raises(CourseError, match="does not find the weights"):
        gptq_layouts.check_readable(by_autogptq, "transformers")
    there = gptq_layouts.convert(by_autogptq, tmp_path / "there", "transformers")
    assert gptq_layouts.check_readable(there, "transformers").files == ("model.safetensors",)
    assert in_transformers(there, texts[64:], tmp_path) / fp16 < LIMIT


@needs_autogptq
@needs_gptq
@pytest.mark.slow
def test_autogptq_to_gptqmodel(by_autogptq, texts, fp16, tmp_path):
    """A learner's old checkpoint is refused by name for GPTQModel, and read once converted."""
    with pytest.raises(CourseError, match="gptqmodel does not find the weights"):
        in_gptqmodel(by_autogptq, texts[64:])
    there = gptq_layouts.convert(by_autogptq, tmp_path / "there", "gptqmodel")
    assert in_gptqmodel(there, texts[64:]) / fp16 < LIMIT


@needs_gptq
@pytest.mark.slow
def test_transformers_to_gptqmodel(by_transformers, texts, fp16, tmp_path):
    """A learner who quantizes with GPTQConfig gets a checkpoint that both new libraries read."""
    found = gptq_layouts.describe(by_transformers)
    assert (found.maker, found.version) == ("transformers", "gptq_v2")
    said = json.dumps(gptq_layouts.quantization(by_transformers))
    assert "analyzes sentiment" not in said, "the calibration texts are in config.json"
    assert in_gptqmodel(by_transformers, texts[64:]) / fp16 < LIMIT
    assert in_transformers(by_transformers, texts[64:], tmp_path) / fp16 < LIMIT


@needs_autogptq
@needs_gptq
@pytest.mark.slow
def test_transformers_to_autogptq_is_refused(by_transformers, texts, fp16, tmp_path):
    """A learner is kept from numbers that are silently wrong, and told why and what to do."""
    with pytest.raises(CourseError) as caught:
        autogptq.perplexities([by_transformers], texts[64:])[0]
    said = str(caught.value)
    assert "gptq_v2" in said and "zero point" in said and "convert" in said
    # with the settings file that auto-gptq asks for it loads without an error, and is wrong
    bare = shutil.copytree(by_transformers, tmp_path / "with_settings")
    stored = json.loads((bare / "config.json").read_text())["quantization_config"]
    settings = {name: stored[name] for name in ("bits", "group_size", "desc_act", "sym")}
    (bare / gptq_layouts.SETTINGS).write_text(json.dumps(settings))
    assert autogptq.perplexities([bare], texts[64:], check=False)[0] / fp16 > 2
    there = gptq_layouts.convert(by_transformers, tmp_path / "there", "auto-gptq")
    assert autogptq.perplexities([there], texts[64:])[0] / fp16 < LIMIT


@needs_gptq
@pytest.mark.slow
def test_the_same_weights_in_version_2(by_gptqmodel, texts, fp16, tmp_path):
    """A learner of the lesson's trap: transformers reads it rightly, auto-gptq is kept from it."""
    second = gptq_layouts.as_v2(by_gptqmodel, tmp_path / "v2")
    assert gptq_layouts.describe(second).version == "gptq_v2"
    assert in_transformers(second, texts[64:], tmp_path) / fp16 < LIMIT
    with pytest.raises(CourseError, match="gptq_v2"):
        gptq_layouts.check_readable(second, "auto-gptq")
    with pytest.raises(CourseError, match="gptq_v2 already"):
        gptq_layouts.as_v2(second, tmp_path / "again")


@needs_gptq
@pytest.mark.slow
def test_convert_refuses(by_gptqmodel, tmp_path):
    """A learner who misspells the reader or takes an fp16 model reads what is wrong."""
    with pytest.raises(CourseError, match="no reader"):
        gptq_layouts.convert(by_gptqmodel, tmp_path / "out", "autogptq2")
    with pytest.raises(CourseError, match="not quantized"):
        gptq_layouts.convert(models.POCKET, tmp_path / "out", "auto-gptq")
    with pytest.raises(CourseError, match="holds no model"):
        gptq_layouts.convert(tmp_path, tmp_path / "out", "auto-gptq")
    assert list(tmp_path.iterdir()) == []
