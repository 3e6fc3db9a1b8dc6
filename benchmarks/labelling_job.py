"""Lesson 07's job: as fast as one process, and whole whatever breaks.

    python -m benchmarks.labelling_job speed [--rows 10000]
    python -m benchmarks.labelling_job broken [--times 10] [--kind worker|driver|node]

`speed` labels the same reviews in one process on two threads and with Ray Data on two workers of
one thread, twice, in turns, batches of 64; start-up (loading models, starting Ray) is left aside.
What counts is the ratio, since other programs slow both down. `broken` runs the job again and again
and kills a worker, the driver, or one of two nodes in the middle; each time every review has to be
there exactly once. Linux and macOS.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from course_utils import cluster, settings
from tests.examples import job as tried

BATCH = 64


def one_process(script: Any, source: Path) -> float:
    """Reviews a second in this process on two threads; the model's loading aside."""
    import pyarrow.parquet as pq
    import torch

    labeller = script.Labeller("pocket")
    torch.set_num_threads(2)
    table = pq.read_table(source)
    labeller(table.slice(0, BATCH))
    began = time.perf_counter()
    for start in range(0, table.num_rows, BATCH):
        labeller(table.slice(start, BATCH))
    return table.num_rows / (time.perf_counter() - began)


def by_ray(script: Any, source: Path, target: Path, rows: int) -> float:
    """Reviews a second from the first batch's beginning to the last file's end."""
    import pyarrow as pa
    import ray

    first = target.with_suffix(".began")

    class Timed(script.Labeller):
        def __call__(self, batch: pa.Table) -> pa.Table:
            if not first.exists():
                first.touch()
            return super().__call__(batch)

    cluster.start(6)
    ray.data.DataContext.get_current().enable_progress_bars = False
    kept, script.Labeller = script.Labeller, Timed
    try:
        script.label(source, target, 2, rows, settings.model_name(), BATCH)
    finally:
        script.Labeller = kept
        cluster.stop()
    files = list((target / "labels").glob("*.parquet"))
    return rows / (max(path.stat().st_mtime for path in files) - first.stat().st_mtime)


def speed(folder: Path, rows: int) -> None:
    """Both ways in turns, and their ratio."""
    script = tried.module()
    sys.modules[script.__name__] = script
    source = folder / "reviews.parquet"
    tried.write_reviews(source, rows)
    for n in range(2):
        alone = one_process(script, source)
        spread = by_ray(script, source, folder / f"out-{n}", rows)
        print(
            f"{rows:,} reviews: one process, 2 threads {alone:.0f}/s; Ray Data, 2 workers "
            f"{spread:.0f}/s; ratio {spread / alone:.2f}",
            flush=True,
        )


BREAKS = {
    "worker": tried.kill_a_worker,
    "driver": tried.kill_the_driver,
    "node": tried.lose_a_node,
}


def broken(folder: Path, times: int, rows: int, kinds: list[str]) -> None:
    """How often the job was whole after each kind of break."""
    source = folder / "reviews.parquet"
    tried.write_reviews(source, rows)
    for kind in map(BREAKS.__getitem__, kinds):
        whole = 0
        for n in range(times):
            target = folder / f"{kind.__name__}-{n}"
            try:
                kind(source, target)
                whole += len(tried.labels(target)) == rows
            except AssertionError as error:
                print(f"{kind.__name__}: {error}", flush=True)
            print(
                f"{kind.__name__}: {whole} of {n + 1} times every review exactly once", flush=True
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["speed", "broken"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--kind", choices=BREAKS, nargs="+", default=list(BREAKS))
    said = parser.parse_args()
    os.environ["PYTHONPATH"] = f"{tried.ROOT}{os.pathsep}{tried.SCRIPT.parent}"  # for the workers
    os.environ["OMP_NUM_THREADS"] = "2"  # Ray gives each of its workers one
    settings.prepare()
    with tempfile.TemporaryDirectory() as place:
        if said.what == "speed":
            speed(Path(place), said.rows or 10_000)
        else:
            broken(Path(place), said.times, said.rows or 640, said.kind)
