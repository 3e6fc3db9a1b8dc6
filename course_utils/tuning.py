"""Fine-tuning's surroundings: reading labelled data, predicting memory, watching the loss.

    examples = tuning.read("my_data.csv")          # (text, label) pairs, bad rows named by line
    tuning.check(examples, tokenizer, ask)         # can this model learn from them?
    tuning.training(config, "lora", rank=8)        # predicted bytes, part by part

What a fine-tuning lesson teaches (`LoraConfig`, `SFTTrainer`, the mask) is not here: that stands in
the notebook.
"""

import contextlib
import csv
import errno
import io
import json
import math
import re
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import gptq, machine, plots, predict, settings, shapes
from course_utils.child import FULL
from course_utils.errors import CourseError
from course_utils.plots import Shown
from course_utils.sentiment import LABELS, UNPARSED, Messages, parse_label
from course_utils.units import size

Examples = list[tuple[str, str]]
SHOWN_ROWS = 10  # bad rows listed in one message
FEWEST = 10  # examples of each label: with fewer, a test part says nothing
LABEL_TOKENS = 20  # what `local_complete` generates: a longer label would be cut off
METHODS = ("full", "lora", "qlora")
TORCH_CUT = re.compile(r"PytorchStreamWriter|inline_container")  # torch.save, cut off in the middle


def prepare() -> None:
    """Keep the page quiet of what peft, TRL and datasets say while they get ready.

    peft imports gptqmodel where that is installed, which prints a banner; datasets shows a bar for
    every half second of tokenizing; TRL names its own setting as one that will be renamed; and peft
    says with every checkpoint that an adapted embedding is in it.
    """
    import datasets

    if gptq.why_not() is None:
        with gptq.quiet_gptq():
            pass
    datasets.disable_progress_bars()
    for said in ("gradient_checkpointing", "save_embedding_layers"):
        warnings.filterwarnings("ignore", message=f".*{said}.*")


# -- the learner's own file -----------------------------------------------------------------------


def read(path: str | Path, drop: bool = False) -> Examples:
    """(text, label) pairs from a CSV, TSV or JSONL file with the columns `text` and `label`.

    Args:
        path: a `.csv` or `.tsv` file with a header, or a `.jsonl` file with an object a line.
        drop: leave bad rows out, and say which, in place of refusing the file.

    Raises:
        CourseError: there is no such file, it cannot be read as its ending says, or it has bad
            rows; each is named by line and reason.
    """
    path = Path(path)
    text = _text_of(path)
    rows = _json_rows(text) if path.suffix.lower() == ".jsonl" else _csv_rows(text, path.name)
    good: Examples = []
    bad: list[str] = []
    labels: dict[str, tuple[str, int]] = {}
    for line, text, label, reason in rows:
        reason = reason or _fault(text, label, line, labels)
        if reason:
            bad.append(f"line {line}: {reason}")
        else:
            good.append((text.strip(), label.strip()))
    if bad and not drop:
        raise CourseError(
            f"{path.name}: {len(bad)} of {len(bad) + len(good)} rows cannot be used, "
            "so nothing is read.",
            _listed(bad),
            f"Mend them, or leave them out on purpose: tuning.read({path.name!r}, drop=True).",
        )
    if bad:
        print(f"{path.name}: {len(bad)} rows left out, {len(good)} kept\n  {_listed(bad)}")
    return good


def _listed(bad: list[str]) -> str:
    """The first bad rows, one a line, and how many more there are."""
    more = len(bad) - SHOWN_ROWS
    return "\n  ".join([*bad[:SHOWN_ROWS], *([f"and {more} more"] if more > 0 else [])])


def _text_of(path: Path) -> str:
    """The file's text, of UTF-8 with or without a byte order mark."""
    if path.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise CourseError(
            f"{path.name} is neither CSV nor JSONL.",
            f"Its name ends in {path.suffix or 'nothing'}.",
            "Save a table as .csv (or .tsv), or write one JSON object a line into a .jsonl file.",
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise CourseError(
            f"{path.name} is not UTF-8 text: line {line} holds other bytes.",
            "Spreadsheets often save in the encoding of their country.",
            "Save it again as 'CSV UTF-8'.",
        ) from None
    except OSError as error:
        raise CourseError(
            f"{path.name} cannot be read.", error.strerror or "", "Check the folder and the name."
        ) from None


Row = tuple[int, str, str, str]  # line, text, label, what is wrong with it ("" so far)


def _csv_rows(text: str, name: str) -> Iterator[Row]:
    """The rows of a table, each with the line it starts on."""
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [column.strip().lower() for column in next(reader, [])]
    if "text" not in columns or "label" not in columns:
        raise CourseError(
            f"{name} has no columns named text and label.",
            f"Its first line is: {head.strip()[:80]!r}",
            "Name the two columns in the first line: text,label",
        )
    line = 1 + reader.line_num
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                if len(fields) != len(columns):
                    reason = f"{len(fields)} fields where the first line has {len(columns)}"
                    if len(fields) > len(columns):
                        reason += "; put a text that holds a comma in quotes"
                    yield line, "", "", reason.replace("comma", _NAMES[delimiter])
                else:
                    row = dict(zip(columns, fields, strict=True))
                    yield line, row["text"], row["label"], ""
            line = 1 + reader.line_num
    except csv.Error as error:
        yield line, "", "", f"not a row of a table ({error})"


_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


def _json_rows(text: str) -> Iterator[Row]:
    """The objects of a JSONL file, one a line."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            yield number, "", "", f"not JSON ({getattr(error, 'msg', error)})"
            continue
        if not isinstance(row, dict):
            yield number, "", "", "not an object with text and label"
        elif missing := [key for key in ("text", "label") if key not in row]:
            yield number, "", "", f"no {' and no '.join(missing)}"
        elif wrong := [key for key in ("text", "label") if not isinstance(row[key], str)]:
            yield number, "", "", f"{wrong[0]} is {row[wrong[0]]!r}, not a text in quotes"
        else:
            yield number, row["text"], row["label"], ""


def _fault(text: str, label: str, line: int, seen: dict[str, tuple[str, int]]) -> str:
    """What is wrong with a row, "" where nothing is; `seen` collects what came before."""
    text, label = text.strip(), label.strip()
    if not text or not label:
        return "no text" if not text else "no label"
    before, where = seen.setdefault(text.lower(), (label, line))
    if where == line:
        return ""
    if before == label:
        return f"the same text as line {where}"
    return f"the same text as line {where}, with the label {label!r} in place of {before!r}"


def split(examples: Examples) -> tuple[Examples, Examples, Examples]:
    """(train, validation, test): 70, 10 and 20 % of the examples of each label.

    Which example goes where depends on its text alone, so it is the same in every run. It does not
    look for near-twins: where your texts repeat each other, split them by hand.

    Raises:
        CourseError: fewer than ten examples of a label.
    """
    by_label = defaultdict(list)
    for text, label in examples:
        by_label[label].append((text, label))
    few = [f"{label!r} has {len(some)}" for label, some in by_label.items() if len(some) < FEWEST]
    if few:
        raise CourseError(
            f"There are too few examples to hold some back for a test: {FEWEST} of each label.",
            f"{', '.join(few[:SHOWN_ROWS])}.",
            "Label more texts, or leave that label out.",
        )
    parts: tuple[Examples, Examples, Examples] = ([], [], [])
    for some in by_label.values():
        mixed = sorted(some, key=_draw)
        first, second = round(0.7 * len(mixed)), round(0.8 * len(mixed))
        for part, piece in zip(
            parts, (mixed[:first], mixed[first:second], mixed[second:]), strict=True
        ):
            part.extend(piece)
    train, validation, test = (sorted(part, key=_draw) for part in parts)
    return train, validation, test


def _draw(example: tuple[str, str]) -> int:
    """A number that is the same in every run and has nothing to do with the text's meaning."""
    return zlib.crc32(example[0].encode()[::-1])


# -- can this model learn from them? --------------------------------------------------------------


def check(
    examples: Examples,
    tokenizer: Any,
    ask: Callable[[str], Messages],
    max_length: int | None = None,
) -> list[str]:
    """Look before training; returns the labels, sorted.

    Args:
        examples: (text, label) pairs.
        tokenizer: the model's, with its chat template.
        ask: text → messages, as `sentiment.messages`.
        max_length: tokens that an example may have, answer included; the tokenizer's own limit
            by default.

    Raises:
        CourseError: no examples, one label only, labels that differ in case alone, a label the
            model cannot say, a text the chat template refuses or that is too long.
    """
    counts = Counter(label for _, label in examples)
    if len(counts) < 2:
        only = f"All {len(examples)} have the label {next(iter(counts))!r}." if counts else ""
        raise CourseError(
            "There is nothing to learn: " + ("only one label." if counts else "no examples."),
            only,
            "Add examples of at least two labels.",
        )
    _check_labels(sorted(counts), tokenizer)
    limit = max_length or tokenizer.model_max_length
    too_long = []
    for number, (text, label) in enumerate(examples, 1):
        tokens = _length(ask(text), label, tokenizer, number)
        if tokens > limit:
            too_long.append(f"example {number}: {tokens:,} tokens, {text[:40]!r}…")
    if too_long:
        raise CourseError(
            f"{len(too_long)} of {len(examples)} texts are longer than {limit:,} tokens.",
            _listed(too_long),
            "Shorten them: what stands beyond the limit, the label first, would be cut off.",
        )
    return sorted(counts)


def _check_labels(labels: list[str], tokenizer: Any) -> None:
    """Raise `CourseError` unless the model can say each label, and say it apart from the others."""
    folded: dict[str, str] = {}
    for label in labels:
        twin = folded.setdefault(label.casefold(), label)
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        said = tokenizer.decode(ids, skip_special_tokens=True).strip()
        if twin != label:
            why = f"It differs from {twin!r} in capitals only."
        elif said != label:
            why = f"Through its tokenizer it comes back as {said!r}."
        elif len(ids) > LABEL_TOKENS:
            why = f"It is {len(ids)} tokens long, and a reply has at most {LABEL_TOKENS}."
        else:
            continue
        raise CourseError(
            f"The model cannot say the label {label!r}.",
            why,
            "Use short words in the script the model was trained on, one spelling for each.",
        )


def _length(chat: Messages, label: str, tokenizer: Any, number: int) -> int:
    """How many tokens an example has in the chat template, answer included."""
    from jinja2 import TemplateError

    try:
        whole = [*chat, {"role": "assistant", "content": label}]
        return len(tokenizer.apply_chat_template(whole, return_dict=True)["input_ids"])
    except TemplateError as error:
        raise CourseError(
            f"The chat template refuses example {number}.",
            str(error),
            "Take the mark out of the text.",
        ) from None


def label_in(labels: Sequence[str]) -> Callable[[str], str]:
    """`parse` for labels of any name: reply → the label it is, or `UNPARSED`.

    A reply counts where it is the label itself, whatever its capitals and closing full stop.
    """
    known = {label.casefold(): label for label in labels}

    def parse(reply: str) -> str:
        return known.get(reply.strip(" \t\n\"'*`.").casefold(), UNPARSED)

    return parse


def parser(labels: Sequence[str]) -> Callable[[str], str]:
    """`parse_label` for the course's own labels, `label_in(labels)` for any others."""
    return parse_label if set(labels) <= set(LABELS) else label_in(labels)


# -- memory, before anything is trained -----------------------------------------------------------


def lora_parameters(config: Any, rank: int, modules: Sequence[str] = ()) -> int:
    """Trained parameters of LoRA with this rank, on all linear layers but the head by default.

    A layer with m inputs and n outputs gets A (rank x m) and B (n x rank): rank * (m + n)
    (arXiv 2106.09685, section 4.1).

    Args:
        config: as from `predict.config`.
        rank: r, at least 1.
        modules: layer names like `q_proj` or `embed_tokens`.
    """
    chosen = [
        t
        for t in shapes.shapes(config)
        if (t.path.split(".")[-2] in modules if modules else t.kind == "linear")
    ]
    return sum(rank * (t.shape[0] + t.shape[1]) for t in chosen)


@dataclass(frozen=True)
class Training:
    """Predicted bytes of one way of fine-tuning, and how many parameters it trains.

    Attributes:
        parts: `weights`, `gradients`, `optimizer`, `activations`.
    """

    method: str
    parts: dict[str, int]
    trained: int
    parameters: int

    @property
    def total(self) -> int:
        """All parts together, in bytes."""
        return sum(self.parts.values())

    def __str__(self) -> str:
        """A line for each part."""
        lines = [f"{part:<12}{size(n):>12}" for part, n in self.parts.items()]
        share = f"trains {self.trained:,} of {self.parameters:,}"
        return "\n".join([*lines, f"{self.method:<12}{size(self.total):>12}  {share}"])

    __repr__ = __str__


def training(
    config: Any,
    method: str,
    rank: int = 8,
    batch: int = 1,
    length: int = 256,
    dtype: str = "fp32",
    modules: Sequence[str] = (),
) -> Training:
    """Bytes that training takes with AdamW, by part.

    A trained parameter takes 16 bytes: 4 for itself, 4 for its gradient, 8 for AdamW's two moving
    averages. Mixed precision takes 16 as well: 2 + 2 for weight and gradient in 16 bits, and 4 + 8
    for the fp32 copy and the averages (arXiv 1910.02054, section 3.1). A frozen parameter takes
    what its dtype takes, and no more: that is LoRA's saving; QLoRA keeps the frozen ones in NF4
    with double quantization (arXiv 2305.14314). Activations are an estimate, with gradient
    checkpointing.

    Args:
        config: as from `predict.config`.
        method: `full`, `lora` or `qlora`.
        rank: LoRA's rank.
        batch: examples at once.
        length: tokens in each.
        dtype: of the frozen weights: `fp32` on a CPU, `fp16` or `bf16` on a GPU. QLoRA keeps
            embeddings, norms and head in it.
        modules: what LoRA adapts; all linear layers by default.

    Raises:
        CourseError: no such method.
    """
    if method not in METHODS:
        raise CourseError(f"There is no method {method!r}.", "", f"Take {', '.join(METHODS)}.")
    frozen = predict.weights(config, "nf4-dq" if method == "qlora" else dtype)
    adapters = lora_parameters(config, rank, modules)
    trained = frozen.parameters if method == "full" else adapters
    kept = frozen.total - 4 * frozen.parameters if method == "full" and dtype == "fp32" else 0
    weights = 4 * trained + (kept if method == "full" else frozen.total)
    if method == "qlora" and dtype == "fp32":  # the rung counts what is not quantized in 16 bits
        weights += sum(frozen.parts.get(part, 0) for part in ("embeddings", "norms", "head"))
    parts = {
        "weights": weights,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "activations": _activations(config, batch * length, 4 if dtype == "fp32" else 2),
    }
    whole = frozen.parameters + (0 if method == "full" else adapters)
    return Training(method, parts, trained, whole)


def _activations(config: Any, tokens: int, n_bytes: int) -> int:
    """Bytes kept for the backward pass, with gradient checkpointing: an estimate.

    Each layer's input, one layer's inner results while it is recomputed (17 numbers a token and
    hidden unit; arXiv 2205.05198, section 4.1, counts 34 bytes of 16-bit numbers), and the logits
    with their fp32 copy and gradient.
    """
    hidden, inside = config.hidden_size, 17
    layers = tokens * hidden * n_bytes * (config.num_hidden_layers + inside)
    return layers + tokens * config.vocab_size * (n_bytes + 8)


# -- while it trains ------------------------------------------------------------------------------


def loss_curve(every: int = 1) -> Any:
    """A callback for `SFTTrainer(callbacks=[...])`: a progress bar, and the loss drawn as it falls.

    `curve.train` and `curve.validation` hold (step, loss) pairs; `curve.picture()` is the curve.
    It stops the training with a `CourseError` where the loss is no number any more. A program
    that runs the notebook gets no bar and no moving picture.
    """
    from tqdm.auto import tqdm
    from transformers import TrainerCallback

    class LossCurve(TrainerCallback):
        """Collects losses and redraws the picture."""

        def __init__(self) -> None:
            """Start empty."""
            self.train: list[tuple[int, float]] = []
            self.validation: list[tuple[int, float]] = []
            self._handle: Any = None
            self._bar: Any = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Start anew, and have the trainer report a loss that is not a number."""
            if state.global_step == 0:
                self.train, self.validation = [], []
            args.logging_nan_inf_filter = False
            self._handle = None
            if self._bar is not None:  # of a training that was interrupted
                self._bar.close()
            steps, done = state.max_steps, state.global_step
            self._bar = tqdm(total=steps, initial=done, unit="step", disable=settings.static())

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Move the bar on."""
            self._bar.update()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            """Leave the bar as it stands."""
            self._bar.close()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            """Take up what was logged; stop where it is no number."""
            found = logs or {}
            for key, line in (("loss", self.train), ("eval_loss", self.validation)):
                if key in found:
                    check_loss(float(found[key]), state.global_step)
                    line.append((state.global_step, float(found[key])))
            if not settings.static() and len(self.train) % every == 0:
                self._draw()

        def _draw(self) -> None:
            """Put the picture up, or in place of the last one."""
            from IPython.display import display

            if self._handle is None:
                self._handle = display(self.picture(), display_id=True)
            else:
                self._handle.update(self.picture())

        def picture(self) -> Shown:
            """Both curves; the text gives first and last values, to one digit."""
            lines = {"train": self.train, "validation": self.validation}
            return plots.curves(lines, "Loss on the answer", "step", "loss")

    return LossCurve()


def check_loss(loss: float, step: int) -> None:
    """Raise `CourseError` where a loss is not a number, or infinite."""
    if not math.isfinite(loss):
        raise CourseError(
            f"The loss is {loss} at step {step}: training has blown up.",
            "Mostly the learning rate is too high, or fp16 overflowed.",
            "Load the base again, take a third of the learning rate, and on a GPU bf16 where it "
            "has it. What was trained in this run is lost.",
        )


# -- keeping it -----------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(folder: str | Path, need_bytes: int = 0) -> Iterator[Path]:
    """Around a block that writes files: a full disk ends in one message, before or after.

        with tuning.writing("adapter", 2**20) as folder:
            model.save_pretrained(folder)

    Args:
        folder: where the block writes; made where it is missing.
        need_bytes: what it is going to write; refused at once where that is not free.

    Raises:
        CourseError: not enough room, or the folder cannot be written to.
    """
    folder = Path(folder)
    free = machine.disk_free_bytes(folder)
    if need_bytes > free:
        raise _full(folder, f"It takes {size(need_bytes)} and {size(free)} are free.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except Exception as error:
        # safetensors and PyTorch wrap the system's error: only the text is left of it
        if FULL.search(str(error)) or TORCH_CUT.search(str(error)):
            why = "It filled up while writing; what was written is not whole."
            raise _full(folder, why) from None
        if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise CourseError(
                f"{folder.name} cannot be written to.", error.strerror or "", "Name another folder."
            ) from None
        raise


def _full(folder: Path, why: str) -> CourseError:
    """The message for a full disk."""
    return CourseError(
        f"The disk is too full to write {folder.name}.",
        why,
        "Free some space or name a folder on a larger disk, and run the cell again.",
    )
