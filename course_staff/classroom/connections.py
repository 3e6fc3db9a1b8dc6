"""The class gateway's connections: how many, and how long they may be idle.

A class opens hundreds at once, and strangers may open more. It knows nothing of what is asked.
"""

from typing import Any

from course_utils.endpoint.refusals import as_response, busy

UNLIMITED = 4096  # open files where the system names no limit
SPARE = 128  # of them, for everything that is no client
FIRST_SECONDS = 10.0  # from a connection to its first request
IDLE_SECONDS = 80.0  # between two requests; uvicorn itself ends most after 75
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


def guarded_protocol(most: int) -> Any:
    """The HTTP protocol of uvicorn, for at most `most` connections at a time.

    Where that many are open, the longest idle one is closed for a new one; where none is idle, the
    new one gets a 503. What was opened and never used, or stays silent in a request's head, is
    closed after a while.
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
            self.loop.call_later(REUSABLE, self.look)

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

        def look(self) -> None:
            """Close the connection where it has been silent for too long; look again later."""
            allowed = FIRST_SECONDS if self.cycle is None else IDLE_SECONDS
            allowed = REUSABLE if self.refused else allowed  # turned away, and not even asking
            if idle(self) and self.loop.time() - self.since >= allowed:
                self.transport.close()
            elif not self.transport.is_closing():
                self.loop.call_later(2, self.look)

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


def raw(refusal: Any) -> bytes:
    """A refusal as the bytes of an HTTP response after which the connection ends."""
    answer = as_response(refusal.body(), refusal.status)
    answer.headers.update({**refusal.headers, "connection": "close"})
    head = b"".join(b"%s: %s\r\n" % pair for pair in answer.raw_headers)
    return b"HTTP/1.1 503 Service Unavailable\r\n" + head + b"\r\n" + answer.body


FULL = raw(busy("Too many connections at once. Send fewer at a time."))
