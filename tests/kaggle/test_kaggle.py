"""A look-alike of Kaggle: its secrets, its two GPUs, and packages older than Colab's."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from course_staff.notebooks import shared
from course_utils import settings

HERE = Path(__file__).parent


@pytest.fixture
def kaggle(monkeypatch, tmp_path):
    """A kernel on Kaggle: `kaggle({"NAME": "value"})` attaches secrets, `kaggle("off")` no net."""
    monkeypatch.syspath_prepend(str(HERE / "site"))
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.setenv("COURSE_STATIC", "0")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)

    def page(secrets: dict | str) -> None:
        if isinstance(secrets, dict):
            (tmp_path / "page.json").write_text(json.dumps(secrets))
            secrets = str(tmp_path / "page.json")
        monkeypatch.setenv("KAGGLE_PAGE", secrets)

    yield page
    sys.modules.pop("kaggle_secrets", None)


def test_an_attached_secret_arrives(kaggle):
    """A learner on Kaggle with a key under Add-ons, Secrets."""
    kaggle({"OPENAI_API_KEY": "sk-attached\n"})
    assert settings.secret("OPENAI_API_KEY") == "sk-attached"
    assert os.environ["OPENAI_API_KEY"] == "sk-attached"


@pytest.mark.parametrize("page", [{}, {"OPENAI_API_KEY": ""}, "off", None])
def test_a_secret_that_kaggle_does_not_give_is_none(kaggle, page):
    """A learner on Kaggle without a key, or without internet, goes on in the pocket tier."""
    if page is not None:
        kaggle(page)
    assert settings.secret("OPENAI_API_KEY") is None


def test_a_program_asks_for_no_secret(kaggle, monkeypatch):
    """An instructor who validates on Kaggle: what is stored depends on nobody's secrets."""
    kaggle({"OPENAI_API_KEY": "sk-attached"})
    monkeypatch.setenv("COURSE_STATIC", "1")
    assert settings.secret("OPENAI_API_KEY") is None


@pytest.mark.parametrize(
    ("tier", "own", "seen"),
    [("pocket", None, "0"), ("org/large-model", None, None), ("pocket", "1", "1")],
)
def test_a_small_model_uses_one_of_the_two_gpus(kaggle, monkeypatch, tier, own, seen):
    """A learner with Kaggle's two T4s: the trainer does not split a small model's batches."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ["COURSE_MODEL"] = tier
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if own:
        os.environ["CUDA_VISIBLE_DEVICES"] = own
    settings.prepare()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen


# -- the setup cell, with pip and packages of our own ---------------------------------------------


def wheel(folder: Path, name: str, version: str, files: dict[str, str], needs: str = "") -> Path:
    """A wheel, made by hand."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    about += f"Requires-Dist: {needs}\n" if needs else ""
    files = files | {
        f"{info}/METADATA": about,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/top_level.txt": "\n".join({file.partition("/")[0] for file in files}),
    }
    with zipfile.ZipFile(path, "w") as pack:
        for file, text in files.items():
            pack.writestr(file, text)
        pack.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in files))
    return path


def numbered(folder: Path, name: str, version: str) -> Path:
    """A package that says its version."""
    return wheel(folder, name, version, {f"{name}/__init__.py": f"version = {version!r}\n"})


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """`machine(needs, before)`: what the setup cell says on a machine with demo 1.0 and torch 1.0.

    The course asks there for `needs`; `before` runs first, in the same kernel.
    """
    folder = tmp_path_factory.mktemp("kaggle")
    shelf = folder / "shelf"
    shelf.mkdir()
    for name in ("demo", "torch"):
        for version in ("1.0", "2.0"):
            numbered(shelf, name, version)
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COURSE_SOURCE")}
    env |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf)}

    def build(needs: str, before: str = "", **more: str) -> subprocess.CompletedProcess:
        place = folder / f"venv-{len(list(folder.iterdir()))}"
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        pip = [python, "-m", "pip", "install", "-q", "demo==1.0", "torch==1.0"]
        subprocess.run(pip, env=env, check=True)
        files = {
            "course_utils/__init__.py": "",
            "course_utils/settings.py": "def prepare():\n    pass\n",
            "course_utils/models.py": "import demo\n\n\ndef said_by():\n    return demo.version\n",
        }
        source = wheel(place, "open_llms_hands_on", "1", files, needs)
        return subprocess.run(
            [python, "-c", f"{before}\n{shared.setup_source()}"],
            env={**env, "COURSE_SOURCE": str(source), **more},
            cwd=place,
            capture_output=True,
            text=True,
        )

    return build


@pytest.mark.slow
def test_what_is_there_stays_where_it_is_good_enough(machine):
    """A learner on Colab or Kaggle: newer releases exist, and nothing is replaced by them."""
    done = machine("demo>=1.0")
    assert done.stdout.endswith("\n1.0\n"), done.stderr


@pytest.mark.slow
def test_what_is_too_old_moves_up_where_nothing_has_loaded_it(machine):
    """A learner on Kaggle, whose packages are older than Colab's."""
    done = machine("demo>=2.0")
    assert done.stdout.endswith("\n2.0\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("needs", "before"), [("demo>=2.0", "import demo"), ("torch>=2.0", "")])
def test_what_is_loaded_is_never_replaced(machine, needs, before):
    """A learner whose kernel holds the old one, or whose PyTorch fits the machine's GPU driver."""
    done = machine(needs, before)
    assert done.returncode != 0 and "could not be installed" in done.stderr
    assert "Next: check the network (on Kaggle" in done.stderr


def test_without_an_address_it_says_what_to_set():
    """A learner of a copy whose address is still the stand-in: no minute of pip, one sentence."""
    hidden = "import importlib.util\nimportlib.util.find_spec = lambda name: None\n"
    env = {k: v for k, v in os.environ.items() if k != "COURSE_SOURCE"}
    done = subprocess.run(
        [sys.executable, "-c", hidden + shared.setup_source()],
        env=env,
        capture_output=True,
        text=True,
    )
    assert "This copy of the course has no address yet" in done.stderr
    assert "COURSE_SOURCE" in done.stderr and "Installing" not in done.stdout
