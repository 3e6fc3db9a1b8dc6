"""The measuring itself: every rung of a model's ladder, its training, who reads whose checkpoints.

What is measured says a `Plan`; what came out is one dict, written as JSON after every step. It
knows no command line.
"""

import json
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from course_staff.notebooks import store
from course_staff.recording import build, checkpoints, facts, gguf, quality, speed, training
from course_utils import machine
from course_utils.errors import CourseError
from course_utils.memory import fit, predict
from course_utils.memory import measured as memory
from course_utils.memory.rungs import rung
from course_utils.units import MIB, size

Json = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and in which setting.

    `source` is the model as it was named, `folder` its checkpoint (None: random weights of the
    shapes in `config`), `command` what is stored as the way to repeat it. `batch` rows of `length`
    tokens are read and `new_tokens` more written, `repeats` times; `rank` is the LoRA adapters'.
    `gguf` is the file that the checkpoint was unpacked from, if there is one.
    """

    source: str
    folder: str | None
    config: Any
    command: str
    rungs: tuple[str, ...]
    training: tuple[str, ...]
    exchange: bool
    batch: int
    length: int
    new_tokens: int
    repeats: int
    rank: int
    out: Path
    gguf: Path | None = None


def record(plan: Plan) -> Path:
    """Measure all that the plan names and write the run; the file is rewritten after each rung.

    A run of the same day and setting that was stopped between two rungs goes on where it stopped.

    Raises:
        CourseError: the run cannot be written. A rung that this machine cannot run is no error: the
            run says why it was skipped.
    """
    where = facts.place()
    run = begun(plan, where)
    path = _path(plan, run)
    exam = quality.Exam(plan.folder) if plan.folder else None
    run["rungs"] = begun_before(path, run, plan.rungs)
    if exam and "fp16" in [row["rung"] for row in run["rungs"]]:
        exam.sat_by(build.loaded(exam.folder, "fp16", where), "fp16")  # what later ones are held to
    write(path, run)
    for name in plan.rungs[len(run["rungs"]) :]:
        run["rungs"].append(tried(name, partial(one_rung, plan, name, where, exam)))
        write(path, run)
    if plan.gguf and exam:
        run["rungs"].append(tried("gguf", partial(gguf.measured, plan.gguf, plan.config, exam)))
        write(path, run)
    for method in plan.training:
        for checkpointing in (True, False):
            step = partial(one_training, plan, method, where, checkpointing)
            run["training"].append(tried(method, step))
            write(path, run)
    if plan.exchange and plan.folder:
        with tempfile.TemporaryDirectory() as work:
            run["exchange"] = checkpoints.exchange(plan.folder, Path(work), where)
        write(path, run)
    return path


def begun_before(path: Path, run: Json, wanted: tuple[str, ...]) -> list[Json]:
    """The rungs of the same run where it was stopped before the last of those `wanted`."""
    if not path.is_file():
        return []
    before = json.loads(path.read_text(encoding="utf-8"))
    same = all(before[key] == run[key] for key in ("versions", "model", "setting"))
    same = same and before["device"]["threads"] == run["device"]["threads"]
    names = tuple(row["rung"] for row in before["rungs"])
    return before["rungs"] if same and names == wanted[: len(names)] != wanted else []


def begun(plan: Plan, where: str) -> Json:
    """A run before its first rung: what is measured where, when, with what."""
    setting = ("batch", "length", "new_tokens", "repeats")
    return {
        "made_by": "course_staff record",
        "command": plan.command,
        "date": datetime.now(UTC).date().isoformat(),
        "device": facts.device(),
        "versions": facts.versions(),
        "model": facts.model(plan.source, plan.folder, plan.config),
        "setting": {key: getattr(plan, key) for key in setting},
        "copy_bandwidth_gb_s": speed.copy_bandwidth(where, _copy_bytes(where)),
        "rungs": [],
        "training": [],
        "exchange": [],
    }


def tried(name: str, work: Callable[[], Json]) -> Json:
    """What `work` measured, or why it could not, and whether its memory came back."""
    import torch

    with memory.measure():
        pass  # sets the baseline that free() proves the return to
    start = time.perf_counter()
    try:
        found = work()
    except CourseError as error:
        found = {"rung": name, "skipped": error.what, "why": error.why}
    except torch.OutOfMemoryError as error:
        found = {"rung": name, "skipped": "out of memory", "why": str(error).splitlines()[0]}
    freed = memory.free()
    found["freed_to_the_byte"] = freed.returned
    peak = found.get("measured", {}).get("peak_bytes")
    said = found.get("skipped") or (f"peak {size(peak)}" if peak else "measured")
    print(f"{name:<14} {said}  ({time.perf_counter() - start:.0f} s)", flush=True)
    if not freed.returned:
        print(freed, flush=True)
    return found


def one_rung(plan: Plan, name: str, where: str, exam: quality.Exam | None) -> Json:
    """Build or load the model on one rung and measure it.

    Raises:
        CourseError: it does not fit, or cannot be made here.
    """
    fit.check(plan.config, name, plan.batch, plan.length + plan.new_tokens)
    r = rung(name)
    ready = getattr(plan.config, "quantization_config", None)
    if not plan.folder or r.kind != "gptq" or ready:
        return measured(plan, name, where, plan.folder, exam)
    with tempfile.TemporaryDirectory() as work:
        folder, seconds = checkpoints.quantized(plan.folder, r, Path(work) / name)
        found = measured(plan, name, where, folder, exam)
    found["measured"]["quantize_s"] = round(seconds, 1)
    return found


def measured(
    plan: Plan, name: str, where: str, folder: str | None, exam: quality.Exam | None
) -> Json:
    """One rung's figures; `folder` holds the checkpoint, without one the weights are random."""
    with memory.measure() as load:
        if folder:
            model = build.loaded(folder, name, where)
        else:
            model = build.streamed(plan.config, name, where)
    parts = memory.tensor_bytes(model)
    ids = speed.prompt(plan.config, plan.batch, plan.length, where)
    peak = run_peak(model, ids, plan.new_tokens)
    taken = speed.measure(model, ids, plan.new_tokens, plan.repeats)
    outside = facts.outside_pytorch()
    return {
        "rung": name,
        "predicted": predicted(plan, name, where),
        "measured": {
            "weights_bytes": sum(parts.values()),
            "parts": parts,
            ("load_s" if folder else "build_s"): round(load.seconds, 3),
            "build_peak_bytes": load.peak,
            "peak_bytes": peak.before + (peak.peak or 0),
            "reserved_peak_bytes": peak.reserved_peak,
            "outside_pytorch_bytes": outside,
            **taken,
        },
        "quality": exam.sat_by(model, name) if exam else None,
    }


def predicted(plan: Plan, name: str, where: str) -> Json:
    """What lesson 04's formulas say of a rung in the plan's setting, in bytes."""
    total = plan.length + plan.new_tokens
    gpu = where.startswith("cuda")
    forecast = predict.inference(plan.config, name, plan.batch, total, gpu=gpu)
    weights = predict.weights(plan.config, name)
    return {
        "weights_bytes": weights.total,
        "parts": weights.parts,
        "kv_cache_bytes": forecast.parts["kv cache"],
        "activations_bytes": predict.activations(plan.config, name, plan.batch, plan.length),
        "overhead_bytes": forecast.parts.get("overhead", 0),
    }


def run_peak(model: Any, ids: Any, new_tokens: int) -> memory.Used:
    """What one prefill and its decode take, apart from the timed runs."""
    import torch

    with memory.measure(watch=True) as used, torch.inference_mode():
        speed.decode(model, speed.prefill(model, ids), new_tokens)
    return used


def one_training(plan: Plan, method: str, where: str, checkpointing: bool) -> Json:
    """Measure a few LoRA or QLoRA steps.

    Raises:
        CourseError: the base model does not fit, or a library is missing.
    """
    # fp16 where the card has no bf16 in hardware
    old = any(not gpu.bf16_native for gpu in machine.gpus())
    base = "fp16" if method == "lora" and old else training.RUNG[method]
    fit.check(plan.config, base, plan.batch, plan.length)
    if plan.folder:
        model = build.loaded(plan.folder, base, where)
    else:
        model = build.streamed(plan.config, base, where, None if old else "bfloat16")
    ids = speed.prompt(plan.config, plan.batch, plan.length, where)
    found = training.measure(model, ids, method, plan.rank, checkpointing)
    return {"rung": base, "measured": found}


def _copy_bytes(where: str) -> int:
    """Bytes to copy for the bandwidth: far more than any cache, far less than the memory."""
    return 1024 * MIB if where.startswith("cuda") else 256 * MIB


def _path(plan: Plan, run: Json) -> Path:
    """The run's file, named after model, device and date."""
    words = (run["model"]["name"], run["device"]["name"], run["date"])
    name = "--".join(re.sub(r"[^a-z0-9.-]+", "-", word.lower()).strip("-") for word in words)
    return plan.out / f"{name}.json"


def write(path: Path, run: Json) -> None:
    """Write the run so far, whole or not at all: lesson 04 reads every file of its folder.

    Raises:
        CourseError: the disk is full, or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CourseError(
            f"The folder {path.parent} cannot be made.",
            f"{error.strerror}.",
            "Name another one after --out.",
        ) from None
    store.put({path: json.dumps(run, indent=2) + "\n"})
