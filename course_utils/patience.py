"""How long a learner's code may take: a call that does not come to an end is stopped.

This module knows nothing of exercises.
"""

import signal
import threading
import time
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class TooLong(BaseException):
    """Stops an answer that does not come to an end; its own `except Exception` cannot hold it."""


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise `TooLong` in here after so many seconds (0: never); only in a main thread."""
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return
    done, late = threading.Event(), threading.Event()
    began = time.monotonic()

    def remind() -> None:
        while not done.wait(0.5 if late.is_set() else seconds):
            late.set()
            interrupt_main()

    def stop(number: int, frame: Any) -> None:
        if late.is_set() and not done.is_set():
            raise TooLong
        if callable(before) and not late.is_set():  # somebody pressed Stop
            before(number, frame)

    def stop_busy(number: int, frame: Any) -> None:
        if time.monotonic() - began > seconds and not done.is_set():
            raise TooLong

    before = signal.signal(signal.SIGINT, stop)
    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    # A regular expression that tries for ever lets no other thread run, so that none can remind:
    # it does look for signals, and where there is a clock of computing time (not on Windows), that
    # sends one.
    clock = hasattr(signal, "setitimer")
    if clock:
        before_busy = signal.signal(signal.SIGVTALRM, stop_busy)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds, 0.5)
    try:
        yield
    finally:
        done.set()
        reminder.join()  # whose last reminder must not arrive when nobody waits for it
        if clock:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before_busy or signal.SIG_DFL)
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
