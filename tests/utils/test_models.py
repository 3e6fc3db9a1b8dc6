"""Which model is loaded, and one clear message for everything that can be wrong with it.

The hub's answers come from a real HTTP server. What is asked runs in a process of its own, as a
learner's kernel does, because huggingface_hub reads its settings once, when it is imported.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_stand_in import DOWN, GATED, TOKEN, serve

from course_staff.notebooks import store as notebooks
from course_utils import models
from course_utils.errors import CourseError

ASK = """
from course_utils import models
from course_utils.errors import CourseError
try:
    print(models.model_path())
except CourseError as error:
    print(error)
"""


def kernel(model: str, home: Path, program: str = ASK, prefix: tuple[str, ...] = (), **more: str):
    """What a learner's fresh kernel prints with this COURSE_MODEL and an empty hub cache."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "COURSE_", "OPENAI_"))}
    env |= {"COURSE_MODEL": model, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | more
    env["PYTHONPATH"] = str(notebooks.ROOT)
    done = subprocess.run(
        [*prefix, sys.executable, "-c", program], env=env, cwd=home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pocket_files() -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in models.POCKET.iterdir() if p.is_file()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A learner's own copy of a whole checkpoint."""
    return Path(shutil.copytree(models.POCKET, tmp_path / "my model"))


def refused(name) -> CourseError:
    with pytest.raises(CourseError) as caught:
        models.model_path(str(name))
    assert caught.value.next_step, "a message without a next step"
    return caught.value


# -- what works ----------------------------------------------------------------------------------


def test_pocket_is_there_and_whole():
    """A learner who has set nothing gets the bundled folder."""
    assert models.model_path("pocket") == str(models.POCKET)


def test_any_folder_works(folder, monkeypatch):
    """A learner's folder may hold spaces and be named in full or from here."""
    assert models.model_path(str(folder)) == str(folder)
    monkeypatch.chdir(folder.parent)
    assert models.model_path("./my model")
    assert models.model_path("my model")


def test_the_label_says_tier_and_model(monkeypatch):
    """A learner always reads which model made a number."""
    monkeypatch.setenv("COURSE_MODEL", "")
    assert models.said_by() == "pocket tier, Pocket Llama"
    monkeypatch.setenv("COURSE_MODEL", models.TINY_LLAMA)
    assert models.said_by() == "full tier, TinyLlama-1.1B-Chat-v1.0"


def test_the_small_model_is_named_before_it_is_fetched(tmp_path):
    """A learner who names the small tier first reads the one command that fetches it."""
    said = kernel("smollm2", tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "python -m course_utils get smollm2" in said
    said = kernel("smollm2", tmp_path, "from course_utils import models; print(models.said_by())")
    assert said == "small tier, SmolLM2-135M-Instruct\n"


# -- folders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./none", "~/none-of-mine", "C:\\models\\none"]
)
def test_no_such_folder(name):
    """A learner who mistypes a path is not sent to the hub."""
    assert "does not exist" in refused(name).what


def test_a_folder_without_a_model(tmp_path, folder):
    """A learner who names the folder above the model is told where the model is."""
    (tmp_path / "empty").mkdir()
    assert "holds no model" in refused(tmp_path / "empty").what
    assert "'my model'" in refused(tmp_path).why


def test_a_file_in_place_of_a_folder(folder):
    """A learner who names the weights themselves is told to name the folder."""
    assert "is a file" in refused(folder / "model.safetensors").what


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_folder_with_something_missing(folder, file):
    """A learner whose copy stopped half-way is told so before PyTorch is."""
    (folder / file).unlink()
    assert "holds no" in refused(folder).what


def test_a_folder_with_a_missing_shard(folder):
    """A learner with 1 of 2 shards of a large model reads which one is missing."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {
            "a": "model-00001-of-00002.safetensors",
            "b": "model-00002-of-00002.safetensors",
        }
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00002-of-00002.safetensors" in refused(folder).what


@pytest.mark.parametrize("keep", [0, 7, 8, 100, 5000, -1])
def test_weights_that_were_cut_off(folder, keep):
    """A learner whose download was cut off, anywhere, reads the file's name and what to do."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    error = refused(folder)
    assert error.what == "model.safetensors in my model is damaged."
    assert "again" in error.next_step


@pytest.mark.parametrize(
    "content",
    [b"\xff" * 64, b"<html>Not found</html>", b"version https://git-lfs.github.com/spec/v1\n"],
)
def test_weights_that_are_something_else(folder, content):
    """A learner who saved a web page or a Git LFS pointer under the weights' name is told."""
    (folder / "model.safetensors").write_bytes(content)
    assert "damaged" in refused(folder).what


def write_weights(path: Path, **tensors) -> None:
    from safetensors.numpy import save_file

    save_file({name.replace("__", "."): tensor for name, tensor in tensors.items()}, path)


def test_weights_without_a_tensor(folder):
    """A learner whose tool wrote an empty file gets no model of random numbers."""
    write_weights(folder / "model.safetensors")
    error = refused(folder)
    assert "damaged" in error.what and "no tensor" in error.why


def test_weights_that_are_whole_numbers(folder):
    """A learner with weights that were quantized by hand: they are not read as plain numbers."""
    import numpy as np

    write_weights(folder / "model.safetensors", lm_head__weight=np.ones((4, 4), np.int8))
    assert "lm_head.weight is stored as I8" in refused(folder).why
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 8}
    (folder / "config.json").write_text(json.dumps(config))
    models.check_folder(folder)


def test_an_index_that_looks_in_the_wrong_file(folder):
    """A learner who mixed the shards of two downloads reads which tensor is not there."""
    index = {"weight_map": {"lm_head.weight": "model.safetensors", "gone": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    error = refused(folder)
    assert "model.safetensors in my model is damaged" in error.what and "gone" in error.why


@pytest.mark.parametrize("content", ["[]", "7", "{}", '{"weight_map": []}'])
def test_an_index_that_is_none(folder, content):
    """A learner whose index was written by something else reads its name."""
    (folder / "model.safetensors.index.json").write_text(content)
    error = refused(folder)
    assert "model.safetensors.index.json in my model is damaged" in error.what


@pytest.mark.parametrize("said", [[], {}, {"model_type": 5}, {"dtype": "fp16"}, {"dtype": "int7"}])
def test_a_config_that_does_not_say_what_it_is_of(folder, said):
    """A learner with a config of another program reads what is missing, not a KeyError."""
    config = json.loads((folder / "config.json").read_text())
    content = {**config, **said} if "dtype" in said else said
    (folder / "config.json").write_text(json.dumps(content))
    assert "config.json in my model is damaged" in refused(folder).what


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_settings_that_are_damaged(folder, file, content):
    """A learner reads which small file is broken, not a JSON position."""
    (folder / file).write_bytes(content)
    assert f"{file} in my model is damaged" in refused(folder).what


def test_a_damaged_pocket_llama_is_reinstalled(tmp_path, monkeypatch):
    """A learner whose clone broke is told how to get Pocket Llama back."""
    copy = Path(shutil.copytree(models.POCKET, tmp_path / "pocket_llama"))
    (copy / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(models, "POCKET", copy)
    assert "pip install" in refused("pocket").next_step


# -- names and the hub ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["poket", "pocket llama", "llama", "a/b/c", "TinyLlama-1.1B-Chat-v1.0"]
)
def test_a_misspelt_name(name):
    """A learner's typo is named at once, with an example of what to write."""
    error = refused(name)
    assert repr(name) in error.what
    assert models.TINY_LLAMA in error.next_step


def test_a_near_miss_is_suggested():
    """A learner who forgets a letter reads the name they meant."""
    assert "Did you mean 'pocket'?" in refused("poket").next_step


def test_downloads_switched_off(tmp_path):
    """A learner who named the model after the setup cell is told to restart the kernel."""
    said = kernel("owner/name", tmp_path, HF_HUB_OFFLINE="1")
    assert "switched off" in said
    assert "Restart the kernel" in said


def test_no_network(tmp_path):
    """A learner without network reads so within seconds, not after a minute of retries."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        began = time.monotonic()
        kernel("owner/name", tmp_path, HF_HUB_OFFLINE="1")  # this one does not try
        without = time.monotonic() - began
        said = kernel(
            "owner/name", tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{closed.getsockname()[1]}"
        )
    assert "cannot be reached" in said
    assert time.monotonic() - began < 6 * without
    assert not list(tmp_path.rglob("*name*"))


@pytest.mark.slow
def test_no_network_but_downloaded_before(tmp_path):
    """A learner who has the model goes on without network, and without asking for it."""
    with serve({"owner/name": pocket_files()}) as hub:
        first = kernel("owner/name", tmp_path, HF_ENDPOINT=hub).strip()
    again = kernel("owner/name", tmp_path, HF_ENDPOINT=hub).strip()
    assert Path(again).is_dir()
    assert again == first
    models.check_folder(Path(again))
    assert not list(tmp_path.rglob("*.incomplete"))


@pytest.mark.slow
def test_only_what_is_needed_is_downloaded(tmp_path):
    """A learner does not fetch the same weights twice because a repository holds them twice."""
    extra = {"pytorch_model.bin": b"x", "consolidated.safetensors": b"x", "onnx/model.onnx": b"x"}
    with serve({"owner/name": pocket_files() | extra}) as hub:
        folder = Path(kernel("owner/name", tmp_path, HF_ENDPOINT=hub).strip())
    assert not {p.name for p in folder.rglob("*")} & {
        "pytorch_model.bin",
        "consolidated.safetensors",
        "onnx",
    }


@pytest.mark.slow
def test_an_unknown_model(tmp_path):
    """A learner who misspells a hub id reads so; without a token it might be private."""
    with serve({}) as hub:
        said = kernel("TinyLama/TinyLlama-1.1B-Chat-v1.0", tmp_path, HF_ENDPOINT=hub)
        with_token = kernel("owner/none", tmp_path, HF_ENDPOINT=hub, HF_TOKEN=TOKEN)
    assert "There is no model 'TinyLama/TinyLlama-1.1B-Chat-v1.0' on the hub" in said
    assert f"Did you mean {models.TINY_LLAMA!r}?" in said
    assert "There is no model 'owner/none'" in with_token


def test_a_gated_model(tmp_path):
    """A learner reads each step to get access, and what to use until then."""
    with serve({}) as hub:
        without = kernel(GATED, tmp_path, HF_ENDPOINT=hub)
        not_granted = kernel(GATED, tmp_path, HF_ENDPOINT=hub, HF_TOKEN=TOKEN)
    for said in (without, not_granted):
        assert "is gated" in said
        assert "Accept the licence" in said
        assert models.TINY_LLAMA in said
    assert "No HF_TOKEN is set" in without
    assert "accept a licence first" in not_granted


@pytest.mark.slow
def test_a_wrong_token(tmp_path):
    """A learner with an old token is not told that the model does not exist."""
    with serve({"owner/name": pocket_files()}) as hub:
        said = kernel("owner/name", tmp_path, HF_ENDPOINT=hub, HF_TOKEN="hf_wrong")
    assert "does not accept your HF_TOKEN" in said
    assert "hf_wrong" not in said


def test_the_hub_is_down(tmp_path):
    """A learner waits and tries again, knowing that nothing is wrong at home, and who was asked."""
    with serve({}) as hub:
        said = kernel(DOWN, tmp_path, HF_ENDPOINT=hub)
    assert "did not answer" in said
    assert "503" in said
    assert f"Asked was {hub.partition('//')[2]}, as HF_ENDPOINT says" in said


@pytest.mark.slow
def test_a_model_too_big_for_the_disk(tmp_path):
    """A learner learns before the download that the disk is too small."""
    with serve({"owner/name": pocket_files()}, claim={"model.safetensors": 10**16}) as hub:
        said = kernel("owner/name", tmp_path, HF_ENDPOINT=hub)
    assert "too full for owner/name" in said
    assert "GiB are free" in said
    assert not list(tmp_path.rglob("*name*"))


@pytest.mark.slow
def test_the_disk_runs_full_while_downloading(tmp_path):
    """A learner whose disk fills up on the way keeps a usable kernel and no half file."""
    small = tmp_path / "small disk"
    small.mkdir()
    mount = f"mount -t tmpfs -o size=2m tmpfs '{small}' && exec \"$@\""
    prefix = ("unshare", "-rm", "sh", "-c", mount, "sh")
    if (
        not shutil.which("unshare")
        or subprocess.run([*prefix, "true"], capture_output=True).returncode
    ):
        pytest.skip("making a small disk takes user namespaces, which this machine does not allow")
    look = "from pathlib import Path\nprint('left:', list(Path().rglob('*.incomplete')))"
    program = f"{ASK}\n{look}"
    with serve({"owner/name": pocket_files()}, claim={"model.safetensors": 1}) as hub:
        said = kernel("owner/name", small, program, prefix, HF_ENDPOINT=hub)
    assert "The disk ran full while owner/name was downloaded" in said
    assert "left: []" in said
