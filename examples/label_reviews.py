"""Label many reviews with many workers: lesson 07's job, to take to work.

    python examples/label_reviews.py INPUT OUTPUT --workers 2
    python examples/label_reviews.py INPUT OUTPUT --workers 40 --address auto
    python examples/label_reviews.py INPUT OUTPUT --workers 40 --address ray://HOST:10001

INPUT is a Parquet file, or a folder of them, with a column `id` (each one once) and a column
`text`. OUTPUT is a folder of its own, which every node can reach:

    labels/     Parquet files with id, text, label, reply, problem
    progress/   which ids are in labels/ for good; Ray Data keeps it (see CheckpointConfig)
    job.json    what is being labelled, with which model; at the end the counts

A row that cannot be labelled is not lost: its `problem` says why. A worker or node that is lost is
replaced. A job that was stopped, by Ctrl+C or by a power cut, goes on from what is written when the
same command is run again. OUTPUT is whole when job.json says `"done": true`.

With --address the nodes of the cluster may still be joining: the job waits two minutes for as many
cores as it needs. `auto` and HOST:6379 are for a machine of the cluster. ray://HOST:10001 is for
one outside, which sees INPUT and OUTPUT at the same paths as the nodes and stays on to the end.

The model is the course's (COURSE_MODEL). Another model, prompt or set of labels: change `Labeller`,
nothing else knows of them.
"""

import argparse
import hashlib
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from course_utils import cluster, settings
from course_utils.errors import FULL, CourseError
from course_utils.models import model_path, weights_bytes

COLUMNS = ("id", "text", "label", "reply", "problem")
NEW_TOKENS = 20
FILE_ROWS = 5_000  # of one file in labels/, at most
JOINING = 120  # seconds to wait for the nodes of a cluster, which join one by one
OTHERS = 4  # cores to give away beside the workers': without them Ray waits for itself for ever
OURS = {".lock", ".job.json.new"}  # files that do not make an output folder another's


class Labeller:
    """What a worker does: load the model once, then label one batch of rows after another."""

    def __init__(self, name: str) -> None:
        """Load the model that `name` stands for on this node, for one core."""
        os.environ["COURSE_MODEL"] = name
        settings.prepare()
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from course_utils.sentiment import local_batch

        torch.set_num_threads(1)
        folder = model_path(name)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)  # CPUs' own
        self.complete = local_batch(model, self.tokenizer, max_new_tokens=NEW_TOKENS)
        self.room = model.config.max_position_embeddings - NEW_TOKENS

    def chat(self, text: Any) -> tuple[Any, str | None]:
        """(the messages that ask about a text, None), or (None, why it cannot be asked about)."""
        from course_utils.sentiment import messages

        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError:
                return None, "not text: its bytes are no UTF-8"
        if text is None:
            return None, "empty: no text"
        if not isinstance(text, str):
            return None, f"not text: {type(text).__name__}"
        if not text.strip():
            return None, "empty: nothing but spaces"
        if len(text) < 50 * self.room:  # counting the tokens of a whole book takes long
            try:
                chat = messages(text)
                ids = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True)
            except Exception as error:  # like a template that wants no [INST] in a message
                return None, f"refused: {error}"[:300]
            tokens = len(ids["input_ids"] if hasattr(ids, "keys") else ids)
            if tokens <= self.room:
                return chat, None
        return None, f"too long: {len(text):,} characters, the model reads {self.room:,} tokens"

    def replies(self, chats: list[Any]) -> list[tuple[str | None, str | None]]:
        """(reply, None) for each chat; where a batch fails, one by one, (None, why)."""
        if not chats:
            return []
        try:
            return [(reply, None) for reply in self.complete(chats)]
        except Exception as error:
            if len(chats) == 1:
                return [(None, f"the model stopped: {type(error).__name__}: {error}"[:300])]
            return [self.replies([chat])[0] for chat in chats]

    def __call__(self, rows: pa.Table) -> pa.Table:
        """A batch with the columns id and text → the same rows with all of `COLUMNS`."""
        from course_utils.replies import UNPARSED
        from course_utils.sentiment import parse_label

        texts = cells(rows.column("text"))
        asked = [self.chat(text) for text in texts]
        answers = iter(self.replies([chat for chat, _ in asked if chat]))
        made = [next(answers) if chat else (None, why) for chat, why in asked]
        labels = [None if reply is None else parse_label(reply) for reply, _ in made]
        problems = [
            "no single label in the reply" if label == UNPARSED else why
            for label, (_, why) in zip(labels, made, strict=True)
        ]
        shown = [t.decode(errors="replace") if isinstance(t, bytes) else t for t in texts]
        columns = [shown, labels, [reply for reply, _ in made], problems]
        return pa.table(
            [rows.column("id"), *(pa.array(column, pa.large_string()) for column in columns)],
            names=list(COLUMNS),
        )


def cells(column: pa.ChunkedArray) -> list[Any]:
    """A column's cells; text as bytes, since what a file calls text need not be readable."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return column.to_pylist()


def label(source: Path, target: Path, workers: int, rows: int, model: str, batch: int = 64) -> None:
    """Label what is not labelled yet, with `workers` workers of the Ray that runs."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

    # Ray 2.60 will rename how a worker's restarts are bounded, and has no new name yet.
    warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        id_column="id",
        checkpoint_path=str(target / "progress"),
        delete_checkpoint_on_success=False,
    )
    block = min(FILE_ROWS, max(batch, rows // (8 * workers)))  # small blocks: little is done twice
    try:
        texts = ray.data.read_parquet(str(source)).select_columns(["id", "text"])
        texts.repartition(target_num_rows_per_block=block).map_batches(
            Labeller,
            fn_constructor_args=(model,),
            batch_size=batch,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            max_task_retries=-1,  # what is lost with a worker or its node is tried again …
            max_restarts=20,  # … but rows that kill every worker end the job at some time
        ).write_parquet(str(target / "labels"))
    finally:
        context.checkpoint_config = None


def label_from_outside(source: Path, target: Path, workers: int, rows: int, model: str) -> None:
    """`label` as a task of the cluster, watched from here.

    Ray Data has to run where the cluster is: a process that reaches it through ray:// only sends
    work there. The bar shows the rows that are written for good.
    """
    import ray
    from tqdm.auto import tqdm

    job = ray.remote(num_cpus=0, max_retries=0)(label).remote(source, target, workers, rows, model)
    with tqdm(total=rows, unit=" rows") as bar:
        while not ray.wait([job], timeout=2)[0]:
            bar.update(written(target) - bar.n)
        ray.get(job)
        bar.update(written(target) - bar.n)


def written(target: Path) -> int:
    """How many rows are booked in `target`'s progress."""
    booked = [p for p in target.glob("progress/*.parquet") if ".pending." not in p.name]
    return sum(pq.read_metadata(path).num_rows for path in booked)


# -- before and after ------------------------------------------------------------------------------


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files that `folder` is or holds."""
    return sorted(folder.rglob("*.parquet")) if folder.is_dir() else [folder]


def check_input(source: Path) -> dict[str, Any]:
    """What identifies the input: its rows, its bytes, a digest of its ids.

    Raises:
        CourseError: it is not there, is no Parquet, lacks a column, or an id stands there twice.
    """
    files = parquet_files(source)
    if not source.exists() or not files:
        raise CourseError(
            f"{source} holds no Parquet file.",
            "" if source.exists() else "There is no such file or folder.",
            'From a table: pandas.read_csv("reviews.csv").to_parquet("reviews.parquet").',
        )
    ids = []
    for path in files:
        try:
            schema = pq.read_schema(path)
            missing = {"id", "text"} - set(schema.names)
            ids += [] if missing else [pq.read_table(path, columns=["id"]).column("id")]
        except (pa.ArrowException, OSError) as error:
            raise CourseError(
                f"{path.name} cannot be read as Parquet.",
                str(error).splitlines()[0][:200],
                "Take it out of the folder, or write it again.",
            ) from None
        if missing:
            raise CourseError(
                f"{path.name} has no column {min(missing)}.",
                f"It has {', '.join(schema.names)}.",
                "Rename a column, or number the rows: table.insert(0, 'id', range(len(table))).",
            )
        if not readable(schema.field("text").type):
            raise CourseError(
                f"The column text of {path.name} holds no text but {schema.field('text').type}.",
                "",
                "Is it the right column? If so, turn it into text: table.text.astype(str).",
            )
    if len({column.type for column in ids}) > 1:
        raise CourseError(
            "The ids are of different types from file to file.",
            ", ".join(sorted({str(column.type) for column in ids})) + ".",
            "Write the files again with ids of one type.",
        )
    if not (
        pa.types.is_integer(ids[0].type)
        or pa.types.is_string(ids[0].type)
        or pa.types.is_large_string(ids[0].type)
    ):
        raise CourseError(
            f"The ids are {ids[0].type}.",
            "The job tells rows apart by ids that are whole numbers or text.",
            "Number the rows: table['id'] = range(len(table)).",
        )
    if not any(map(len, ids)):
        raise CourseError(f"{source} holds no rows.", "", "Look at how the file was written.")
    return fingerprint(files, ids)


def readable(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold text."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_null)
    return any(is_it(inner) for is_it in (*texts, pa.types.is_binary, pa.types.is_large_binary))


def fingerprint(files: list[Path], ids: list[pa.ChunkedArray]) -> dict[str, Any]:
    """The input's rows, bytes and a digest of its ids; `CourseError` unless each is there once."""
    every = [one for column in ids for one in column.to_pylist()]
    if None in every or len(set(every)) < len(every):
        seen: set[Any] = set()
        twice = next((one for one in every if one in seen or seen.add(one)), None)
        raise CourseError(
            "A row has no id." if None in every else f"The id {twice!r} is there more than once.",
            "By its id the job knows which row is labelled already.",
            "Number the rows anew: table['id'] = range(len(table)).",
        )
    digest = hashlib.sha256("\n".join(map(str, every)).encode()).hexdigest()[:16]
    return {"rows": len(every), "bytes": sum(p.stat().st_size for p in files), "ids": digest}


def claim(target: Path, job: dict[str, Any]) -> bool:
    """Make `target` this job's folder; False where the whole job is done there already.

    Raises:
        CourseError: something else is in it, or another job's labels.
    """
    note = target / "job.json"
    if note.exists():
        try:
            before = json.loads(note.read_text(encoding="utf-8"))
            old = {key: before.get(key) for key in job}
        except (ValueError, AttributeError):
            old = {}
        if old != job:
            changed = [key for key in job if old.get(key) != job[key]]
            raise CourseError(
                f"{target} holds the labels of another job.",
                f"Other than now: {', '.join(changed)} (see {note.name} there).",
                "Give this one a folder of its own.",
            )
        return not before.get("done")
    found = sorted(p.name for p in target.iterdir() if p.name not in OURS)
    if found:
        raise CourseError(
            f"{target} is not empty.",
            f"It holds {', '.join(found[:3])}{', …' if len(found) > 3 else ''}.",
            "Name a folder that is not there yet; it is made.",
        )
    write_note(target, job)
    return True


def write_note(target: Path, note: dict[str, Any]) -> None:
    """Write job.json whole or not at all."""
    fresh = target / ".job.json.new"
    fresh.write_text(json.dumps(note, indent=1), encoding="utf-8")
    fresh.replace(target / "job.json")


def settle(target: Path) -> None:
    """Take away label files that Ray never entered in progress/: a killed worker's last ones."""
    known = [path.stem for path in (target / "progress").glob("*.parquet")]
    for path in (target / "labels").glob("*"):
        if not any(path.name.startswith(name) for name in known):
            path.unlink()


def count(target: Path, rows: int) -> dict[str, Any]:
    """How many rows have which label and which problem, for job.json.

    Raises:
        CourseError: not every row is there exactly once.
    """
    import pyarrow.compute as pc

    table = pq.read_table(target / "labels", columns=["id", "label", "problem"])
    different = pc.count_distinct(table.column("id")).as_py() if table.num_rows else 0
    if not table.num_rows == different == rows:
        raise CourseError(
            f"{target} is not whole: {table.num_rows:,} rows with {different:,} ids, of {rows:,}.",
            "Something changed its files while the job ran.",
            "Run it again into a new folder.",
        )
    kinds = [p.partition(":")[0] for p in table.column("problem").drop_null().to_pylist()]
    labels = table.column("label").drop_null().to_pylist()
    return {
        "labels": {name: labels.count(name) for name in sorted(set(labels))},
        "problems": {name: kinds.count(name) for name in sorted(set(kinds))},
    }


def explained(error: BaseException, target: Path) -> CourseError:
    """What stopped the job, in plain words; what is written stays."""
    parts, one = [], error
    while one is not None:
        parts.append(str(one))
        one = getattr(one, "cause", None) or one.__cause__
    said = "\n".join(parts)
    again = "Then run the same command again: it goes on from what is written."
    if FULL.search(said):
        return CourseError(f"The disk with {target} is full.", "", f"Make room. {again}")
    if "OutOfMemory" in said:
        why = "Ray ends a worker when the machine's memory runs out."
        return CourseError("The memory is full.", why, f"Take fewer --workers. {again}")
    lines = [line for line in said.splitlines() if line.strip()]
    return CourseError(
        "The job stopped.",
        f"{type(error).__name__}: {lines[-1][:300] if lines else ''}",
        f"Mend that. {again}",
    )


def run(source: Path, target: Path, workers: int, address: str | None) -> str:
    """The whole job; returns what to print at the end.

    Raises:
        CourseError: as above, or the folder is in use, or the cluster is too small.
    """
    import filelock

    found = check_input(source)
    name = settings.model_name()
    job = {"input": found, "model": name, "weights": weights_bytes(name)}
    try:
        target.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(target / ".lock", timeout=0):
            if not claim(target, job):
                return f"{target} is whole already: nothing to do."
            began = time.monotonic()
            with_ray(source, target, workers, found["rows"], address)
            settle(target)
            counts = count(target, found["rows"])
            write_note(target, {**job, **counts, "done": True})
    except filelock.Timeout:
        raise CourseError(
            f"Another run is writing to {target}.", "", "Wait for it, or stop it."
        ) from None
    except OSError as error:
        raise explained(error, target) from None
    seconds = time.monotonic() - began
    return f"{found['rows']:,} rows in {seconds:.0f} s: {counts['labels']}, {counts['problems']}"


def cores_of_ray(wanted: int, seconds: float) -> int:
    """How many cores the Ray that runs has: at once if it is enough, else after so many seconds.

    In a cluster that is just being started the first node is there before the others.
    """
    import ray

    end, shown = time.monotonic() + seconds, -1
    while True:
        cores = int(ray.cluster_resources().get("CPU", 0))
        if cores >= wanted or time.monotonic() >= end:
            return cores
        if cores != shown:
            left = end - time.monotonic()
            print(f"{cores} of {wanted} cores are there; waiting {left:.0f} s at most.", flush=True)
        shown = cores
        time.sleep(1)


def with_ray(source: Path, target: Path, workers: int, rows: int, address: str | None) -> None:
    """Start or join Ray, label, and leave no process of it behind."""
    cluster.start(workers + OTHERS, address)
    try:
        cores = cores_of_ray(workers + OTHERS, JOINING if address else 0)
        if cores < workers + OTHERS:
            raise CourseError(
                f"The cluster has {cores} cores, too few for {workers} workers.",
                f"Each takes one, and reading, writing and book-keeping {OTHERS}.",
                f"Say --workers {max(1, cores - OTHERS)}, or add nodes"
                + (f"; {JOINING} s were waited for them." if address else "."),
            )
        do = label_from_outside if (address or "").startswith("ray://") else label
        do(source, target, workers, rows, settings.model_name())
    except (CourseError, OSError):
        raise
    except Exception as error:
        raise explained(error, target) from None
    finally:
        cluster.stop()


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, run, and say in one message what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("input", type=Path, help="a Parquet file or a folder of them")
    parser.add_argument("output", type=Path, help="a folder that is not there yet, or this job's")
    parser.add_argument("--workers", type=int, default=1, help="processes with the model in them")
    parser.add_argument("--address", help="auto, HOST:6379 or ray://HOST:10001; else this machine")
    said = parser.parse_args(arguments)
    if said.workers < 1:
        parser.error("--workers is 1 or more")
    try:
        print(run(said.input.resolve(), said.output.resolve(), said.workers, said.address))
    except CourseError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, SystemExit):  # Ray turns a SIGTERM into the second
        print(f"Stopped. Run the same command again: it goes on from what is in {said.output}.")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
