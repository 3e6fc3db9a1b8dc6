"""Who may ask, how often and how much: keys, limits and what each learner used.

It knows neither HTTP nor models.
"""

import asyncio
import hashlib
import time

from course_utils.endpoint.bucket import Bucket
from course_utils.endpoint.gateway import wrong_key
from course_utils.endpoint.refusals import Refusal

SLOWEST = 5.0  # seconds that a wrong key waits at most
FORGOTTEN = 60.0  # seconds after which wrong keys of an address are forgotten


class Learner:
    """One holder of a key: their limit, and what they used.

    Attributes:
        requests, tokens: how many requests were answered, and tokens read and written for them.
        held: tokens that requests under way may still use.
    """

    def __init__(self, name: str, limit: float, tokens: int) -> None:
        """A name, a limit of requests per minute and a bound on tokens; 0 for none."""
        self.name, self.bound = name, tokens
        self.bucket = Bucket(limit) if limit else None
        self.requests = self.tokens = self.held = 0

    def hold(self, most: int) -> None:
        """Set aside what a request may use at most.

        Raises:
            Refusal: that is more than the learner has left.
        """
        if self.bound and self.tokens + self.held + most > self.bound:
            left = max(0, self.bound - self.tokens - self.held)
            message = f"You have used your share: of {self.bound:,} tokens {left:,} are left, and "
            message += f"this request may take {most:,}. Ask your instructor for more."
            raise Refusal(429, "insufficient_quota", message, x_should_retry="false")
        self.held += most

    def settle(self, most: int, used: int) -> None:
        """Give back what was set aside, and count what was used."""
        self.held -= most
        self.tokens += used
        self.requests += 1


class Lending:
    """The keys that are lent, and to whom."""

    def __init__(self, keys: dict[str, str], limit: float, tokens: int) -> None:
        """`keys`: names with keys; an empty name for a key that many share.

        Whoever shares a key is told apart by their address.
        """
        self.names = {digest(key): name for name, key in keys.items()}
        self.limit, self.tokens = limit, tokens
        self.learners: dict[str, Learner] = {}
        self.wrong: dict[str, tuple[int, float]] = {}

    async def learner(self, key: str, address: str) -> Learner:
        """The holder of a key.

        Raises:
            Refusal: it is none of the keys; later, the more wrong ones came from this address.
        """
        name = self.names.get(digest(key))
        if name is None:
            await self.slow_down(address)
            raise wrong_key()
        name = name or address
        if name not in self.learners:
            self.learners[name] = Learner(name, self.limit, self.tokens)
        return self.learners[name]

    async def slow_down(self, address: str) -> None:
        """Wait: not for a first wrong key, then 0.1 s, and twice as long after each."""
        now = time.monotonic()
        if len(self.wrong) > 1000:
            self.wrong = {who: told for who, told in self.wrong.items() if told[1] > now}
        times, until = self.wrong.get(address, (0, 0.0))
        times = times + 1 if until > now else 1
        self.wrong[address] = times, now + FORGOTTEN
        await asyncio.sleep(min(SLOWEST, 0.1 * 2 ** min(times - 2, 10)) if times > 1 else 0)

    def usage(self) -> list[dict[str, str | int]]:
        """What each learner used, the one with most tokens first."""
        every = sorted(self.learners.values(), key=lambda one: (-one.tokens, one.name))
        return [{"learner": e.name, "requests": e.requests, "tokens": e.tokens} for e in every]


def digest(key: str) -> bytes:
    """A key's hash: looking that up takes as long for a nearly right key as for any other."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
