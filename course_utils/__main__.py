"""The learner's commands: `python -m course_utils COMMAND`.

doctor [--json]       what this machine has, what each lesson needs, what to do next
lab [...]             open JupyterLab at the first lesson; further arguments go to `jupyter lab`
progress              which exercises are solved
submit [NOTEBOOK…]    pack your notebooks into one file to hand in
get smollm2           fetch the small tier's model, once
setup gptq|autogptq   add an optional part of lesson 04 to this environment

What instructors and maintainers run is `python -m course_staff`.
"""

import argparse
import json
import sys
from pathlib import Path

from course_utils import checks, fetching, lab, preflight, settings
from course_utils.errors import CourseError
from course_utils.records import submit


def doctor(args: argparse.Namespace) -> int:
    """Print the preflight; 1 where something stops a lesson."""
    found = preflight.report()
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print(preflight.as_text(found))
    return int(any(lack["stops"] for lack in found["lacks"]))


def hand_in(args: argparse.Namespace) -> None:
    """Write the file to hand in and say what is in it."""
    path, notebooks = submit.pack(args.notebooks, args.name)
    print(f"{path.name} holds {', '.join(notebooks)}, without outputs. Hand in this one file.")


def set_up(args: argparse.Namespace) -> None:
    """Install GPTQ here, or make AutoGPTQ's own environment."""
    from course_utils.gptq import autogptq, gptqmodel

    print({"gptq": gptqmodel.setup, "autogptq": autogptq.setup}[args.part]())


def parser() -> argparse.ArgumentParser:
    """The command line: one `add_parser` and one function for each command."""
    top = argparse.ArgumentParser(
        prog="python -m course_utils", description="The commands of Open LLMs, hands-on."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser("doctor", help="what this machine has and what each lesson needs")
    one.add_argument("--json", action="store_true", help="for programs")
    one.set_defaults(run=doctor)

    one = commands.add_parser("lab", help="open JupyterLab at the first lesson", add_help=False)
    one.set_defaults(run=lambda args: lab.run(args.rest))

    one = commands.add_parser("progress", help="which exercises are solved")
    one.set_defaults(run=lambda args: checks.progress())

    one = commands.add_parser("submit", help="pack your notebooks into one file to hand in")
    one.add_argument("notebooks", nargs="*", type=Path, help="default: all lessons here")
    one.add_argument("--name", help="yours; default: the account's")
    one.set_defaults(run=hand_in)

    one = commands.add_parser("get", help="fetch the small tier's model, once")
    one.add_argument("model", choices=[settings.SMALL])
    one.set_defaults(run=lambda args: print(fetching.get(args.model)))

    one = commands.add_parser("setup", help="add an optional part of lesson 04")
    one.add_argument("part", choices=["gptq", "autogptq"])
    one.set_defaults(run=set_up)
    return top


def run(top: argparse.ArgumentParser, argv: list[str] | None, handing_on: str) -> int:
    """Run one command; a foreseen error ends in its message and exit code 2.

    Args:
        top: the command line; each command sets `run`.
        argv: the arguments; the program's own by default.
        handing_on: the command that gets further arguments, as `rest`.
    """
    args, rest = top.parse_known_args(argv)
    if rest and args.command != handing_on:
        top.error(f"unknown argument: {' '.join(rest)}")
    args.rest = rest
    settings.prepare()
    try:
        return args.run(args) or 0
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2


def main(argv: list[str] | None = None) -> int:
    """The learner's commands."""
    return run(parser(), argv, "lab")


if __name__ == "__main__":
    sys.exit(main())
