"""How fast the class's endpoint answers, beside the same model in plain batches.

    python -m benchmarks.class_endpoint [--many]

In one run, one after the other and twice: batches of 32 and of 1 with `generate` in one process on
one thread; then a local endpoint with 20 learners who send 48 reviews each, 16 at once; then one
learner who waits for each answer. With `--many` also 200 learners with 16 reviews each, all at
once, the server started with 256 file handles allowed; then the server's memory while 10,000 more
requests come in. What counts is the ratio, since other programs on the machine slow both down. The
load comes from plain sockets, to leave the cores to the server. Linux and macOS.
"""

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
import sys
import time
from urllib.parse import urlsplit

import psutil

from course_staff.classroom import serving
from course_utils import data, endpoint, settings
from course_utils.sentiment import messages

PLAIN = """
import os, sys, time
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
import torch
from course_utils import data, models, settings
from course_utils.sentiment import local_batch, messages
settings.prepare()
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
folder = str(models.POCKET)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
label = local_batch(model, AutoTokenizer.from_pretrained(folder))
chats = [messages(text) for text, _ in data.reviews(320)]
label(chats[:32])
for size, count in ((32, 320), (1, 48)):
    start = time.perf_counter()
    for i in range(0, count, size):
        label(chats[i : i + size])
    print("PLAIN", count / (time.perf_counter() - start))
"""


def plain() -> list[float]:
    """Reviews per second in batches of 32, and one by one, in a process of their own."""
    done = subprocess.run([sys.executable, "-c", PLAIN], capture_output=True, text=True, check=True)
    return [float(line.split()[1]) for line in done.stdout.splitlines() if "PLAIN" in line]


class Caller:
    """One connection to the server, kept open, one request at a time."""

    def __init__(self, server: endpoint.Server) -> None:
        """Prepare; the first request connects."""
        at = urlsplit(server.base_url)
        self.host, self.port, self.server = at.hostname, at.port, server
        self.reader: asyncio.StreamReader | None = None

    async def ask(self, text: str) -> tuple[int, float]:
        """Send one review; the status of the answer, after waits as `Retry-After` says, and s."""
        body = {"model": self.server.model, "messages": messages(text), "temperature": 0}
        content = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        head += f"{self.server.key}\r\nContent-Type: application/json\r\n"
        start = time.perf_counter()
        for _ in range(3):  # as the openai client does
            if self.reader is None:
                self.reader, self.writer = await asyncio.open_connection(self.host, self.port)
            self.writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            told = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(told.partition("content-length: ")[2].split()[0])
            await self.reader.readexactly(length)
            status = int(told.split()[1])
            if "connection: close" in told:
                self.writer.close()
                self.reader = None
            if status not in (429, 503):
                break
            await asyncio.sleep(float(told.partition("retry-after: ")[2].split()[0]))
        return status, time.perf_counter() - start


async def load(server: endpoint.Server, learners: int, each: int, at_once: int) -> dict[str, float]:
    """Answers per second, the 99th percentile of seconds, and how many were no answer."""
    texts = [text for text, _ in data.reviews(320)]

    async def caller(jobs: list[str]) -> list[tuple[int, float]]:
        one = Caller(server)
        try:
            return [await one.ask(text) for text in jobs]
        except (OSError, EOFError, ValueError):
            return [(0, 0.0)] * len(jobs)

    jobs = [texts[n * 7 % 260 :][:each] for n in range(learners)]
    start = time.perf_counter()
    parts = [caller(job[i::at_once]) for job in jobs for i in range(at_once)]
    done = [one for part in await asyncio.gather(*parts) for one in part]
    seconds = time.perf_counter() - start
    slow = statistics.quantiles([s for _, s in done], n=100)[98]
    failed = sum(status != 200 for status, _ in done)
    return {"rate": len(done) / seconds, "p99": slow, "failed": failed, "seconds": seconds}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--many", action="store_true", help="also 200 learners at once")
    many = parser.parse_args().many
    settings.prepare()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    server = serving.start(port=0, tokens_each=0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with server:
        for _ in range(2):
            batches, singles = plain()
            print(f"plain batches of 32: {batches:.0f} reviews/s; of 1: {singles:.0f}")
            found = asyncio.run(load(server, 20, 48, 16))
            print(f"20 x 48, 16 at once: {show(found)}, ratio {found['rate'] / batches:.2f}")
            found = asyncio.run(load(server, 1, 48, 1))
            print(f"one by one: {show(found)}, ratio {found['rate'] / singles:.2f}")
        if many:
            found = asyncio.run(load(server, 200, 16, 16))
            share = found["p99"] / (3200 / batches)
            print(f"200 x 16 at once: {show(found)}, p99 {share:.2f} of 3,200 in plain batches")
            held = [resident(server.process.pid)]
            for _ in range(10):
                asyncio.run(load(server, 20, 50, 16))
                held.append(resident(server.process.pid))
            told = " ".join(f"{size >> 20}" for size in held)
            print(f"the server's MiB, before and after each 1,000 of 10,000 requests: {told}")


def resident(pid: int) -> int:
    """Bytes of RAM that a process and its children hold."""
    process = psutil.Process(pid)
    return sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])


def show(found: dict[str, float]) -> str:
    """One measurement in words."""
    return f"{found['rate']:.0f}/s, p99 {found['p99']:.2f} s, {found['failed']:.0f} failed"


if __name__ == "__main__":
    main()
