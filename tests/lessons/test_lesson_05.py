"""Lesson 05: its exercises tell right from wrong, and a learner's own file goes through it."""

import ast
import csv
import math
import random
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from course_staff.notebooks import executing, store
from course_utils import checks, tuning
from course_utils.exercises import lesson_05
from course_utils.sentiment import Score


def said(capsys, key, answer):
    """What `check` prints about an answer."""
    checks.check(key, answer)
    return capsys.readouterr().out


def plain(text):
    return re.sub(r"\W+", " ", text.lower()).strip()


def bare(text):
    return re.sub(r"\W+", "", text.lower())


def leaks_by_loop(train, test):
    found = []
    for text in test:
        for other in train:
            if bare(text) == bare(other):
                found.append(text)
                break
    return found


def letters(text):
    return "".join(c for c in text.casefold() if c.isalnum())


def in_form(form):
    """Leaks found by comparing texts in one form."""

    def leaks(train, test):
        return [text for text in test if form(text) in [form(other) for other in train]]

    return leaks


def by_pair(same):
    """Leaks found by comparing every two plain texts."""

    def leaks(train, test):
        return [t for t in test if any(same(plain(t), plain(x)) for x in train)]

    return leaks


def merged_by_loop(W, A, B, alpha):
    out = W.clone()
    for i in range(A.shape[0]):
        out += alpha / A.shape[0] * torch.outer(B[:, i], A[i])
    return out


def in_place(W, A, B, alpha):
    W += alpha / A.shape[0] * B @ A
    return W


def mask_in_place(prompt, whole):
    whole[: len(prompt)] = [-100] * len(prompt)
    return whole


ACCEPTED = {
    "05.1": [
        lambda i, o, r: r * (i + o),
        lambda i, o, r: r * i + o * r,
        lambda i, o, r: float(r * i + o * r),
        lambda i, o, r: Fraction(r) * (i + o),
        lambda i, o, r: np.int64(r * (i + o)),
        lambda i, o, r: torch.zeros(r, i).numel() + torch.zeros(o, r).numel(),
        lambda i, o, r: torch.tensor(r * (i + o)),
    ],
    "05.2": [
        lambda p, w: [-100] * len(p) + w[len(p) :],
        lambda p, w: [-100 if n < len(p) else t for n, t in enumerate(w)],
        lambda p, w: tuple([-100] * len(p) + w[len(p) :]),
        lambda p, w: torch.tensor([-100] * len(p) + w[len(p) :]),
        lambda p, w: np.array([-100] * len(p) + w[len(p) :]),
        lambda p, w: mask_in_place(p, list(w)),
    ],
    "05.3": [
        lambda f, t, b: f * b + 16 * t,
        lambda f, t, b: f * b + t * (4 + 4 + 8),
        lambda f, t, b: Fraction(b) * f + 16 * t,
        lambda f, t, b: int(f * b + 16 * t),
        lambda f, t, b: np.float64(f * b + 16 * t),
        lambda f, t, b: sum([f * b, 4 * t, 4 * t, 8 * t]),
    ],
    "05.4": [
        lambda W, A, B, alpha: W + alpha / A.shape[0] * B @ A,
        lambda W, A, B, alpha: W + (B @ A) * (alpha / B.shape[1]),
        lambda W, A, B, alpha: torch.add(W, B @ A, alpha=alpha / len(A)),
        lambda W, A, B, alpha: W.double() + alpha / len(A) * (B @ A).double(),
        lambda W, A, B, alpha: (W + alpha / len(A) * B @ A).numpy(),
        lambda W, A, B, alpha: torch.nn.Parameter(W + alpha / len(A) * B @ A),
        merged_by_loop,
    ],
    "05.5": [
        in_form(plain),
        in_form(bare),
        lambda train, test: set(in_form(letters)(train, test)),
        lambda train, test: iter(in_form(plain)(train, test)),
        lambda train, test: tuple(in_form(bare)(train, test)),
        lambda train, test: in_form(bare)(train, test)[::-1],
        leaks_by_loop,
    ],
}
REFUSED = {
    "05.1": [
        ("frozen layer", lambda i, o, r: i * o),
        ("one of the two", lambda i, o, r: r * i),
        ("one of the two", lambda i, o, r: o * r),
        ("it gives", lambda i, o, r: i + o),
        ("it gives", lambda i, o, r: i + o + r),
        ("it gives", lambda i, o, r: 2 * r * i),
        ("it gives", lambda i, o, r: i * o + r * (i + o)),
        ("it gives", lambda i, o, r: i * r * o),
        ("no number", lambda i, o, r: (r * i, o * r)),
        ("no number", lambda i, o, r: "many"),
    ],
    "05.2": [
        ("nothing is masked", lambda p, w: list(w)),
        ("one an id", lambda p, w: w[len(p) :]),
        ("one an id", lambda p, w: [-100] * len(p) + w),
        ("answer's own ids", lambda p, w: [-100] * len(w)),
        ("answer's own ids", lambda p, w: [-100 if t in p else t for t in w]),
        ("still counts", lambda p, w: [w[0]] + [-100] * (len(p) - 1) + w[len(p) :]),
        ("still counts", lambda p, w: [0] * len(p) + w[len(p) :]),
        ("still counts", lambda p, w: [-1] * len(p) + w[len(p) :]),
        ("changes whole_ids", mask_in_place),
        ("no list of ids", lambda p, w: "-100"),
        ("no list of ids", lambda p, w: 5),
    ],
    "05.3": [
        ("no gradient", lambda f, t, b: f * (b + 12) + 16 * t),
        ("four parts", lambda f, t, b: f * b + 12 * t),
        ("it gives", lambda f, t, b: f * b + 8 * t),
        ("it gives", lambda f, t, b: (f + t) * b + 12 * t + t),
        ("it gives", lambda f, t, b: 16 * (f + t)),
        ("it gives", lambda f, t, b: 16 * t),
        ("it gives", lambda f, t, b: (f * b + 16 * t) / 2**30),
        ("it gives", lambda f, t, b: f * b + 16 * t * b),
        ("it gives", lambda f, t, b: float("nan")),
        ("no number", lambda f, t, b: [f * b, 16 * t]),
    ],
    "05.4": [
        ("alpha times", lambda W, A, B, alpha: W + alpha * B @ A),
        ("1 times", lambda W, A, B, alpha: W + B @ A),
        ("0 times", lambda W, A, B, alpha: W.clone()),
        ("without W", lambda W, A, B, alpha: alpha / len(A) * B @ A),
        ("changes a matrix", in_place),
        ("not what the layer", lambda W, A, B, alpha: W - alpha / len(A) * B @ A),
        ("alpha / 7", lambda W, A, B, alpha: W + alpha / A.shape[1] * B @ A),
        ("not that of W", lambda W, A, B, alpha: W @ A.T),
        ("not that of W", lambda W, A, B, alpha: (W + alpha / len(A) * B @ A).T),
        ("not a matrix", lambda W, A, B, alpha: "W"),
        ("not what the layer", lambda W, A, B, alpha: W + 2 * alpha * B @ A),
    ],
    "05.5": [
        ("misses 'beat", in_form(str)),
        ("misses 'beat", in_form(str.lower)),
        ("misses 'beat", in_form(lambda text: text.strip(".!"))),
        ("misses 'LOSS", in_form(lambda text: text.lower().strip(".!"))),
        ("reports", in_form(lambda text: set(plain(text).split()))),
        ("reports", in_form(lambda text: len(text.split()))),
        ("reports 'Guidance'", by_pair(lambda tested, learned: tested in learned)),
        ("reports", by_pair(lambda tested, learned: learned in tested)),
        ("reports", by_pair(lambda tested, learned: tested[:9] == learned[:9])),
        ("reports", lambda train, test: list(test)),
        ("misses", lambda train, test: []),
        ("none of the test texts", lambda train, test: [plain(t) for t in test]),
        ("none of the test texts", lambda train, test: in_form(plain)(test, train)),
        ("as a list", lambda train, test: 3),
        ("as a list", lambda train, test: "beat estimates"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("key", "answer"), [(k, a) for k, v in ACCEPTED.items() for a in v])
def test_right_answers_pass_however_they_are_written(capsys, key, answer):
    """A learner who solved it in another way is not told that they failed."""
    assert "correct" in said(capsys, key, answer)


@pytest.mark.parametrize(
    ("key", "remark", "answer"), [(k, r, a) for k, v in REFUSED.items() for r, a in v]
)
def test_wrong_answers_are_told_what_they_did(capsys, key, remark, answer):
    """A learner who is nearly there is told what came out on which input."""
    text = said(capsys, key, answer)
    assert "correct" not in text and remark in text


@pytest.mark.parametrize("key", lesson_05.EXERCISES)
def test_every_exercise_is_tried_with_enough_answers(key):
    """A maintainer who adds an exercise: both kinds of answers belong with it."""
    assert len(ACCEPTED[key]) >= 5 and len(REFUSED[key]) >= 8


@pytest.mark.parametrize("key", lesson_05.EXERCISES)
def test_an_untouched_answer_and_a_crash_are_messages(capsys, key):
    """A learner who has not begun, and one whose function stops."""

    def starter(*_):
        return ...

    assert checks.NOT_ANSWERED in said(capsys, key, starter)
    text = said(capsys, key, lambda *_: 1 / 0)
    assert "ZeroDivisionError" in text and "Traceback" not in text


# -- the lesson's cells ---------------------------------------------------------------------------


def cells():
    """The lesson's code by cell id."""
    book = store.read(store.FOLDER / "05_fine_tuning_preview.ipynb")
    return {cell.id: cell.source for cell in book.cells}


def test_training_goes_on_from_a_whole_checkpoint(tmp_path, capsys):
    """A learner who pressed Stop while a checkpoint was written: run the cell again has to work."""
    used = []

    class Trainer:
        class state:
            global_step, epoch = 306, 2.0

        def train(self, resume_from_checkpoint):
            used.append(resume_from_checkpoint)

    class Curve:
        train = [(50, 2.0), (100, 0.1)]

    whole, half = tmp_path / "lora" / "checkpoint-25", tmp_path / "lora" / "checkpoint-50"
    whole.mkdir(parents=True), half.mkdir()
    (whole / "trainer_state.json").write_text("{}")
    (half / "adapter_model.safetensors").write_bytes(b"")
    names = {"work": tmp_path, "tuning": tuning, "trainer": Trainer(), "curve": Curve, "trained": 1}
    exec(cells()["fit"], names)
    assert used == [str(whole)] and "306 steps" in capsys.readouterr().out


@pytest.mark.slow
def test_a_restart_before_the_first_checkpoint_starts_anew(tmp_path):
    """A learner who pressed Stop early: no half-trained adapter may stay behind in the model."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from transformers import AutoTokenizer, TrainerCallback

    from course_utils.models import POCKET
    from tests.utils.test_tuning import trainer_of

    seen = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, optimizer=None, **_):
            trained = get_peft_model_state_dict(model)
            zero = all(not part.any() for name, part in trained.items() if "lora_B" in name)
            seen.append((state.global_step, zero, len(optimizer.state) if optimizer else 0))

        def on_step_end(self, args, state, control, **_):
            if len(seen) == 1 and state.global_step == 3:
                raise KeyboardInterrupt

    curve = tuning.loss_curve()
    tokenizer = AutoTokenizer.from_pretrained(POCKET)
    callbacks = [curve, Watch()]
    rounds = {"max_steps": -1, "num_train_epochs": 2, "save_steps": 5, "learning_rate": 0.01}
    trainer = trainer_of(tmp_path / "lora", tokenizer, callbacks, **rounds)
    tuned = trainer.model
    untrained = {name: part.clone() for name, part in get_peft_model_state_dict(tuned).items()}
    names = {"set_peft_model_state_dict": set_peft_model_state_dict, "tuned": tuned}
    names |= {"work": tmp_path, "tuning": tuning, "trainer": trainer, "curve": curve}
    names |= {"untrained": untrained, "trained": 1}
    with pytest.raises(KeyboardInterrupt):
        exec(cells()["fit"], names)
    exec(cells()["fit"], names)
    assert seen == [(0, True, 0), (0, True, 0)] and trainer.state.global_step == 8
    exec(cells()["fit"], names)
    assert seen[2][0] == 8 and trainer.state.global_step == 8


def test_check_and_trainer_share_one_length():
    """A learner with long texts: what the check lets pass, the trainer must not drop."""
    assert "max_length=MAX_LENGTH" in cells()["check"]
    assert "max_length=MAX_LENGTH" in cells()["trainer"]


def test_the_base_is_not_the_model_that_is_trained():
    """A learner who runs "before" again after training: peft changes a model in place."""
    assert "get_peft_model(base," not in "".join(cells().values())


def function_of(cell, name, **names):
    """A function that a cell of the lesson defines, without running the rest of the cell."""
    defined = [
        node
        for node in ast.parse(cells()[cell]).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    exec(compile(ast.Module(defined, []), cell, "exec"), names)
    return names[name]


@pytest.mark.parametrize(
    ("lora", "words", "said"),
    [
        (90, 50, "LoRA"),
        (50, 90, "bag of words"),
        (45, 47, "too close to tell"),
        (60, 60, "too close to tell"),
        (62, 50, "too close to tell"),
    ],
)
def test_a_winner_is_named_only_where_the_intervals_are_apart(lora, words, said):
    """A learner who guessed a draw: two points of a hundred are no victory, in any run."""
    scores = [
        Score([("", "a", "a" if n < right else "b", "") for n in range(100)])
        for right in (lora, words)
    ]
    assert function_of("rivals", "better")(*scores) == said


@pytest.mark.parametrize(
    ("count", "fits", "times"), [(1217, math.inf, 2), (30, math.inf, 15), (9000, math.inf, 1)]
)
def test_rounds_follow_the_number_of_examples(count, fits, times):
    """A learner whose file is short or long: about 300 steps, but all of it once, none 16 times."""
    names = {"STEPS": 300, "BATCH": 8, "FITS": fits}
    assert function_of("times", "times_through", **names)(range(count)) == times


@pytest.mark.parametrize("count", [30, 150, 1217, 9000])
def test_a_larger_model_on_a_cpu_gets_the_steps_that_fit(count):
    """A learner with a real model on a laptop: no file makes the training longer than was timed."""
    names = {"STEPS": 300, "BATCH": 8, "FITS": 40, "SEED": 0, "hurry": True, "random": random}
    rows = [f"example {n}" for n in range(count)]
    read = function_of("times", "in_batches", **names)(rows)
    times = function_of("times", "times_through", **names)(read)
    assert len(read) == len(set(read)) and set(read) <= set(rows) and len(read) % 8 == 0
    assert rows[0] in read  # the lesson shows what the trainer made of it
    assert 0 < times * len(read) / 8 <= 1.5 * 40 and times <= 15


# -- the lesson on a learner's own file -----------------------------------------------------------

KEYS = ("invoice", "password", "parcel", "crash", "refund", "colour", "battery", "holiday")
FILLER = ["please", "the", "my", "about", "for", "with", "and", "help", "today", "again", "still"]
FILLER += ["question", "customer", "order", "yesterday", "email", "week", "number", "new", "old"]


def own_file(path, labels, each):
    """A table of made-up requests, `each` a label; one word in every text gives its label away."""
    rng = random.Random(labels * each)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        rows = set()
        while len(rows) < labels * each:
            key = KEYS[len(rows) % labels]
            words = [*rng.choices(FILLER, k=rng.randint(4, 9)), key]
            rng.shuffle(words)
            rows.add((" ".join(words).capitalize() + ".", f"About {key}"))
        writer.writerows(sorted(rows, key=lambda row: row[0][::-1]))


def outputs_with(path):
    """What the lesson's cells print when `OWN` names a file: {cell id: text}; no cell may fail."""
    lesson = store.FOLDER / "05_fine_tuning_preview.ipynb"
    book = store.read(lesson)
    for cell in book.cells:
        if cell.id == "notes":
            assert "OWN = None" in cell.source
            cell.source = cell.source.replace("OWN = None", f"OWN = {str(path)!r}")
    with executing.as_a_program():
        executing.client(lesson, book, timeout=1800).execute()
    found = {}
    for cell in book.cells:
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            found[cell.id] = found.get(cell.id, "") + text
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "each"), [(3, 20), (8, 60)])
def test_a_learner_s_own_file_goes_through_the_lesson(tmp_path, labels, each):
    """A learner with a small file, and one with many labels: every cell runs, and it learns."""
    path = tmp_path / "mine.csv"
    own_file(path, labels, each)
    found = outputs_with(path)
    everything = "\n".join(found.values())
    assert "About refund" in everything or labels < 5
    assert "market notes" not in found["base-score"] + found["loud"] + found["learning-plot"]
    assert ("Few examples" in found["check"]) == (each * 0.7 < 50)
    gained = int(re.search(r"gained: ([+-]\d+) points", found["after"])[1])
    assert gained > 20, found["after"]
    assert "left behind: False" in found["tidy"]
