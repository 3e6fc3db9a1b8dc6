"""Lesson 01: the exercises on sending requests, 01.4 and 01.5, tried without a server.

It knows what the client raises and how an event loop runs; it sends nothing.
"""

import asyncio
import ctypes
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from course_utils.checks import Wrong

PATIENCE = 10  # seconds for an answer that comes back in milliseconds when it is right


def _refusal(status: int, wait: str | None = None) -> Exception:
    """An error as the client raises it on this status, with a `Retry-After` header or none."""
    import openai

    try:  # the client's own: openai 3 brings httpx2, openai 2 httpx
        import httpx2 as web
    except ImportError:
        import httpx as web  # type: ignore[no-redef]
    headers = {} if wait is None else {"Retry-After": wait}
    request = web.Request("POST", "https://api.example/v1/chat/completions")
    kind = {401: openai.AuthenticationError, 429: openai.RateLimitError}.get(status)
    response = web.Response(status, headers=headers, request=request)
    return (kind or openai.InternalServerError)(f"status {status}", response=response, body=None)


def _play(answer: Callable[..., Any], *script: Any) -> tuple[Any, list[float], int]:
    """(what came out of `answer`, how long it slept, how often it called) on these replies."""
    waits: list[float] = []
    turns = iter(script)
    calls = 0

    def call() -> str:
        nonlocal calls
        calls += 1
        turn = next(turns, "answered too late")
        if isinstance(turn, Exception):
            raise turn
        return turn

    def sleep(seconds: float) -> None:
        if isinstance(seconds, str):
            raise Wrong(f"sleep got the text {seconds!r}: a header is text, make a number of it.")
        waits.append(seconds + 0)

    try:
        return answer(call, sleep), waits, calls
    except Wrong:
        raise
    except Exception as error:
        return error, waits, calls


def patient(answer: Callable[[Callable[[], str], Callable[[float], None]], Any]) -> str:
    """Exercise 01.4: waits as told, up to five calls, and passes on other errors."""
    import openai

    def shown(got: Any) -> str:
        return f"{type(got).__name__ if isinstance(got, Exception) else repr(got)} came out"

    for reply in ("done", ""):
        got, waits, calls = _play(answer, reply)
        if got != reply or waits or calls != 1:
            raise Wrong(
                f"When the first call returns {reply!r}, return that without waiting; "
                f"{shown(got)} after {calls} calls and sleeping {waits}."
            )
    for seconds in (["3", "7"], ["1", "1", "2", "1"]):
        got, waits, calls = _play(answer, *(_refusal(429, wait) for wait in seconds), "done")
        told = f"Refused {len(seconds)} times with Retry-After {', '.join(seconds)}, then answered"
        if isinstance(got, openai.RateLimitError):
            raise Wrong(f"{told}: it gives up too soon, after {calls} calls.")
        if got != "done":
            raise Wrong(f"{told}: {shown(got)}.")
        if waits != [float(wait) for wait in seconds]:
            raise Wrong(f"{told}: it slept {waits} seconds.")
    got, waits, _ = _play(answer, _refusal(429), "done")
    if got != "done" or waits != [5]:
        raise Wrong(f"A 429 without Retry-After, then an answer: {shown(got)}, it slept {waits}.")
    got, waits, calls = _play(answer, *[_refusal(429, "1")] * 9)
    if not isinstance(got, openai.RateLimitError) or calls != 5:
        raise Wrong(
            f"Refused for ever, the RateLimitError should come out after five calls; "
            f"{shown(got)} after {calls}."
        )
    if len(waits) != 4:
        raise Wrong(f"Refused five times, it slept {len(waits)} times: the last one helps nobody.")
    for other in (KeyError("x"), _refusal(401), _refusal(500)):
        for before in ([], [_refusal(429, "1")]):
            got, _, calls = _play(answer, *before, other, "done")
            if got is not other or calls != len(before) + 1:
                raise Wrong(
                    f"On {type(other).__name__} {shown(got)} after {calls} calls: it should let "
                    "every other error out at once."
                )
    return "The client does this for you with max_retries; now you know what it does."


def in_order(answer: Callable[..., Awaitable[Any]]) -> str:
    """Exercise 01.5: replies in order, never more than so many under way."""
    different = [f"review {i}" for i in range(12)]
    for reviews, at_once in ((different, 4), (different, 3), (different[:3] * 3, 2)):
        _ask_in_order(answer, reviews, at_once)
    return "Twelve reviews, never more than four under way, every reply in its place."


def _ask_in_order(answer: Callable[..., Awaitable[Any]], reviews: list[str], at_once: int) -> None:
    """Run the learner's function once, and raise `Wrong` on what it did."""
    now = most = calls = 0

    async def ask(review: str) -> str:
        nonlocal now, most, calls
        calls += 1
        now += 1
        most = max(most, now)
        # the later ones are the faster ones, so that they come back in another order
        for _ in range(20 - int(review.split()[1])):
            await asyncio.sleep(0)
        now -= 1
        return review.upper()

    given = list(reviews)
    got = _run(lambda: answer(ask, given, at_once))
    told = f"For {len(reviews)} reviews and at_once={at_once}"
    if given != reviews:
        raise Wrong(f"{told} it leaves {len(given)} in the list of reviews that it was given.")
    if most > at_once:
        raise Wrong(f"{told} there were {most} under way at the same time.")
    if not isinstance(got, list | tuple) or not all(isinstance(reply, str) for reply in got):
        raise Wrong(f"{told} it should return the list of replies; it returned {got!r}.")
    wanted = [review.upper() for review in reviews]
    if sorted(got) != sorted(wanted):
        raise Wrong(f"{told} it returned {len(got)} replies, or replies to other texts: {got}.")
    if list(got) != wanted:
        raise Wrong(f"{told} the replies are all there, but not in the order of the reviews.")
    if calls != len(reviews):
        raise Wrong(f"{told} it asked {calls} times: each request costs.")
    if most == 1:
        raise Wrong(f"{told} it asks one after another: nothing is gained.")
    if most < at_once:
        raise Wrong(f"{told} never more than {most} were under way.")


def _run(start: Callable[[], Awaitable[Any]]) -> Any:
    """Run it in a loop of its own: a notebook's main thread already has one running."""
    result: dict[str, Any] = {}

    async def wrapped() -> Any:
        awaitable = start()
        if not inspect.isawaitable(awaitable):
            raise Wrong("It should be an `async def` function that returns the replies.")
        return await asyncio.wait_for(awaitable, timeout=PATIENCE)

    def run() -> None:
        try:
            result["value"] = asyncio.run(wrapped())
        except BaseException as error:
            result["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(1.5 * PATIENCE)
    if thread.is_alive():  # a loop without await: end it, or it would slow down all that follows
        ident, stop = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(asyncio.CancelledError)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, stop)
    if thread.is_alive() or isinstance(result.get("error"), TimeoutError):
        raise Wrong("It does not come to an end.")
    if "error" in result:
        raise result["error"]
    return result["value"]
