"""The staff's commands, from a checkout: `python -m course_staff COMMAND`.

validate [NOTEBOOK…] [--report FOLDER]   whether every notebook still runs and is true
notebooks run|cards [NOTEBOOK…]          execute and store; or write cards and badges alone
real [NOTEBOOK…] [--cards]               all lessons on SmolLM2: errors, minutes, labels read
publish slides|site|nbgrader FOLDER      the lessons as slides, as a web site, as assignments
record …                                 a reference run on this machine (`record --help`)
serve [--learners N] [--limit N] …       one endpoint for a whole class (`serve --help`)
collect FOLDER [--table FILE] …          check what learners handed in, into one table
address URL                              after a fork: put your repository's address everywhere
"""

import argparse
import sys
from pathlib import Path

from course_staff import publish, real
from course_staff.classroom import serving
from course_staff.collecting import collect, nbgrader
from course_staff.notebooks import address, keeping, store, tables
from course_staff.recording import lesson
from course_staff.recording import record as recording
from course_staff.validation import report, validate
from course_utils.__main__ import run


def run_validation(args: argparse.Namespace) -> int:
    """Execute and compare notebooks, write the report; 1 where one does not pass."""
    if args.report:
        report.prepare(args.report)
    found = validate.validate(args.notebooks)
    for problem in found["between"]:
        print(problem)
    print(validate.summary(found))
    if args.report:
        print(report.write(found, args.report))
    return int(not found["passed"])


def keep_notebooks(args: argparse.Namespace) -> int:
    """Execute and store notebooks, or write what they share; 1 where a cell failed."""
    paths = [path.resolve() for path in args.notebooks] or store.every()
    failed = keeping.run(paths) if args.what == "run" else keeping.write_cards(paths)
    if args.what == "run" and not failed:
        lesson.write_all(paths)
    tables.write_tables()
    return int(bool(failed))


def run_on_a_real_model(args: argparse.Namespace) -> int:
    """Run notebooks on SmolLM2; 1 where a cell fails or too few replies hold a label."""
    faults = real.main(args.notebooks, args.cards)
    if args.cards:
        tables.write_tables()
    return faults


def publish_lessons(args: argparse.Namespace) -> int:
    """Write slides, the site or nbgrader's assignments, and name the pages."""
    write = {"slides": publish.slides, "site": publish.site, "nbgrader": nbgrader.write}
    print("\n".join(map(str, write[args.what](args.folder))))
    return 0


def rewrite_address(args: argparse.Namespace) -> int:
    """Rewrite the repository's address and name the changed files."""
    changed = address.rewrite_address(args.url)
    print("\n".join(changed) or "Nothing to change: this is the address already.")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line: one `add_parser` and one function for each command."""
    top = argparse.ArgumentParser(
        prog="python -m course_staff",
        description="For instructors and maintainers of Open LLMs, hands-on.",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    one = commands.add_parser("validate", help="whether every notebook still runs and is true")
    one.add_argument("notebooks", nargs="*", type=Path, help="notebooks or folders; default: all")
    one.add_argument("--report", type=Path, metavar="FOLDER", help="where HTML and JSON go")
    one.set_defaults(run=run_validation)

    one = commands.add_parser("notebooks", help="execute notebooks, or write their shared cells")
    one.add_argument("what", choices=["run", "cards"])
    one.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    one.set_defaults(run=keep_notebooks)

    one = commands.add_parser("real", help="all lessons on SmolLM2")
    one.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    one.add_argument("--cards", action="store_true", help="write the small tier's row of the cards")
    one.set_defaults(run=run_on_a_real_model)

    one = commands.add_parser("publish", help="slides, a web site or nbgrader's assignments")
    one.add_argument("what", choices=["slides", "site", "nbgrader"])
    one.add_argument("folder", type=Path)
    one.set_defaults(run=publish_lessons)

    one = commands.add_parser("record", help="a reference run on this machine", add_help=False)
    one.set_defaults(run=lambda args: recording.main(args.rest))

    one = commands.add_parser("serve", help="one endpoint for a whole class")
    serving.add_arguments(one)
    one.set_defaults(run=serving.run)

    one = commands.add_parser("collect", help="check what learners handed in, into one table")
    collect.add_arguments(one)
    one.set_defaults(run=collect.run)

    one = commands.add_parser("address", help="put a fork's address into badges and setup cells")
    one.add_argument("url", help="like https://github.com/owner/name")
    one.set_defaults(run=rewrite_address)
    return top


def main(argv: list[str] | None = None) -> int:
    """The staff's commands."""
    return run(parser(), argv, "record")


if __name__ == "__main__":
    sys.exit(main())
