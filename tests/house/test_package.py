"""The three wings: what lessons import, what staff run, how Pocket Llama is made."""

import ast
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from course_staff.notebooks import store as notebooks

ROOT = notebooks.ROOT
PACKAGE = ROOT / "course_utils"
HEAVY = ("torch", "transformers", "matplotlib", "ipywidgets", "openai", "datasets", "bitsandbytes")
HEAVY += ("peft", "trl", "gptqmodel", "pandas", "scipy", "sklearn")
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def python(program: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def lint_imports(config) -> subprocess.CompletedProcess:
    """The rule of imports in `config`, held against this checkout."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as l; l()"]
    return subprocess.run(
        [*command, "--no-cache", "--config", str(config)], capture_output=True, text=True, cwd=ROOT
    )


def test_imports_lead_downwards():
    """An instructor who changes a module knows what can break: what stands above it."""
    done = lint_imports(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout


def test_the_rule_of_imports_sees_a_broken_one(tmp_path):
    """A maintainer who trusts the rule: turned upside down, it finds what breaks it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ground = '    "errors | patience | units",\n'
    upside_down = text.replace(ground, "").replace(
        '    "__main__",\n', ground + '    "__main__",\n'
    )
    assert upside_down != text
    (tmp_path / "pyproject.toml").write_text(upside_down, encoding="utf-8")
    done = lint_imports(tmp_path / "pyproject.toml")
    assert done.returncode == 1 and "BROKEN" in done.stdout


def notebook_imports(path) -> set[str]:
    """The modules that a notebook's cells import, by their full names."""
    found = set()
    for cell in notebooks.read(path).cells:
        if cell.cell_type == "code":
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Import):
                    found |= {one.name for one in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", notebooks.every(), ids=notebooks.key)
def test_a_lesson_needs_the_helper_package_alone(path):
    """A learner on Colab, where nothing but the installed package is there."""
    wings = {name.partition(".")[0] for name in notebook_imports(path)}
    assert not wings & {"course_staff", "pocket_training", "tests"}


def test_the_wheel_holds_the_helper_package_alone():
    """A learner who pip-installs the course gets what lessons import, and nothing else."""
    import setuptools

    find = PROJECT["tool"]["setuptools"]["packages"]["find"]
    found = setuptools.find_packages(str(ROOT), include=find["include"])
    assert {name.partition(".")[0] for name in found} == {"course_utils"}
    folders = {path.parent.relative_to(ROOT).as_posix() for path in MODULES}
    assert folders == {name.replace(".", "/") for name in found}


@pytest.mark.slow
def test_pip_builds_that_wheel(tmp_path):
    """A learner who pip-installs the course: the wheel really built, and what is in it."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("course_utils", "course_staff", "pocket_training"):
        leave = shutil.ignore_patterns("__pycache__", "run*")
        shutil.copytree(ROOT / name, copy / name, ignore=leave)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "-w", tmp_path, copy], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    rooms = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert rooms == {"course_utils"}
    ours = {path.relative_to(copy).as_posix() for path in (copy / "course_utils").rglob("*.*")}
    ours = {name for name in ours if (copy / name).is_file()}
    assert {name for name in names if name.startswith("course_utils/")} == ours


def test_no_module_loads_a_heavy_library_when_imported():
    """A learner who asks for one helper does not wait for PyTorch."""
    paths = [path for path in MODULES if path.name != "__main__.py"]
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in paths]
    program = (
        f"import importlib, json, sys\nfound = {{}}\nfor name in {names}:\n"
        "    importlib.import_module(name.removesuffix('.__init__'))\n"
        f"    found[name] = [m for m in {HEAVY} if m in sys.modules]\nprint(json.dumps(found))"
    )
    found = json.loads(python(program))
    assert {name: heavy for name, heavy in found.items() if heavy} == {}


def test_explorers_open_without_gptq():
    """A learner of lesson 00 whose first explorer does not wait for quantization libraries."""
    program = (
        "import sys, course_utils.explorers; "
        "print([m for m in sys.modules if 'gptq' in m or m.partition('.')[0] in ('torch', 'peft')])"
    )
    assert python(program).strip() == "[]"
