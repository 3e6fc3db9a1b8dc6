"""The course's commands: `python -m course_utils COMMAND`. Each is a function and a parser.

doctor [--json]   what this machine has, what each lesson needs, what to do next
lab [...]         open JupyterLab at the first lesson; further arguments go to `jupyter lab`
progress          which exercises are solved
serve [--port N] [--key WORD] [--limit N]
                  one endpoint for a whole class
validate [NOTEBOOK…] [--report FOLDER]
                  whether every notebook still runs and shows what is stored in it
address URL       after a fork: put your repository's address everywhere
"""

import argparse
import json
import sys
from pathlib import Path

from course_utils import (
    checks,
    classroom,
    lab,
    notebooks,
    preflight,
    settings,
    validate,
    validate_report,
)
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


def serve(args: argparse.Namespace) -> int:
    """Serve a class until it is stopped."""
    classroom.run(args.port, args.key, args.limit)
    return 0


def run_validation(args: argparse.Namespace) -> int:
    """Execute and compare notebooks, write the report; 1 where one does not pass."""
    report = validate.validate(args.notebooks)
    for problem in report["between"]:
        print(problem)
    print(validate.summary(report))
    if args.report:
        print(validate_report.write(report, args.report))
    return int(not report["passed"])


def rewrite_address(args: argparse.Namespace) -> int:
    """Rewrite the repository's address and name the changed files."""
    changed = notebooks.rewrite_address(args.url)
    print("\n".join(changed) or "Nothing to change: this is the address already.")
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

    one = commands.add_parser("serve", help="one endpoint for a whole class")
    one.add_argument("--port", type=int, default=8000)
    one.add_argument("--key", default="", help="what learners set as OPENAI_API_KEY")
    one.add_argument("--limit", type=float, default=0, help="requests a minute, of all together")
    one.set_defaults(run=serve)

    one = commands.add_parser("validate", help="whether every notebook still runs and is true")
    one.add_argument("notebooks", nargs="*", type=Path, help="notebooks or folders; default: all")
    one.add_argument("--report", type=Path, metavar="FOLDER", help="where HTML and JSON go")
    one.set_defaults(run=run_validation)

    one = commands.add_parser("address", help="put a fork's address into badges and setup cells")
    one.add_argument("url", help="like https://github.com/owner/name")
    one.set_defaults(run=rewrite_address)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; a foreseen error ends in its message and exit code 2."""
    args, rest = parser().parse_known_args(argv)
    if rest and args.command != "lab":
        parser().error(f"unknown argument: {' '.join(rest)}")
    args.rest = rest
    settings.prepare()
    try:
        return args.run(args)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
