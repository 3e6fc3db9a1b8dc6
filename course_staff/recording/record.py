"""Writes a reference run: a model's quantization ladder measured on the machine at hand.

    python -m course_staff record --config llama-2-7b --rungs fp16 int8 nf4 --out runs
    python -m course_staff record --model ./TinyLlama --rungs fp16 nf4 --training qlora --out runs
    python -m course_staff record --model pocket --rungs fp16 nf4 gptq-4bit --exchange --out runs

With `--config` the weights are random, of the real shapes, and made layer by layer: no download,
and no moment with all 16-bit weights in memory. With `--model` they are a checkpoint's. The JSON
says what ran where, when, with which versions and by which command, and for each rung the
predicted and the measured bytes, the time to load, tokens/s and the peak; for a checkpoint also
lesson 04's exam. A GPTQ rung is made with GPTQModel first; `--exchange` adds AutoGPTQ and who reads
whose checkpoints; `--gguf` adds the file that the checkpoint came out of. A run that was stopped
between two rungs goes on with the same command. The recorded numbers that the lessons show in
data/reference_runs/ are written by this script and nothing else.
"""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from course_staff.recording import ladder
from course_utils import models, settings
from course_utils.errors import CourseError
from course_utils.memory import predict
from course_utils.memory.rungs import LADDER, rung

RUNGS = ("fp16", "int8", "fp4", "nf4", "nf4-dq")


def main(words: Sequence[str]) -> int:
    """Run the command line; 0, or 2 with a message where it cannot."""
    options = _options(words)
    settings.prepare()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it advertises optional CPU kernels
    try:
        path = ladder.record(_plan(options, words))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {path}")
    return 0


def _options(words: Sequence[str]) -> argparse.Namespace:
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
    parser.add_argument("--gguf", type=Path, help="the file that the checkpoint was unpacked from")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON")
    options = parser.parse_args(words)
    if (options.exchange or options.gguf) and not options.model:
        parser.error("--exchange and --gguf need a checkpoint: give --model")
    return options


def _positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _plan(options: argparse.Namespace, words: Sequence[str]) -> ladder.Plan:
    """What is to be measured.

    Raises:
        CourseError: unknown rung or model.
    """
    for name in options.rungs:
        rung(name)
    folder = models.model_path(options.model) if options.model else None
    return ladder.Plan(
        source=options.model or options.config,
        folder=folder,
        config=predict.config(folder or options.config),
        command=command(words, options.model or options.config, options.out, options.gguf),
        rungs=tuple(options.rungs),
        training=tuple(options.training),
        exchange=options.exchange,
        batch=options.batch,
        length=options.length,
        new_tokens=options.new_tokens,
        repeats=options.repeats,
        rank=options.rank,
        out=options.out,
        gguf=options.gguf,
    )


def command(words: Sequence[str], source: str, out: Path, gguf: Path | None = None) -> str:
    """The command that makes this recording, as it is stored.

    Paths of this machine lose their folders: a reference run says nothing about where it was made.
    A hub id keeps its owner, without whom it names nothing.
    """
    here = Path(source).expanduser()
    local = {str(out), str(gguf)} | ({source} if here.exists() or here.is_absolute() else set())

    def bare(word: str) -> str:
        head, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        same = value in local or os.path.normpath(value) in local
        return f"{head}{equals}{Path(value).name}" if same else word

    return shlex.join(["python", "-m", "course_staff", "record", *map(bare, words)])
