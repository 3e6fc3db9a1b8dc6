"""The gateway's connections: how many, how long they may be idle, and on which socket.

A class opens hundreds at once, and strangers may open more. It knows nothing of what is asked.
"""

import asyncio
import json
import socket
import sys
from typing import Any

from course_utils.endpoint.refusals import busy

UNLIMITED = 4096  # open files where the system names no limit
SPARE = 128  # of them, for everything that is no client
FIRST_SECONDS = 10.0  # from a connection to its first request
IDLE_SECONDS = 75  # between two requests
REUSABLE = 1.0  # seconds after which an idle connection may be closed to make room


def raise_file_limit() -> int:
    """Let this process open as many files as the system allows; returns how many."""
    try:
        import resource
    except ImportError:  # Windows has no such limit on sockets
        return UNLIMITED
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS says "unlimited" and refuses it
    for most in (hard, 65536, 10240, UNLIMITED):
        if most != resource.RLIM_INFINITY and (soft == resource.RLIM_INFINITY or most > soft):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            except (OSError, ValueError):
                continue
            return most
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens on `host`, on `port` or (0) on any free one.

    Raises:
        OSError: the port is taken, or not for this account.
    """
    # named TCP: asyncio switches Nagle's algorithm off only then, which costs 40 ms an answer
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if sys.platform != "win32":
        # or a port just left would count as taken; on Windows the option means sharing a port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(2048)  # from now on who connects waits, and is not turned away
    except OSError:
        listening.close()
        raise
    return listening


def guarded_protocol(most: int) -> Any:
    """The HTTP protocol of uvicorn, for at most `most` connections at a time.

    Where that many are open, the longest idle one is closed for a new one; where none is idle, the
    new one gets a 503.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Guarded(H11Protocol):
        """One connection, and since when it is idle."""

        refused = False

        def connection_made(self, transport: Any) -> None:
            """Count a new connection, and make room for it."""
            super().connection_made(transport)
            self.since = self.loop.time()
            if len(self.connections) > most and not make_room(self.connections, self.since):
                self.refused = True

        def data_received(self, data: bytes) -> None:
            """Read a request, or turn it away."""
            if self.refused:
                self.transport.write(FULL)
                self.transport.close()
            else:
                super().data_received(data)

        def on_response_complete(self) -> None:
            """Note that the connection is idle again."""
            self.since = self.loop.time()
            super().on_response_complete()

    return Guarded


def idle(connection: Any) -> bool:
    """Whether no request is under way on a connection."""
    return connection.cycle is None or connection.cycle.response_complete


def make_room(connections: Any, now: float) -> bool:
    """Close the idle connection that is most likely forgotten; whether there was one."""
    old = [one for one in connections if idle(one) and now - one.since > REUSABLE]
    if not old:
        return False
    # those that never asked anything go first
    min(old, key=lambda one: (one.cycle is not None, one.since)).transport.close()
    return True


async def sweep(connections: Any) -> None:
    """Close, for ever, what was opened and never used, or stays silent in a request's head."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(2)
        for one in list(connections):
            allowed = FIRST_SECONDS if one.cycle is None else IDLE_SECONDS + 5
            if one.refused:  # turned away, and not even asking
                allowed = REUSABLE
            if idle(one) and loop.time() - one.since > allowed:
                one.transport.close()


def raw(refusal: Any) -> bytes:
    """A refusal as the bytes of an HTTP response after which the connection ends."""
    body = json.dumps(refusal.body()).encode()
    head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    head += f"retry-after: {refusal.headers['Retry-After']}\r\nconnection: close\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


FULL = raw(busy("Too many connections at once. Send fewer at a time."))
