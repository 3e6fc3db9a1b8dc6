"""One endpoint for a whole class: `python -m course_staff serve`, on the instructor's machine.

It is lesson 01's own gateway, open to the network in place of this machine alone. Behind it stands
Pocket Llama or, where `OPENAI_API_KEY` or `OPENAI_BASE_URL` is set, the endpoint they name: then
the class works with one account and never sees its key. Learners set two variables.
"""

import secrets
import socket
from typing import Any

from course_utils import models
from course_utils.endpoint import server as endpoint
from course_utils.endpoint.server import Server
from course_utils.errors import CourseError

EVERYWHERE = "0.0.0.0"
HOW = """\
The class's endpoint answers: {who}

Each learner sets, before Jupyter starts (or in a file .env beside the course):

    OPENAI_BASE_URL=http://{host}:{port}/v1
    OPENAI_API_KEY={key}

Keep it inside the classroom's network: it speaks HTTP, not HTTPS. To stop it, press Ctrl+C here."""


def own_address() -> str:
    """This machine's address in its network; its name where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it asks which way that would leave
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostname()


def start(port: int = 8000, key: str = "", requests_per_minute: float = 0) -> Server:
    """Start the class's endpoint.

    Args:
        port: where it listens; 0 takes any free port.
        key: what learners put into `OPENAI_API_KEY`; made up where it is left out.
        requests_per_minute: of the whole class together; 0 for no limit.

    Returns:
        The server, with the class's key. Stop it when done, or use it as a context manager.

    Raises:
        CourseError: the key cannot be sent, the endpoint behind it does not answer, or the server
            did not start.
    """
    key = key or secrets.token_hex(4)
    if not key.isascii() or not key.isprintable() or any(c.isspace() for c in key):
        raise CourseError(
            "The class's key holds a character that no key may have.",
            "Keys travel in a line of ASCII text.",
            "Take letters and digits, without spaces.",
        )
    told: dict[str, Any] = {"host": EVERYWHERE, "port": port, "key": key}
    told["requests_per_minute"] = requests_per_minute
    own = endpoint.learners_own()
    if own:
        endpoint.probe(own)
        told |= {"upstream": own.base_url, "upstream_key": own.key}
        server = endpoint._launch(told, own.model, own.said_by)
    else:
        models.check_folder(models.POCKET)
        told["folder"] = str(models.POCKET)
        server = endpoint._launch(told, models.POCKET.name, "Pocket Llama")
    server.key = key
    return server


def instructions(server: Server) -> str:
    """What the instructor writes on the board."""
    port = server.base_url.rpartition(":")[2].partition("/")[0]
    return HOW.format(who=server.said_by, host=own_address(), port=port, key=server.key)


def run(port: int, key: str, requests_per_minute: float) -> None:
    """Serve until Ctrl+C, or until the server ends.

    Raises:
        CourseError: as `start`, or the server ended by itself.
    """
    with start(port, key, requests_per_minute) as server:
        print(instructions(server), flush=True)
        try:
            while not (ended := server.ended(within=3600)):
                pass
        except KeyboardInterrupt:
            print("\nStopped.")
        else:
            raise ended
