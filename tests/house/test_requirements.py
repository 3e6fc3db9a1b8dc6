"""pyproject.toml, constraints.txt and environment.yml name the same packages and versions."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from course_staff.notebooks import store as notebooks
from course_utils import preflight

ROOT = notebooks.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
OPTIONAL = [Requirement(line) for lines in EXTRAS.values() for line in lines]


def pinned() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): Version(version) for name, version in pins}


def conda_lines() -> list[str]:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip().startswith("- ")]


@pytest.mark.parametrize("wanted", CORE + OPTIONAL, ids=str)
def test_the_tested_set_is_in_the_supported_range(wanted):
    """A learner who installs with the constraints gets what pyproject.toml allows."""
    version = pinned().get(canonicalize_name(wanted.name))
    assert version is not None, f"constraints.txt does not pin {wanted.name}"
    assert wanted.specifier.contains(version, prereleases=True)


def test_every_requirement_has_a_lower_bound():
    """A learner with an old environment is told so by pip, not by a crash in lesson 04."""
    for wanted in CORE + OPTIONAL:
        assert any(one.operator in (">=", "==") for one in wanted.specifier), str(wanted)


def test_the_constraints_are_one_whole_set():
    """A learner's pip never has to choose a version that nobody tried."""
    pins = pinned()
    missing = []
    for name in pins:
        try:
            wanted = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that this environment does not have
        for one in map(Requirement, wanted):
            if one.marker is None or one.marker.evaluate({"extra": ""}):
                pin = pins.get(canonicalize_name(one.name))
                if pin is None:
                    missing.append(f"{name} needs {one}, which is not pinned")
                elif not one.specifier.contains(pin, prereleases=True):
                    missing.append(f"{name} needs {one}, pinned is {pin}")
    # pip and setuptools come with the environment; a CUDA build of torch pins its own libraries
    assert [m for m in missing if "setuptools" not in m and "nvidia" not in m] == []


def test_constraints_name_plain_versions():
    """A learner on a Mac or with a GPU is not asked for a build that only CI has."""
    for name, version in pinned().items():
        assert version.local is None, f"{name} is pinned to a local build"


def test_conda_installs_the_same_packages():
    """A learner who takes conda gets what a learner who takes pip gets."""
    listed = [re.sub(r"^\s*- |\s*#.*$", "", line) for line in conda_lines()]
    pip_lines = listed[listed.index("pip:") + 1 :]
    assert pip_lines[:2] == ["-c constraints.txt", "-e .[lab]"]
    named = [Requirement(line) for line in pip_lines[2:]]
    lab = [Requirement(line) for line in EXTRAS["lab"]]
    assert {str(Requirement(r.name)) for r in named} == {
        str(Requirement(r.name)) for r in CORE + lab
    }
    assert all(not r.specifier for r in named), "versions belong into constraints.txt alone"


def test_binder_installs_the_same_course():
    """A learner on Binder gets the tested set too, from that folder's own point of view."""
    text = (ROOT / "binder" / "environment.yml").read_text(encoding="utf-8")
    assert re.search(r"python=[\d.]+", text)[0] in (ROOT / "environment.yml").read_text()
    assert "- -c ../constraints.txt\n" in text and "- -e ..[lab]\n" in text


def test_every_line_of_the_conda_file_says_what_it_is_for():
    """A learner who reads environment.yml learns why each package is there."""
    for line in conda_lines():
        assert line.strip() == "- pip:" or "# " in line, line


def test_python_versions_agree():
    """A learner whose Python the README allows is not turned away by pip, nor by make."""
    oldest = ".".join(map(str, preflight.OLDEST))
    assert PROJECT["requires-python"] == f">={oldest}"
    assert f"({', '.join(map(str, preflight.OLDEST))})" in (ROOT / "Makefile").read_text()
    line = next(line for line in conda_lines() if "python=" in line)
    version = tuple(map(int, re.search(r"python=(\d+)\.(\d+)", line).groups()))
    assert preflight.OLDEST <= version <= preflight.NEWEST


def test_every_import_is_asked_for():
    """A learner's fresh environment has every library that the package imports."""
    declared = {canonicalize_name(one.name) for one in CORE + OPTIONAL}
    for name in list(declared):
        try:
            below = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        declared |= {canonicalize_name(Requirement(one).name) for one in below}
    homes = importlib.metadata.packages_distributions()
    # google.colab is Colab's own, kaggle_secrets Kaggle's; auto_gptq has an environment of its own
    ours = {"course_utils", "google", "kaggle_secrets", "auto_gptq"} | set(sys.stdlib_module_names)
    for path in sorted((ROOT / "course_utils").rglob("*.py")):
        for name in imported(path) - ours:
            found = {canonicalize_name(home) for home in homes.get(name, [name])}
            assert found & declared, f"{path.name} imports {name}, which nothing asks for"


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names
