"""What `python -m pocket_training.train` can be told."""

import argparse
from pathlib import Path

import torch

from pocket_training import evaluate
from pocket_training.model import SHAPE
from pocket_training.stages import PLANS

RUN = Path(__file__).parent / "run"  # checkpoints, ignored by git


def arguments(description: str | None) -> argparse.Namespace:
    """The command line; what is not given is as in the plan for this machine."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--reading", type=int, help="steps of the first stage")
    parser.add_argument("--answering", type=int, help="steps of the second stage")
    parser.add_argument("--quoting", type=int, help="steps of the third stage")
    parser.add_argument("--polishing", type=int, help="steps of the fourth stage")
    parser.add_argument("--bags", type=int, help="passes of embeddings alone, before")
    parser.add_argument("--scale", type=int, help="how many times the tokens of a small step")
    parser.add_argument("--workers", type=int, help="processes that make batches ahead; 1: none")
    parser.add_argument("--every", type=int, help="steps between evaluations")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"])
    parser.add_argument(
        "--explained", type=float, default=34, help="reasons for 52 chats of labels"
    )
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="compile the layers first; needs a C++ compiler on a CPU",
    )
    parser.add_argument("--run", type=Path, default=RUN)
    parser.add_argument("--result", type=Path, default=evaluate.MODEL)
    judging(parser)
    learning_on(parser)
    parser.set_defaults(**PLANS["cuda" if torch.cuda.is_available() else "cpu"])
    args = parser.parse_args()
    if args.more and not args.teacher:
        parser.error("--more needs --teacher: the counting teachers know their own corpus only")
    return args


def judging(parser: argparse.ArgumentParser) -> None:
    """Which texts are judged, and by whom."""
    group = parser.add_argument_group("who judges what")
    group.add_argument("--teacher", type=Path, help="a folder that pretrained.py has tuned")
    group.add_argument(
        "--more", type=Path, help="texts of writing.py or swapping.py, judged as well"
    )
    group.add_argument("--whole", type=float, default=0.5, help="the reviews' share of the texts")
    group.add_argument(
        "--author",
        type=float,
        default=0.6,
        help="the author's share in a review's label; the rest is the teacher's",
    )


def learning_on(parser: argparse.ArgumentParser) -> None:
    """For a finished checkpoint: one stage in place of the four."""
    group = parser.add_argument_group("a finished checkpoint that learns on")
    group.add_argument("--start", type=Path, help="its folder")
    group.add_argument("--again", type=int, help="steps")
