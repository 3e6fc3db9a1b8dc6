"""The look-alike of Colab itself, and secrets on it. The lessons run on it with `make colab`."""

import ast
import json
import sys
from pathlib import Path

import pytest

from course_staff.notebooks import store as notebooks
from course_utils import settings

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import look_alike  # noqa: E402
import versions  # noqa: E402

LIST = """\
# Do not modify this file directly
absl-py==1.4.0
huggingface_hub==1.28.0
ipython==7.34.0
notebook==6.5.7
Numpy==2.1.3
torch @ https://download.example/whl/cu128/torch-2.12.0%2Bcu128-cp313-cp313-linux_x86_64.whl#sha256=a
google-colab @ file:///colabtools/dist/google-colab-1.0.0.tar.gz
"""


@pytest.fixture
def colab(monkeypatch, tmp_path):
    """A kernel on Colab, with its page: `colab({"NAME": {...}})` fills the key panel."""
    monkeypatch.syspath_prepend(str(HERE / "site"))
    monkeypatch.setenv("COLAB_RELEASE_TAG", "look-alike")
    monkeypatch.setenv("COURSE_STATIC", "0")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("IPython.get_ipython", lambda: "a shell")

    def page(secrets: dict) -> None:
        (tmp_path / "page.json").write_text(json.dumps(secrets))
        monkeypatch.setenv("COLAB_PAGE", str(tmp_path / "page.json"))

    yield page
    # the namespace package too: it remembers where it was found, and may have no other home here
    for name in [one for one in sys.modules if one == "google" or one.startswith("google.colab")]:
        del sys.modules[name]


def test_userdata_fails_in_its_four_ways(colab, monkeypatch):
    """A maintainer who relies on the look-alike: the errors are as different as Colab's."""
    from google.colab import errors, userdata

    colab({"HIDDEN": {"access": False, "payload": "x"}})
    with pytest.raises(userdata.SecretNotFoundError) as absent:
        userdata.get("OPENAI_API_KEY")
    with pytest.raises(userdata.NotebookAccessError) as refused:
        userdata.get("HIDDEN")
    with pytest.raises(ValueError):
        userdata.get("")
    monkeypatch.delenv("COLAB_PAGE")
    monkeypatch.setattr(userdata, "SECONDS", 0.01)
    with pytest.raises(userdata.TimeoutException) as late:
        userdata.get("HIDDEN")
    kinds = [isinstance(one.value, errors.Error) for one in (absent, refused, late)]
    assert kinds == [True, False, True]


@pytest.mark.parametrize("panel", [{}, {"OPENAI_API_KEY": {"access": False, "payload": "x"}}, None])
def test_a_secret_that_colab_does_not_give_is_none(colab, monkeypatch, panel):
    """A learner on Colab without a key goes on in the pocket tier, without a traceback."""
    from google.colab import userdata

    monkeypatch.setattr(userdata, "SECONDS", 0.01)
    if panel is not None:
        colab(panel)
    assert settings.secret("OPENAI_API_KEY") is None


def test_a_granted_secret_arrives(colab):
    """A learner on Colab with a key in the panel."""
    colab({"OPENAI_API_KEY": {"access": True, "payload": "sk-granted\n"}})
    assert settings.secret("OPENAI_API_KEY") == "sk-granted"


def test_the_constraints_follow_colabs_list():
    """A maintainer who refreshes the versions: only what the course uses, CUDA builds by number."""
    lines = versions.constraints(LIST, "2027-01-01").splitlines()
    assert "2027-01-01" in lines[0]
    wanted = ["huggingface_hub==1.28.0", "ipython==7.34.0", "notebook==6.5.7", "Numpy==2.1.3"]
    assert [one for one in lines if not one.startswith("#")] == [*wanted, "torch==2.12.0"]


def test_the_look_alike_has_what_colab_has():
    """A learner on Colab: what is not there in the test may not be there on Colab either."""
    names = set(versions.listed((HERE / "constraints.txt").read_text()))
    assert {"torch", "transformers", "numpy", "ipython", "ipywidgets"} <= names
    assert not {"trl", "bitsandbytes", "nbval", "jupyterlab"} & names
    assert not {"trl", "bitsandbytes", "nbval", "jupyterlab"} & set(look_alike.PREINSTALLED)


def environment(folder: Path, **packages: str) -> Path:
    """A virtual environment as far as `packages` looks: metadata of installed packages."""
    for name, number in packages.items():
        info = folder / "lib" / "site-packages" / f"{name}-{number}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: {name}\nVersion: {number}\n")
    return folder


def test_a_replaced_package_is_named(monkeypatch, tmp_path):
    """A learner on Colab whose setup cell must not end in "restart the runtime"."""
    base = environment(tmp_path / "base", numpy="2.1.3", datasets="4.0.0", tqdm="4.67.1")
    monkeypatch.setattr(look_alike, "BASE", base)
    machine = environment(tmp_path / "new", numpy="2.4.6", datasets="5.2.0", tqdm="4.70.0", trl="1")
    assert look_alike.changes(machine, {"numpy"}) == [
        "the setup cell did not bring the course",
        "numpy 2.1.3 became 2.4.6: it was imported already, Colab would ask for a restart",
        "tqdm 4.67.1 became 4.70.0: Colab's own version should stay",
    ]


def test_a_t4_is_told_by_its_compute_capability():
    """A learner on Colab's T4: PyTorch's own answer is True there, and bf16 is emulated, slowly."""
    for path in [*(notebooks.ROOT / "course_utils").rglob("*.py"), *notebooks.every()]:
        if path.suffix == ".py":
            code = ast.dump(ast.parse(path.read_text(encoding="utf-8")), annotate_fields=False)
            assert "'is_bf16_supported'" not in code, path.name
        else:
            cells = [cell for cell in notebooks.read(path).cells if cell.cell_type == "code"]
            assert not any("is_bf16_supported(" in cell.source for cell in cells), path.name
