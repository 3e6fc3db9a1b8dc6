"""Writes a reference run: a model's quantization ladder measured on the machine at hand.

    python -m course_staff record --config llama-2-7b --rungs fp16 int8 nf4 --out runs
    python -m course_staff record --model ./TinyLlama --rungs fp16 nf4 --training qlora --out runs
    python -m course_staff record --model pocket --rungs fp16 nf4 gptq-4bit --exchange --out runs

With `--config` the weights are random, of the real shapes, and made layer by layer: no download,
and no moment with all 16-bit weights in memory. With `--model` they are a checkpoint's. The JSON
says what ran where, when, with which versions and by which command, and for each rung the
predicted and the measured bytes, the time to load, tokens/s and the peak; for a checkpoint also
lesson 04's exam. A GPTQ rung is made with GPTQModel first; `--exchange` adds AutoGPTQ and who reads
whose checkpoints. The recorded numbers that the lessons show in data/reference_runs/ are written by
this script and nothing else.
"""

import argparse
import json
import logging
import os
import re
import shlex
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from course_staff.recording import facts as record_facts
from course_utils import machine, models, settings
from course_utils.errors import CourseError
from course_utils.memory import fit, predict
from course_utils.memory import measured as memory
from course_utils.memory.rungs import LADDER, rung
from course_utils.units import MIB, size

RUNGS = ("fp16", "int8", "fp4", "nf4", "nf4-dq")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; 0, or 2 with a message where it cannot."""
    options = _options(arguments)
    settings.prepare()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advertises optional CPU kernels
    try:
        path = record(options)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {path}")
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m course_staff record", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    source = parser.add_mutually_exclusive_group(required=True)
    names = ", ".join(predict.NAMES)
    source.add_argument(
        "--config", help=f"random weights of this config: {names}, or a config.json"
    )
    source.add_argument("--model", help="pocket, a checkpoint's folder, or a hub id")
    parser.add_argument(
        "--rungs", nargs="*", default=list(RUNGS), help=f"any of {', '.join(LADDER)}"
    )
    parser.add_argument("--batch", type=_positive, default=1)
    parser.add_argument("--length", type=_positive, default=512, help="tokens of the prompt")
    parser.add_argument("--new-tokens", type=_positive, default=64, help="tokens written after it")
    parser.add_argument("--repeats", type=_positive, default=5, help="timed runs after one warm-up")
    parser.add_argument("--training", nargs="*", default=[], choices=("lora", "qlora"))
    parser.add_argument("--rank", type=_positive, default=16, help="of the LoRA adapters")
    parser.add_argument("--exchange", action="store_true", help="who reads whose GPTQ checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON")
    options = parser.parse_args(arguments)
    if options.exchange and not options.model:
        parser.error("--exchange needs a checkpoint: give --model")
    words = sys.argv[1:] if arguments is None else arguments
    # paths lose their folders: a reference run says nothing about where it was made
    bare = [Path(w).name if os.sep in w else w for w in words]
    options.command = shlex.join(["python", "-m", "course_staff", "record", *bare])
    return options


def _positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def record(options: argparse.Namespace) -> Path:
    """Measure every rung asked for and write the run; the file is rewritten after each rung.

    Raises:
        CourseError: unknown rung or model. A rung that this machine cannot run is no error: the
            run says why it was skipped.
    """
    from course_staff.recording import speed as record_speed

    for name in options.rungs:
        rung(name)
    options.folder = models.model_path(options.model) if options.model else None
    options.labels = None  # the fp16 rung's, which the later ones are compared with
    config = predict.config(options.folder or options.config)
    where = record_facts.place()
    run: dict[str, Any] = {
        "made_by": "course_staff record",
        "command": options.command,
        "date": datetime.now(UTC).date().isoformat(),
        "device": record_facts.device(),
        "versions": record_facts.versions(),
        "model": record_facts.model(options.model or options.config, options.folder, config),
        "setting": {k: getattr(options, k) for k in ("batch", "length", "new_tokens", "repeats")},
        "copy_bandwidth_gb_s": record_speed.copy_bandwidth(where, _copy_bytes(where)),
        "rungs": [],
        "training": [],
        "exchange": [],
    }
    path = _path(options, run)
    for name in options.rungs:
        run["rungs"].append(_tried(one_rung, options, config, name, where))
        _write(path, run)
    for method in options.training:
        for checkpointing in (True, False):
            run["training"].append(
                _tried(one_training, options, config, method, where, checkpointing)
            )
            _write(path, run)
    if options.exchange:
        from course_staff.recording import checkpoints as record_gptq

        with tempfile.TemporaryDirectory() as work:
            run["exchange"] = record_gptq.exchange(options.folder, Path(work), where)
        _write(path, run)
    return path


def _tried(
    work: Any, options: argparse.Namespace, config: Any, name: str, *more: Any
) -> dict[str, Any]:
    """What `work` measured, or why it could not, and whether its memory came back."""
    import torch

    with memory.measure():
        pass  # sets the baseline that free() proves the return to
    start = time.perf_counter()
    try:
        found = work(options, config, name, *more)
    except CourseError as error:
        found = {"rung": name, "skipped": error.what, "why": error.why}
    except torch.OutOfMemoryError as error:
        found = {"rung": name, "skipped": "out of memory", "why": str(error).splitlines()[0]}
    freed = memory.free()
    found["freed_to_the_byte"] = freed.returned
    said = found.get("skipped") or "peak " + size(found["measured"]["peak_bytes"])
    print(f"{name:<14} {said}  ({time.perf_counter() - start:.0f} s)", flush=True)
    if not freed.returned:
        print(freed, flush=True)
    return found


def one_rung(options: argparse.Namespace, config: Any, name: str, where: str) -> dict[str, Any]:
    """Build or load the model on one rung and measure it.

    Raises:
        CourseError: it does not fit, or cannot be made here.
    """
    from course_staff.recording import checkpoints as record_gptq

    fit.check(config, name, options.batch, options.length + options.new_tokens)
    r = rung(name)
    if not options.folder or r.kind != "gptq" or getattr(config, "quantization_config", None):
        return _measured(options, config, name, where, options.folder)
    with tempfile.TemporaryDirectory() as work:
        folder, seconds = record_gptq.quantized(options.folder, r, Path(work) / name)
        found = _measured(options, config, name, where, folder)
    found["measured"]["quantize_s"] = round(seconds, 1)
    return found


def _measured(
    options: argparse.Namespace, config: Any, name: str, where: str, folder: str | None
) -> dict[str, Any]:
    """One rung's figures; `folder` holds the checkpoint, without one the weights are random."""
    from course_staff.recording import build as record_build
    from course_staff.recording import quality as record_quality
    from course_staff.recording import speed as record_speed

    total = options.length + options.new_tokens
    forecast = predict.inference(config, name, options.batch, total, gpu=where.startswith("cuda"))
    weights = predict.weights(config, name)
    with memory.measure() as load:
        if folder:
            model = record_build.loaded(folder, name, where)
        else:
            model = record_build.streamed(config, name, where)
    parts = memory.tensor_bytes(model)
    ids = record_speed.prompt(config, options.batch, options.length, where)
    peak = run_peak(model, ids, options.new_tokens)
    speed = record_speed.measure(model, ids, options.new_tokens, options.repeats)
    outside = record_facts.outside_pytorch()
    quality = None
    if folder:
        quality, given = record_quality.measure(model, folder, options.labels)
        options.labels = given if name == "fp16" else options.labels
    return {
        "rung": name,
        "predicted": {
            "weights_bytes": weights.total,
            "parts": weights.parts,
            "kv_cache_bytes": forecast.parts["kv cache"],
            "activations_bytes": predict.activations(config, name, options.batch, options.length),
            "overhead_bytes": forecast.parts.get("overhead", 0),
        },
        "measured": {
            "weights_bytes": sum(parts.values()),
            "parts": parts,
            ("load_s" if folder else "build_s"): round(load.seconds, 3),
            "build_peak_bytes": load.peak,
            "peak_bytes": peak.before + (peak.peak or 0),
            "reserved_peak_bytes": peak.reserved_peak,
            "outside_pytorch_bytes": outside,
            **speed,
        },
        "quality": quality,
    }


def run_peak(model: Any, ids: Any, new_tokens: int) -> memory.Used:
    """What one prefill and its decode take, apart from the timed runs."""
    import torch

    from course_staff.recording import speed as record_speed

    with memory.measure(watch=True) as used, torch.inference_mode():
        record_speed.decode(model, record_speed.prefill(model, ids), new_tokens)
    return used


def one_training(
    options: argparse.Namespace, config: Any, method: str, where: str, checkpointing: bool
) -> dict[str, Any]:
    """Measure a few LoRA or QLoRA steps.

    Raises:
        CourseError: the base model does not fit, or a library is missing.
    """
    from course_staff.recording import build as record_build
    from course_staff.recording import speed as record_speed
    from course_staff.recording import training as record_training

    # fp16 where the card has no bf16 in hardware
    old = any(not gpu.bf16_native for gpu in machine.gpus())
    base = "fp16" if method == "lora" and old else record_training.RUNG[method]
    fit.check(config, base, options.batch, options.length)
    if options.folder:
        model = record_build.loaded(options.folder, base, where)
    else:
        model = record_build.streamed(config, base, where, None if old else "bfloat16")
    ids = record_speed.prompt(config, options.batch, options.length, where)
    measured = record_training.measure(model, ids, method, options.rank, checkpointing)
    return {"rung": base, "measured": measured}


def _copy_bytes(where: str) -> int:
    """Bytes to copy for the bandwidth: far more than any cache, far less than the memory."""
    return 1024 * MIB if where.startswith("cuda") else 256 * MIB


def _path(options: argparse.Namespace, run: dict[str, Any]) -> Path:
    """The run's file, named after model, device and date."""
    words = (run["model"]["name"], run["device"]["name"], run["date"])
    name = "--".join(re.sub(r"[^a-z0-9.-]+", "-", word.lower()).strip("-") for word in words)
    return options.out / f"{name}.json"


def _write(path: Path, run: dict[str, Any]) -> None:
    """Write the run so far."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
