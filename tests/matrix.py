"""Whether the lessons show the same everywhere: `python -m tests.matrix`, or `make matrix`.

Every notebook is executed and compared, as by `python -m course_staff validate`, once under each
condition below: thread counts, the processor's instruction sets, another locale and time zone,
another folder, the same ten times over (`--times 10`), and other environments (`--python PATH`,
as often as wanted: another Python, or other package versions; each needs the course installed with
`.[test]`). One line for each run says which cells differ; the exit code is 1 where one does.

`--jitter` stands in for the processors that are not here: it moves each of the model's weights by
its last bit, at random, which is more than any processor does. A cell that differs then is nearly
tied: round its figures more coarsely, choose another example, or do not compare it. For what runs
in fp32 (lesson 01's server, lesson 03) it is far too strict, so it does not count in the verdict.
"""

import argparse
import difflib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from course_staff.notebooks import executing
from course_staff.notebooks import store as notebooks
from course_staff.validation import validate

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# ATen's own kernels, and the two libraries that it hands matrix products to
PROCESSORS = {
    "default": {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_CBWR": "AVX512"},
}
CONDITIONS: dict[str, Mapping[str, str]] = {
    "1 thread": dict.fromkeys(THREADS, "1"),
    "2 threads": dict.fromkeys(THREADS, "2"),
    **{
        f"processor {name}": {"ATEN_CPU_CAPABILITY": name, **more}
        for name, more in PROCESSORS.items()
    },
    # comma for point, dotless i, and fifteen minutes off the full hour
    "another locale": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"},
    "another folder": {},
}
ODD_FOLDER = "My courses, übung #1"


def has_avx512() -> bool:
    """Whether this processor can run AVX-512 code at all."""
    import torch

    return "avx512" in torch.backends.cpu.get_cpu_capability().lower()


def run(python: Path, notebook: Path, env: Mapping[str, str]) -> list[str]:
    """Execute and compare one notebook; each cell that differs, with the lines that do."""
    done = subprocess.run(
        [python, "-m", "course_staff.validation.cells", notebook],
        cwd=notebooks.ROOT,
        env={**executing.environment(), **env},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    lines = [json.loads(one) for one in done.stdout.splitlines() if one.startswith("{")]
    result = next((one["result"] for one in lines if "result" in one), None)
    if result is None:
        return [f"ended with {done.returncode}: {done.stderr.strip()[-300:]}"]
    return result["broken"] + [difference(cell) for cell in result["cells"] if "kind" in cell]


def difference(cell: dict[str, str]) -> str:
    """The lines in which a cell's output is not the stored one."""
    lines = difflib.unified_diff(
        cell["stored"].splitlines(), cell["fresh"].splitlines(), lineterm="", n=0
    )
    changed = [f"    {one}" for one in lines if not one.startswith(("---", "+++", "@@"))]
    return "\n".join([f"{cell['cell']}: {cell['says']}", *changed])


def under(name: str, python: Path, paths: list[Path], env: Mapping[str, str]) -> bool:
    """Run the notebooks under one condition and print what comes of each; True where all pass."""
    passed = True
    for path in paths:
        began = time.monotonic()
        found = run(python, path, env)
        passed = passed and not found
        said = f"{len(found)} cells differ" if found else "the same"
        took = time.monotonic() - began
        print(f"{name:22} {path.stem:24} {said}, {took:.0f} s", flush=True)
        for one in found:
            print(f"  {one}", flush=True)
    return passed


def in_another_folder(paths: list[Path], folder: Path) -> list[Path]:
    """Copies of the notebooks, alone in a folder with an awkward name."""
    place = folder / ODD_FOLDER
    place.mkdir()
    return [Path(shutil.copy(path, place / f"{n} {path.name}")) for n, path in enumerate(paths)]


def jittered(folder: Path) -> Mapping[str, str]:
    """The environment in which a copy of the package in `folder` is used, its model jittered."""
    import torch
    from safetensors.torch import load_file, save_file

    package = folder / "course_utils"
    shutil.copytree(notebooks.ROOT / "course_utils", package)
    path = package / "pocket_llama" / "model.safetensors"
    weights = load_file(path)
    torch.manual_seed(0)
    for name, weight in weights.items():
        last_bit = torch.finfo(weight.dtype).eps * weight.float().abs()
        moved = weight.float() + last_bit * (torch.rand(weight.shape) - 0.5).sign()
        weights[name] = moved.to(weight.dtype)
    save_file(weights, path, metadata={"format": "pt"})
    return {"PYTHONPATH": str(folder)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    one = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    one.add_argument("notebooks", nargs="*", type=Path, help="default: lessons and solutions")
    one.add_argument("--only", metavar="TEXT", help="conditions with this in their name")
    one.add_argument("--jitter", action="store_true", help="also with weights jittered")
    one.add_argument("--times", type=int, default=0, help="run so often with nothing changed")
    one.add_argument(
        "--python", type=Path, action="append", default=[], help="another environment's Python"
    )
    return one


def main() -> int:
    """Run the matrix; 1 where a notebook shows something else."""
    args = parser().parse_args()
    paths = validate.found(args.notebooks)
    passed = True
    here = Path(sys.executable)
    for name, env in CONDITIONS.items():
        if args.only is not None and args.only not in name:
            continue
        if name.endswith("avx512") and not has_avx512():
            print(f"{name:22} left out: this processor has none")
            continue
        with tempfile.TemporaryDirectory() as folder:
            some = in_another_folder(paths, Path(folder)) if "folder" in name else paths
            passed &= under(name, here, some, env)
    for n in range(args.times):
        passed &= under(f"time {n + 1} of {args.times}", here, paths, {})
    for python in args.python:
        version = subprocess.run([python, "-V"], capture_output=True, text=True).stdout.strip()
        passed &= under(version, Path(os.path.abspath(python)), paths, {})
    if args.jitter:
        with tempfile.TemporaryDirectory() as folder:
            under("jittered weights", here, paths, jittered(Path(folder)))
    print("everywhere the same" if passed else "NOT everywhere the same")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
