"""One endpoint for a whole class: `python -m course_staff serve`, on the instructor's machine.

It is lesson 01's own gateway, open to the network in place of this machine alone. Behind it stands
Pocket Llama or, where `OPENAI_API_KEY` or `OPENAI_BASE_URL` is set, the endpoint they name: then
the class works with one account, whose key it never sees, and can do two things with it: list the
one model, and chat with it, within bounds. Learners set two variables.
"""

import argparse
import csv
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from course_staff.classroom.gateway import USAGE
from course_utils.endpoint import Server, probe
from course_utils.endpoint.own import learners_own
from course_utils.endpoint.server import check_limit, check_port, launch, tiers_model
from course_utils.errors import CourseError

GATEWAY = "course_staff.classroom.gateway"
EVERYWHERE = "0.0.0.0"
KEY_LETTERS = 22  # of the 64 that a made-up key has: 132 bits
TOKENS_A_REQUEST = 4096
TOKENS_EACH = 500_000  # some thirty times what lesson 01 takes
COLUMNS = ["learner", "OPENAI_BASE_URL", "OPENAI_API_KEY"]
HOW = """\
The class's endpoint answers: {who}

Each learner sets, before Jupyter starts (or in a file .env beside the course):

    OPENAI_BASE_URL={address}
    OPENAI_API_KEY={key}

Keep it inside the classroom's network: it speaks HTTP, not HTTPS. To stop it, press Ctrl+C here."""


def own_address() -> str:
    """This machine's address in its network; its name where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probing:
        try:
            probing.connect(("192.0.2.1", 9))  # sends nothing: it asks which way that would leave
            return probing.getsockname()[0]
        except OSError:
            return socket.gethostname()


def start(
    port: int = 8000,
    key: str = "",
    requests_per_minute: float = 0,
    tokens_each: int = TOKENS_EACH,
    keys: dict[str, str] | None = None,
) -> Server:
    """Start the class's endpoint.

    Args:
        port: where it listens; 0 takes any free port.
        key: what all learners put into `OPENAI_API_KEY`; made up where it is left out.
        requests_per_minute: of each learner; 0 for no limit. Learners who share a key are told
            apart by their address.
        tokens_each: how many tokens a learner may use; 0 for any number.
        keys: a key of their own for each learner's name, in place of `key`.

    Returns:
        The server, with the class's key. Stop it when done, or use it as a context manager.

    Raises:
        CourseError: a key, the limit or the port cannot be, the endpoint behind it does not
            answer, or the server did not start.
    """
    keys = keys or {"": key or secrets.token_urlsafe(24)}
    for each in keys.values():
        check_key(each)
    if requests_per_minute:
        check_limit(requests_per_minute)
    check_port(port)  # before anything is asked of a provider
    told: dict[str, Any] = {"host": EVERYWHERE, "port": port, "keys": keys}
    told |= {"key": next(iter(keys.values()))}
    told |= {"requests_per_minute": requests_per_minute, "tokens_each": tokens_each}
    own = learners_own()
    if own:
        probe(own)
        told |= {"upstream": own.base_url, "upstream_key": own.key}
        told["most_tokens"] = TOKENS_A_REQUEST
        return launch(told, own.model, own.said_by, GATEWAY)
    folder, model, who = tiers_model()
    return launch({**told, "folder": str(folder)}, model, who, GATEWAY)


def usage(server: Server) -> list[dict[str, Any]]:
    """What each learner used, the one with most tokens first; once the server is stopped."""
    last = server.log[-1] if server.log else ""
    return json.loads(last.removeprefix(USAGE)) if last.startswith(USAGE) else []


def check_key(key: str) -> None:
    """Raise `CourseError` where a key cannot be sent, or could be guessed."""
    if not key.isascii() or not key.isprintable() or any(c.isspace() for c in key):
        raise CourseError(
            "The class's key holds a character that no key may have.",
            "Keys travel in a line of ASCII text.",
            "Take letters and digits, without spaces.",
        )
    if len(key) < KEY_LETTERS:
        raise CourseError(
            f"The class's key is too short: {len(key)} characters.",
            f"Guests could guess it; {KEY_LETTERS} random letters and digits cannot be guessed.",
            "Leave --key out, and a good one is made.",
        )


def address(server: Server) -> str:
    """What learners put into `OPENAI_BASE_URL`."""
    port = server.base_url.rpartition(":")[2].partition("/")[0]
    return f"http://{own_address()}:{port}/v1"


def instructions(server: Server, key: str = "") -> str:
    """What the instructor writes on the board."""
    return HOW.format(who=server.said_by, address=address(server), key=key or server.key)


def learners_keys(count: int, table: Path) -> dict[str, str]:
    """A key for each of `count` learners; those that the table holds already stay as they are.

    Raises:
        CourseError: the count cannot be, or the table is another file or cannot be written.
    """
    if not 1 <= count <= 1000:
        raise CourseError(f"--learners {count} cannot be.", "It takes 1 to 1000.", "Take 30.")
    keys: dict[str, str] = {}
    try:
        if table.exists():
            with table.open(encoding="utf-8", newline="") as file:
                keys = {row[COLUMNS[0]]: row[COLUMNS[2]] for row in csv.DictReader(file)}
            for key in keys.values():
                check_key(key)
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("a", encoding="utf-8"):
            os.chmod(table, 0o600)  # keys: nobody else on this machine reads them
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CourseError) as error:
        raise CourseError(
            f"{table} cannot hold the learners' keys.",
            f"{type(error).__name__}: it is another file, damaged, or cannot be written.",
            "Name another one: --table FILE.csv",
        ) from None
    for number in range(1, count + 1):
        keys.setdefault(f"learner-{number:02}", secrets.token_urlsafe(24))
    return dict(list(keys.items())[:count])


def write_keys(keys: dict[str, str], table: Path, url: str) -> None:
    """Write a line for each learner, to be cut up or copied; whole or not at all."""
    beside = table.with_name(table.name + ".new")
    place = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(place, "w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(COLUMNS)
        rows.writerows([name, url, key] for name, key in keys.items())
    os.replace(beside, table)


def add_arguments(one: argparse.ArgumentParser) -> None:
    """The options of `serve`."""
    one.add_argument("--port", type=int, default=8000)
    one.add_argument("--key", default="", help=f"one for all, of {KEY_LETTERS} characters or more")
    one.add_argument("--learners", type=int, default=0, help="a key for each of so many learners")
    one.add_argument("--table", type=Path, default=Path("learners.csv"), help="where those keys go")
    one.add_argument("--limit", type=float, default=0, help="requests a minute, of each learner")
    tokens = "tokens that each learner may use; 0 for any number"
    one.add_argument("--tokens", type=int, default=TOKENS_EACH, help=tokens)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl+C, or until the server ends; then say what each learner used.

    Raises:
        CourseError: as `start`, or the server ended by itself.
    """
    keys = learners_keys(args.learners, args.table) if args.learners else None
    if args.tokens < 0:
        raise CourseError(f"--tokens {args.tokens} cannot be.", "", "Take 0 for any number.")
    with start(args.port, args.key, args.limit, args.tokens, keys) as server:
        if keys:
            write_keys(keys, args.table, address(server))
        print(instructions(server, keys and f"(each one's own: {args.table})" or ""), flush=True)
        try:
            # in short steps: on Windows nothing interrupts a long one
            while not (ended := server.ended(within=0.5)):
                pass
        except KeyboardInterrupt:
            ended = None
    print("\nStopped.")
    for row in usage(server):
        print(f"{row['learner']:20} {row['requests']:7,} requests {row['tokens']:10,} tokens")
    if ended:
        raise ended
    return 0
