"""A limit of requests per minute. It knows neither HTTP nor whose it is."""

import math
import time

from course_utils.endpoint.refusals import Refusal


class Bucket:
    """A token bucket: a limit that allows a few requests at once.

    It gains one request every 60 / limit seconds and holds what comes in two seconds, so that a
    program that sends a few at once is let through; at least two. OpenAI spreads its limits in the
    same way: "for example, 1 request per second for a 60 RPM limit"
    (help.openai.com/en/articles/5955604).
    """

    def __init__(self, requests_per_minute: float) -> None:
        """Start full."""
        self.limit = requests_per_minute
        self.seconds_each = 60 / requests_per_minute
        self.burst = max(min(2.0, requests_per_minute), requests_per_minute / 30)
        self.held, self.at = self.burst, time.monotonic()

    def take(self) -> int:
        """Take one request out and return how many are left.

        Raises:
            Refusal: the bucket is empty; with `Retry-After`, in seconds.
        """
        now = time.monotonic()
        self.held = min(self.burst, self.held + (now - self.at) / self.seconds_each)
        self.at = now
        if self.held < 1:
            # A whole interval, not what is left of it: enough for certain, and a round number.
            wait = math.ceil(self.seconds_each)
            message = f"Rate limit reached: {self.limit:g} requests per minute. "
            message += f"Try again in {wait} s."
            raise Refusal(429, "rate_limit_exceeded", message, Retry_After=str(wait))
        self.held -= 1
        return int(self.held)
