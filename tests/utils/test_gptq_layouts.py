"""GPTQ checkpoints of others: what is understood is read and rewritten, all else is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from course_utils.errors import CourseError
from course_utils.gptq import layouts as gptq_layouts

LLAMA = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
OLD = {**GPTQ, "is_marlin_format": False, "model_name_or_path": None, "damp_percent": 0.01}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def checkpoint(tmp_path):
    """Makes a folder with JSON, files of weights and, in shards, an index."""

    def make(said, files=("model.safetensors",), settings=None, tensors=None, index="") -> Path:
        folder = tmp_path / "ck"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": said}))
        if settings is not None:
            settings = settings if isinstance(settings, str) else json.dumps(settings)
            (folder / "quantize_config.json").write_text(settings)
        for number, name in enumerate(files):
            save_file(tensors or {f"x{number}": torch.zeros(1)}, folder / name)
        if index:
            found = {f"x{n}": name for n, name in enumerate(files)}
            (folder / index).write_text(json.dumps({"weight_map": found}))
        return folder

    return make


def refused(tmp_path, folder, to=("transformers", "gptqmodel", "auto-gptq")) -> str:
    """Every way to rewrite the checkpoint is refused, and nothing is written."""
    said = ""
    for reader in to:
        with pytest.raises(CourseError) as caught:
            gptq_layouts.convert(folder, tmp_path / "out", reader)
        said = str(caught.value)
        assert caught.value.next_step
    with pytest.raises(CourseError):
        gptq_layouts.as_v2(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["ck"], "something was written"
    return said


def packed(zeros, bits=4):
    """Zero points (a list of rows) as GPTQ packs them, words of 32 bits that hold whole numbers."""
    per = 32 // bits
    rows = []
    for row in zeros:
        words = [
            sum(z << (bits * i) for i, z in enumerate(row[at : at + per]))
            for at in range(0, len(row), per)
        ]
        rows.append([word - 2**32 if word >= 2**31 else word for word in words])
    return torch.tensor(rows, dtype=torch.int32)


def unpacked(words, bits=4):
    """The other way round."""
    return [
        [
            (int(word) & 0xFFFFFFFF) >> (bits * i) & 2**bits - 1
            for word in row
            for i in range(32 // bits)
        ]
        for row in words
    ]


# -- what is understood ----------------------------------------------------------------------------


def test_an_official_checkpoint_in_shards_is_let_in_and_rewritten(checkpoint, tmp_path):
    """A learner with one of Qwen's GPTQ checkpoints: shards, an index, no `meta`."""
    folder = checkpoint(GPTQ, SHARDS, index="model.safetensors.index.json")
    for reader in ("transformers", "gptqmodel"):
        assert gptq_layouts.check_readable(folder, reader).maker == "unknown"
    with pytest.raises(CourseError, match="settings"):  # it looks for quantize_config.json
        gptq_layouts.check_readable(folder, "auto-gptq")
    out = gptq_layouts.convert(folder, tmp_path / "out", "auto-gptq")
    assert gptq_layouts.check_readable(out, "auto-gptq").files == SHARDS
    said = gptq_layouts.read_json(out / "quantize_config.json")
    assert said["model_file_base_name"] == "model" and said["desc_act"] is False
    assert (out / "model.safetensors.index.json").is_file()


def test_auto_gptqs_own_shards_are_found_after_the_rewriting(checkpoint, tmp_path):
    """A learner with an old checkpoint in shards: the index gets the name others look for."""
    files = tuple(f"gptq_model-4bit-128g-0000{n}-of-00002.safetensors" for n in (1, 2))
    folder = checkpoint(OLD, files, OLD, index="gptq_model-4bit-128g.safetensors.index.json")
    with pytest.raises(CourseError, match="does not find the weights"):
        gptq_layouts.check_readable(folder, "transformers")
    out = gptq_layouts.convert(folder, tmp_path / "out", "gptqmodel")
    assert gptq_layouts.check_readable(out, "gptqmodel").files == files
    assert "is_marlin_format" not in gptq_layouts.quantization(out)


def test_early_settings_without_a_method_are_auto_gptqs(checkpoint):
    """A learner with a checkpoint of 2023: quantize_config.json names no method and no format."""
    early = {"bits": 4, "group_size": 32, "damp_percent": 0.01, "desc_act": True, "sym": True}
    found = gptq_layouts.describe(checkpoint({}, ("a.safetensors",), early))
    assert (found.version, found.bits, found.group_size) == ("gptq", 4, 32)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zeros_move_between_the_formats_and_back(checkpoint, tmp_path, bits):
    """A learner's checkpoint keeps its weights when it is written in the other format."""
    random = torch.Generator().manual_seed(bits)
    zeros = torch.randint(0, 2**bits - 1, (3, 64 // bits), generator=random).tolist()
    scales = torch.ones(3, 64 // bits, dtype=torch.float16)
    tensors = {"a.qzeros": packed(zeros, bits), "a.scales": scales}
    folder = checkpoint({**GPTQ, "bits": bits}, tensors=tensors)
    second = gptq_layouts.as_v2(folder, tmp_path / "v2")
    assert gptq_layouts.describe(second).version == "gptq_v2"
    moved = load_file(second / "model.safetensors")["a.qzeros"]
    assert unpacked(moved, bits) == [[z + 1 for z in row] for row in zeros]
    back = gptq_layouts.convert(second, tmp_path / "v1", "auto-gptq")
    assert (
        load_file(back / "model.safetensors")["a.qzeros"].tolist() == packed(zeros, bits).tolist()
    )
    with pytest.raises(CourseError, match="gptq_v2 already"):
        gptq_layouts.as_v2(second, tmp_path / "again")


def test_act_order_stays_noted(checkpoint, tmp_path):
    """A learner with act-order: groups in the activations' order, and the JSON says so."""
    order = torch.tensor([1, 0, 1, 0], dtype=torch.int32)
    settings = {**OLD, "desc_act": True, "static_groups": True, "group_size": 2}
    folder = checkpoint(
        settings, ("gptq.safetensors",), settings, {"a.g_idx": order, "a.qzeros": packed([[1] * 8])}
    )
    for reader in gptq_layouts.READERS:
        out = gptq_layouts.convert(folder, tmp_path / reader, reader)
        assert gptq_layouts.read_json(out / "quantize_config.json")["desc_act"] is True
        assert load_file(out / "model.safetensors")["a.g_idx"].tolist() == order.tolist()


# -- what is not -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"checkpoint_format": "marlin"},
        {"checkpoint_format": "gptq_p"},
        {"format": "bitblas"},
        {"format": "GPTQ_V3"},
        {"checkpoint_format": "gptq", "format": "gptq_v2"},
        {"is_marlin_format": True},
        {"quant_method": "awq", "version": "GEMM"},
        {"quant_method": "autoround"},
        {"bits": 5},
        {"bits": "4"},
        {"bits": True},
        {"bits": None},
        {"bits": [4, 8]},
        {"group_size": None},
        {"group_size": "128"},
        {"group_size": 0},
        {"group_size": -2},
        {"meta": ["gptqmodel"]},
        {"meta": {"quantizer": 7}},
    ],
    ids=str,
)
def test_a_format_or_setting_that_is_not_known_is_refused(checkpoint, tmp_path, more):
    """A learner with a checkpoint of another kind: no number is read out of it by guessing."""
    folder = checkpoint({**GPTQ, **more})
    with pytest.raises(CourseError):
        gptq_layouts.describe(folder)
    assert refused(tmp_path, folder)


@pytest.mark.parametrize(
    "said",
    [{"quant_method": "gptq", "group_size": 128}, {"load_in_8bit": True}, {"bits": 4}, [4], "gptq"],
    ids=str,
)
def test_missing_keys_and_other_shapes_are_refused(checkpoint, tmp_path, said):
    """A learner with a config of another time, or of bitsandbytes, gets a message, no traceback."""
    assert refused(tmp_path, checkpoint(said))


@pytest.mark.parametrize(
    "cut", ['{"bits": 4', "[]", "null", '"gptq"', "\x00", '{"bits": 8}'], ids=repr
)
def test_settings_cut_off_or_at_odds_are_refused(checkpoint, tmp_path, cut):
    """A learner whose download broke off, or whose two JSON files disagree, is told which file."""
    assert "quantize_config.json" in refused(tmp_path, checkpoint(GPTQ, settings=cut))


@pytest.mark.parametrize(
    "more",
    [
        {"lm_head": True},
        {"dynamic": {"lm_head": {"bits": 8}}},
        {"pack_dtype": "int16"},
        {"rotation": "hadamard"},
        {"adapter": {"rank": 8}},
        {"modules_in_block_to_quantize": [["self_attn.q_proj"]]},
        {"a_setting_of_next_year": 1},
    ],
    ids=str,
)
def test_a_setting_that_may_change_layers_is_never_dropped(checkpoint, tmp_path, more):
    """A learner with mixed bits: auto-gptq knows no such thing, and the setting would vanish."""
    folder = checkpoint({**GPTQ, **more, "meta": {"quantizer": ["gptqmodel:2.0"]}}, settings=GPTQ)
    with pytest.raises(CourseError, match=next(iter(more))):
        gptq_layouts.check_readable(folder, "auto-gptq")
    assert next(iter(more)) in refused(tmp_path, folder)
    assert gptq_layouts.check_readable(folder, "gptqmodel").maker == "gptqmodel"


def test_three_bits_are_not_shifted(checkpoint, tmp_path):
    """A learner with 3 bits: a zero may lie across two words, so the formats stay apart."""
    zeros = torch.zeros(1, 3, dtype=torch.int32)
    folder = checkpoint({**GPTQ, "bits": 3}, tensors={"a.qzeros": zeros})
    with pytest.raises(CourseError, match="across two words"):
        gptq_layouts.as_v2(folder, tmp_path / "v2")
    assert gptq_layouts.describe(folder).bits == 3, "it is read all the same"


@pytest.mark.parametrize(("edge", "to"), [(15, "v2"), (0, "auto-gptq")])
def test_a_zero_that_runs_over_is_refused(checkpoint, tmp_path, edge, to):
    """A learner with sym=False: a zero point at the edge does not become its neighbour's."""
    version = "gptq" if to == "v2" else "gptq_v2"
    zeros = packed([[3, 9, edge, 1, 2, 4, 5, 6]])
    folder = checkpoint({**GPTQ, "checkpoint_format": version}, tensors={"a.qzeros": zeros})
    with pytest.raises(CourseError, match=f"is {edge}"):
        if to == "v2":
            gptq_layouts.as_v2(folder, tmp_path / "out")
        else:
            gptq_layouts.convert(folder, tmp_path / "out", to)
    assert [path.name for path in tmp_path.iterdir()] == ["ck"]


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"a.qzeros": torch.zeros(2, 1, dtype=torch.int64)}, "32-bit integers"),
        (
            {"a.qzeros": torch.zeros(1, 2, dtype=torch.int32), "a.scales": torch.ones(1, 8)},
            "zero points are not 4 bits",
        ),
        (
            {
                "a.qzeros": packed([[1] * 8]),
                "a.g_idx": torch.zeros(128, dtype=torch.int32),
                "a.qweight": torch.zeros(32, 8, dtype=torch.int32),
            },
            "weights are not 4 bits",
        ),
        (
            {"a.qzeros": packed([[1] * 8]), "a.g_idx": torch.tensor([1, 0]).repeat(128).int()},
            "desc_act is not set",
        ),
    ],
    ids=["dtype", "zeros", "weights", "act-order"],
)
def test_tensors_that_do_not_fit_the_settings_are_refused(checkpoint, tmp_path, tensors, why):
    """A learner whose JSON was edited: the weights are looked at before they are rewritten."""
    assert why in refused(tmp_path, checkpoint(GPTQ, settings=GPTQ, tensors=tensors))


def test_weights_that_are_not_all_there_are_refused(checkpoint, tmp_path):
    """A learner whose download lacks a shard or the index is told which file."""
    folder = checkpoint(GPTQ, SHARDS, index="model.safetensors.index.json")
    (folder / SHARDS[1]).unlink()
    assert SHARDS[1] in refused(tmp_path, folder)
    with pytest.raises(CourseError, match="missing"):
        gptq_layouts.check_readable(folder, "transformers")
    save_file({"x": torch.zeros(1)}, folder / SHARDS[1])
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    assert "does not name model.safetensors" in refused(tmp_path, folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink()
    assert "2 files of weights and 0 indexes" in refused(tmp_path, folder)
    for name in SHARDS:
        (folder / name).rename(folder / f"{name}.bin")
    assert "pickled" in refused(tmp_path, folder)


def test_nothing_else_is_taken_for_a_reader_or_a_checkpoint(checkpoint, tmp_path):
    """A learner who misspells the reader or takes an fp16 model reads what is wrong."""
    folder = checkpoint({})
    for call in (
        gptq_layouts.check_readable,
        lambda f, r: gptq_layouts.convert(f, tmp_path / "o", r),
    ):
        with pytest.raises(CourseError, match="no reader"):
            call(folder, "autogptq2")
        with pytest.raises(CourseError, match="not quantized"):
            call(folder, "transformers")
        with pytest.raises(CourseError, match="holds no model"):
            call(tmp_path, "transformers")
    assert [path.name for path in tmp_path.iterdir()] == ["ck"]


def layer(name="model.layers.0.mlp.up_proj", size=128, **more):
    """A whole layer of 256 inputs and 64 outputs as GPTQ packs it; `more` replaces its tensors."""
    tensors = {
        "qweight": torch.zeros(32, 64, dtype=torch.int32),
        "qzeros": torch.full((256 // size, 8), 0x77777777, dtype=torch.int32),
        "scales": torch.ones(256 // size, 64, dtype=torch.float16),
        "g_idx": (torch.arange(256) // size).int(),
    }
    return {f"{name}.{k}": v for k, v in {**tensors, **more}.items() if v is not None}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"g_idx": None},
        {"g_idx": torch.arange(256) // 128},
        {"scales": torch.ones(2, 64, dtype=torch.bfloat16)},
    ],
    ids=["whole", "no g_idx", "long g_idx", "bf16"],
)
def test_a_whole_layer_is_let_in(checkpoint, tmp_path, more):
    """A learner with a sound checkpoint: every usual way to store a layer is rewritten."""
    folder = checkpoint(GPTQ, tensors=layer(**more))
    for reader in ("transformers", "gptqmodel"):
        gptq_layouts.check_readable(folder, reader)
        gptq_layouts.convert(folder, tmp_path / reader, reader)


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1"],
    ids=["empty", "page", "pointer"],
)
def test_a_damaged_file_of_weights_is_named(checkpoint, tmp_path, content):
    """A learner whose download broke off: which file, and that it is to be fetched again."""
    folder = checkpoint(GPTQ, settings=GPTQ)
    whole = (folder / "model.safetensors").read_bytes()
    for bad in (content, whole[:-2]):
        (folder / "model.safetensors").write_bytes(bad)
        assert "model.safetensors is damaged" in refused(tmp_path, folder)
        with pytest.raises(CourseError, match="damaged"):
            gptq_layouts.check_readable(folder, "transformers")


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (layer(qzeros=None), {}),
        (layer(scales=None), {}),
        (layer(qweight=torch.zeros(32, 64, dtype=torch.int64)), {}),
        (layer(qweight=torch.zeros(32, dtype=torch.int32)), {}),
        (layer(scales=torch.ones(64, dtype=torch.float16)), {}),
        (layer(scales=torch.ones(2, 64, dtype=torch.int32)), {}),
        (layer(g_idx=(torch.arange(256) // 128).float()), {}),
        (layer(g_idx=torch.full((256,), 9).int()), {"desc_act": True}),
        (layer(g_idx=torch.full((256,), -1).int()), {"desc_act": True}),
        (layer(), {"group_size": 64, "desc_act": True}),
        (layer(g_idx=None), {"group_size": 64}),
        (layer(), {"group_size": -1, "desc_act": True}),
        (layer(qweight=torch.zeros(256, 8, dtype=torch.int32), g_idx=None), {}),
        (layer("lm_head"), {}),
    ],
)
def test_layers_with_missing_or_odd_tensors_are_refused(checkpoint, tmp_path, tensors, said):
    """A learner whose checkpoint is not whole, or packed as AWQ does: found before a rewriting."""
    folder = checkpoint({**GPTQ, **said}, settings={**GPTQ, **said}, tensors=tensors)
    assert "do not fit" in refused(tmp_path, folder)
    with pytest.raises(CourseError, match="do not fit"):
        gptq_layouts.check_readable(folder, "gptqmodel")


@pytest.mark.parametrize(
    "more",
    [
        {"desc_act": "false"},
        {"sym": "true"},
        {"checkpoint_format": 2},
        {"format": ["gptq"]},
        {"static_groups": 1},
    ],
    ids=str,
)
def test_settings_of_another_type_are_not_guessed(checkpoint, tmp_path, more):
    """A learner whose JSON was written by hand: the text "false" is not taken for true."""
    assert refused(tmp_path, checkpoint({**GPTQ, **more}))


def test_shards_hold_what_their_index_names(checkpoint, tmp_path):
    """A learner with shards of two downloads: the tensor that is missing is named."""
    folder = checkpoint(GPTQ, SHARDS, index="model.safetensors.index.json")
    whole = layer()
    parts = [dict(list(whole.items())[:2]), dict(list(whole.items())[2:])]
    where = {}
    for name, part in zip(SHARDS, parts, strict=True):
        save_file(part, folder / name)
        where |= dict.fromkeys(part, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": where}))
    gptq_layouts.check_readable(folder, "transformers")
    index.write_text(json.dumps({"weight_map": {**where, "lm_head.weight": SHARDS[0]}}))
    assert "lm_head.weight is in no file" in refused(tmp_path, folder)


def test_settings_that_transformers_does_not_look_for(checkpoint, tmp_path):
    """A learner whose config.json says nothing: transformers would load fresh random layers."""
    folder = checkpoint({}, settings=OLD)
    with pytest.raises(CourseError, match="does not see"):
        gptq_layouts.check_readable(folder, "transformers")
    out = gptq_layouts.convert(folder, tmp_path / "out", "transformers")
    gptq_layouts.check_readable(out, "transformers")
