"""The learner's commands: `python -m course_utils COMMAND`. Each is a function and a parser.

doctor [--json]       what this machine has, what each lesson needs, what to do next
lab [...]             open JupyterLab at the first lesson; further arguments go to `jupyter lab`
progress              which exercises are solved
get smollm2           fetch the small tier's model, once
setup gptq|autogptq   add an optional part of lesson 04 to this environment

What instructors and maintainers run is `python -m course_staff`.
"""

import argparse
import json
import sys

from course_utils import checks, lab, preflight, settings
from course_utils.errors import CourseError


def doctor(args: argparse.Namespace) -> int:
    """Print the preflight; 1 where something stops a lesson."""
    found = preflight.report()
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print(preflight.as_text(found))
    return int(any(lack["stops"] for lack in found["lacks"]))


def start_lab(args: argparse.Namespace) -> int:
    """Open JupyterLab and stay until it is stopped."""
    lab.run(args.rest)
    return 0


def show_progress(args: argparse.Namespace) -> int:
    """Print which exercises are solved."""
    checks.progress()
    return 0


def get_model(args: argparse.Namespace) -> int:
    """Fetch the small tier's model and say where it comes from."""
    from course_utils import fetching

    print(fetching.get(args.model))
    return 0


def set_up(args: argparse.Namespace) -> int:
    """Install GPTQ here, or make AutoGPTQ's own environment."""
    from course_utils.gptq import autogptq, gptqmodel

    print({"gptq": gptqmodel.setup, "autogptq": autogptq.setup}[args.part]())
    return 0


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
    one.set_defaults(run=start_lab)

    one = commands.add_parser("progress", help="which exercises are solved")
    one.set_defaults(run=show_progress)

    one = commands.add_parser("get", help="fetch the small tier's model, once")
    one.add_argument("model", choices=[settings.SMALL])
    one.set_defaults(run=get_model)

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
        return args.run(args)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2


def main(argv: list[str] | None = None) -> int:
    """The learner's commands."""
    return run(parser(), argv, "lab")


if __name__ == "__main__":
    sys.exit(main())
