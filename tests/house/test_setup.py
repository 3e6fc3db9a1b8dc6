"""`make lab`, `make test-all` and the skips: set-up that recovers, and nothing left out unsaid."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from course_staff.notebooks import store as notebooks

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(not MAKE or os.name == "nt", reason="there is no make here")
# A project with a build backend of its own, so that pip needs no network.
BACKEND = """
import base64, hashlib, os, pathlib, zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name, info = "tiny-0-py3-none-any.whl", "tiny-0.dist-info"
    lines = {
        "tiny.pth": [os.getcwd()],
        f"{info}/METADATA": ["Metadata-Version: 2.1", "Name: tiny", "Version: 0"],
        f"{info}/WHEEL": ["Wheel-Version: 1.0", "Root-Is-Purelib: true", "Tag: py3-none-any"],
    }
    files = {path: "\\n".join(text) + "\\n" for path, text in lines.items()}
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{p},,\\n" for p in [*files, f"{info}/RECORD"]))
    return name

def build_wheel(*given, **named):
    return build_editable(*given, **named)
"""
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
LAB = "import sys; print('LAB', sys.version_info[:2], sys.prefix)"


def project(folder: Path) -> Path:
    """A course of one file, with this course's Makefile."""
    (folder / "course_utils").mkdir(parents=True)
    shutil.copy(notebooks.ROOT / "Makefile", folder)
    (folder / "constraints.txt").write_text("")
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "course_utils" / "__init__.py").write_text("")
    (folder / "course_utils" / "__main__.py").write_text(LAB)
    return folder


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """`make lab` as a learner types it, without a network."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "MAKE", "MFLAGS"))}
    env |= {"PIP_NO_INDEX": "1", "PYTHON": sys.executable}
    return subprocess.run(
        [MAKE, *(words or ("lab",))],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def said(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def course_of(folder: Path) -> str:
    """Where a kernel of the environment, started in another folder, finds the course."""
    python = folder / ".venv" / "bin" / "python"
    code = "import course_utils; print(course_utils.__file__)"
    done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, cwd="/")
    return done.stdout.strip() or done.stderr


@pytest.mark.slow
def test_make_lab_sets_up_once_and_says_what_it_does(tmp_path):
    """A learner whose folder has spaces, accents and odd signs, and who wonders what takes long."""
    folder = project(tmp_path / "My courses, übung (1) & c'd")
    first = said(make(folder))
    assert "Setting up the course" in first and "LAB" in first
    assert course_of(folder).startswith(str(folder))
    again = said(make(folder))
    assert "Setting up" not in again and "pip" not in again and "LAB" in again


@pytest.mark.slow
@pytest.mark.parametrize("at", ["the environment begins", "pip begins"])
def test_make_lab_recovers_from_being_killed(tmp_path, at):
    """A learner whose laptop went out in the middle of the set-up: the next `make lab` mends it."""
    folder = project(tmp_path / "p")
    sign = folder / ".venv" / ("pyvenv.cfg" if at == "the environment begins" else "unfinished")
    env = {**os.environ, "PIP_NO_INDEX": "1", "PYTHON": sys.executable}
    running = subprocess.Popen(
        [MAKE, "lab"],
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not sign.exists() and running.poll() is None:
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert "is not whole" in said(make(folder))
    assert course_of(folder).startswith(str(folder))


@pytest.mark.slow
def test_make_lab_notices_a_moved_and_a_copied_folder(tmp_path):
    """A learner who tidies up: kernels go on finding the course, and find the right copy."""
    folder = project(tmp_path / "p")
    said(make(folder))
    moved = folder.rename(tmp_path / "moved")
    said(make(moved))
    assert course_of(moved).startswith(str(moved))
    copy = Path(shutil.copytree(moved, tmp_path / "copy", symlinks=True))
    said(make(copy))
    assert course_of(copy).startswith(str(copy)) and course_of(moved).startswith(str(moved))


@pytest.mark.slow
@pytest.mark.parametrize("now", ["gone", "another version"])
def test_make_lab_notices_another_python(tmp_path, now):
    """A learner whose system was upgraded: Python under the environment is another one, or gone."""
    folder = project(tmp_path / "p")
    said(make(folder))
    python = folder / ".venv" / "bin" / "python"
    python.unlink()
    if now == "gone":
        python.symlink_to(tmp_path / "no-such-python")
    else:  # another version looks for its packages in a folder of its own
        (lib,) = (folder / ".venv" / "lib").glob("python3.*")
        lib.rename(lib.with_name("python3.2"))
        python.symlink_to(sys.executable)
    assert "is not whole" in said(make(folder))
    assert course_of(folder).startswith(str(folder))


@pytest.mark.slow
def test_a_failed_update_leaves_the_environment_as_it_was(tmp_path):
    """A learner without a network, when the course asks for a new package: all runs as before."""
    folder = project(tmp_path / "p")
    said(make(folder))
    stamp = (folder / ".venv" / "pyvenv.cfg").stat()
    (folder / "pyproject.toml").write_text(PYPROJECT.replace("[]", '["no-such-package"]'))
    assert make(folder).returncode != 0
    (folder / "pyproject.toml").write_text(PYPROJECT)
    assert "is not whole" not in said(make(folder))
    assert (folder / ".venv" / "pyvenv.cfg").stat().st_ino == stamp.st_ino


# -- what is left out ----------------------------------------------------------------------------

SKIPPING = """\
import pytest

@pytest.mark.skip(reason={reason!r})
def test_it():
    raise AssertionError("not run")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "ends"), [("uses SIGKILL", 0), ("it failed yesterday", 1)], ids=["listed", "new"]
)
def test_a_skip_without_a_written_reason_fails_where_all_is_to_run(tmp_path, reason, ends):
    """A maintainer who reads "all passed": no test was quietly left out."""
    shutil.copy(notebooks.ROOT / "conftest.py", tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(notebooks.ROOT / "tests" / "skips.toml", tmp_path / "tests")
    (tmp_path / "test_one.py").write_text(SKIPPING.format(reason=reason))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    path = os.pathsep.join([str(notebooks.ROOT), os.environ.get("PYTHONPATH", "")])
    for everything, expected in (("", 0), ("listed", ends)):
        env = {**os.environ, "COURSE_SKIPS": everything, "PYTHONPATH": path}
        env.pop("PYTEST_XDIST_WORKER", None)
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == expected, done.stdout
    assert ("LEFT OUT" in done.stdout) == bool(ends)


def test_ci_runs_all_there_is():
    """A maintainer who pushes: CI runs the README's command, and then every slow test."""
    assert "make test-all" in (notebooks.ROOT / ".ci" / "run").read_text(encoding="utf-8")
    dry = make(notebooks.ROOT, "-n", "test-all").stdout
    assert '-m "not slow"' in dry and "--durations 20 -m slow" in dry
    assert "setup gptq" in dry and "setup autogptq" in dry
