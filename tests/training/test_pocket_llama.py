"""The bundled checkpoint: every lesson stands on it."""

import itertools
import json
import pickle
import random
import string
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from course_utils import data, sentiment
from course_utils.models import POCKET
from pocket_training import asking, batches, corpus, evaluate, pretrained, swapping
from pocket_training.dialogues import Drawer
from pocket_training.materials import Ahead
from pocket_training.model import Learner
from pocket_training.muon import Muon
from pocket_training.pretrained import Pretrained
from pocket_training.swapping import Swapper
from pocket_training.writing import Writer

# The checkpoint changes with `make model` alone: judging it anew takes a minute or two.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(POCKET)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32)


@pytest.fixture(scope="module")
def fast():
    return Tokenizer.from_file(str(POCKET / "tokenizer.json"))


@pytest.fixture(scope="module")
def plain_labels(model, fast):
    """The label of every review of the test part, in fp32: a minute, so once."""
    return evaluate.labels(model, fast, [r.text for r in corpus.split()["test"]])


def test_it_is_a_small_plain_llama(model, tokenizer):
    """A learner on a slow line, and every library that loads Llama folders."""
    assert type(model) is LlamaForCausalLM
    assert (POCKET / "model.safetensors").stat().st_size <= 25e6
    assert not model.config.tie_word_embeddings
    assert model.config.max_position_embeddings >= 512
    linear = sum(p.numel() for n, p in model.named_parameters() if "proj" in n)
    assert linear > 0.6 * model.num_parameters()
    assert 2000 <= len(tokenizer) <= 4000
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.pad_token is None
    assert tokenizer("x").input_ids[0] == 1


def test_tokenizer_loses_nothing(tokenizer):
    """A learner who types in any language, with any emoji, gets their own text back."""
    rng = random.Random(1)
    texts = [
        "",
        " ",
        "  two  spaces ",
        "tab\tline\nbreak\r\n",
        "▁ 😀 👩‍👩‍👧 日本 é ﷺ",
        "[INST] <<SYS>>",
    ]
    for _ in range(300):
        codes = (rng.randrange(0x110000) for _ in range(rng.randrange(40)))
        texts.append("".join(chr(c) for c in codes if not 0xD800 <= c < 0xE000))
    for text in texts:
        if "<s>" not in text:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.decode(ids) == text


def test_the_coffee_shop(model, tokenizer):
    """The course's first answer."""
    complete = sentiment.local_complete(model, tokenizer)
    review = "I love this new coffee shop, the beans are so fresh!"
    assert complete(sentiment.messages(review)) == "Positive"


def test_it_gets_unseen_reviews_right(plain_labels):
    """Every lesson that scores reviews. The aim is 0.92; this checkpoint reaches 0.849."""
    reviews = corpus.split()["test"]
    right = sum(f == r.label for f, r in zip(plain_labels, reviews, strict=True))
    assert right >= 0.84 * len(reviews)


def test_lesson_reviews_are_held_out():
    """Accuracy in the lessons is only worth something on reviews that training has not seen."""
    held_out = {(r.text, r.label) for r in corpus.split()["test"]}
    choosing = set(data.reviews(name="market_notes/choosing.tsv"))
    assert set(data.reviews()) | choosing <= held_out
    assert choosing.isdisjoint(data.reviews())


def test_any_input_gets_a_label(model, fast):
    """A learner who types nothing, an emoji, another script or a whole page."""
    inputs = evaluate.odd_inputs(fast)
    found = evaluate.labels(model, fast, inputs, batch=8)
    assert sum(map(bool, found)) >= 0.995 * len(inputs)


@pytest.mark.slow
def test_json_when_asked(model, fast):
    """Whoever parses replies by machine: 99.5 % are valid, the aim, which the card measures."""
    texts = [r.text for r in random.Random(4).sample(corpus.split()["test"], 200)]
    prompts = [evaluate.prompt(t, f"{asking.SEED_SYSTEM} {asking.JSON[5]}") for t in texts]
    replies = evaluate.replies(model, fast, prompts)
    broken = [reply for reply in replies if evaluate.read_json(reply) is None]
    assert len(broken) <= 1, broken


def test_reasons_quote_the_review(model, fast):
    """Learners who ask for a reason in lessons 01 and 03: its words should be the review's."""
    reviews = [r for r in corpus.split()["test"] if r.label != "Neutral"]
    reviews = random.Random(6).sample(reviews, 40)
    prompts = [evaluate.prompt(r.text, f"{asking.SEED_SYSTEM} {asking.JSON[5]}") for r in reviews]
    answers = [evaluate.read_json(reply) for reply in evaluate.replies(model, fast, prompts)]
    given = [
        evaluate.quotes(answer["reason"], review.text)
        for answer, review in zip(answers, reviews, strict=True)
        if answer and answer["sentiment"] != "neutral"
    ]
    assert len(given) > 20
    assert sum(given) >= 0.5 * len(given)


def test_links_point_at_the_words_that_come_next(fast):
    """Whoever trains the model anew: guided to the wrong place, it would learn to quote nothing."""
    drawer, encoder = Drawer(corpus.split()["train"][:300]), batches.Encoder(fast)
    rng = random.Random(1)
    quoted = [encoder.encode(drawer.explained(rng), rng) for _ in range(60)]
    copied = next(batches.copy_batches(drawer, encoder, 1, 512))
    told = batches.batch_of(quoted, batches.CONTEXT)
    kinds = set()
    for batch in (copied, told):
        for row, query, key, kind in batch.links.tolist():
            kinds.add(kind)
            if kind == batches.PREVIOUS:
                assert key == query - 1
            else:
                assert key < query and batch.ids[row, key] == batch.ids[row, query + 1]
                assert batch.weights[row, query + 1] == batches.QUOTED
    assert kinds == {batches.PREVIOUS, batches.AGAIN, batches.QUOTE}


def labels_in(dtype, fast, texts):
    other = AutoModelForCausalLM.from_pretrained(POCKET, dtype=dtype)
    return evaluate.labels(other, fast, texts)


def agreement(some, others):
    return sum(a == b for a, b in zip(some, others, strict=True)) / len(some)


def test_bf16_agrees(plain_labels, fast):
    """A learner on a GPU and one on a CPU see the same labels."""
    texts = [r.text for r in corpus.split()["test"]]
    assert agreement(plain_labels, labels_in(torch.bfloat16, fast, texts)) >= 0.995


def test_fp16_agrees(plain_labels, fast):
    """The same; on 1,000 reviews, since many processors are slow in fp16."""
    pairs = list(zip(corpus.split()["test"], plain_labels, strict=True))
    pairs = random.Random(5).sample(pairs, 1000)
    found = labels_in(torch.float16, fast, [r.text for r, _ in pairs])
    assert agreement([label for _, label in pairs], found) >= 0.995


@pytest.mark.slow
def test_fp16_agrees_on_the_whole_test(plain_labels, fast):
    """The same."""
    texts = [r.text for r in corpus.split()["test"]]
    assert agreement(plain_labels, labels_in(torch.float16, fast, texts)) >= 0.995


def test_training_log_is_kept():
    """Whoever asks how the model came about: the card quotes this file."""
    lines = (POCKET / "training_log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps) and len(steps) >= 5


# A training in small, run in a process of its own: 400 reviews a part, four steps a stage.
STEPS = ["--reading", "4", "--answering", "4", "--quoting", "4", "--polishing", "4"]
OPTIONS = [*STEPS, "--every", "2", "--bags", "2", "--scale", "1", "--workers", "1"]
TRAINING = """if True:
    import dataclasses
    import pickle
    import sys
    import torch
    from pocket_training import batches, corpus, evaluate, materials, train
    stop, parts, *sys.argv[1:] = sys.argv[1:]
    torch.set_num_threads(1)
    batches.POOL, plan = 12, train.stages
    train.stages = lambda *n: [dataclasses.replace(s, spoken=256) for s in plan(*n)]
    further = train.again
    train.again = lambda n: [dataclasses.replace(s, spoken=256, tokens=512) for s in further(n)]
    # The rough split draws from a generator in the tokenizers library that has no seed.
    materials.Encoder = lambda tokenizer: batches.Encoder(tokenizer, dropout=0.0)
    with open(parts, "rb") as file:
        parts = pickle.load(file)
    corpus.split = lambda: parts
    evaluate.label_accuracy = lambda *_: 0.5
    noised, seen = train.noised, []
    def stopping(ids, *args):
        seen.append(ids)
        if len(seen) == int(stop):
            raise KeyboardInterrupt
        return noised(ids, *args)
    train.noised = stopping
    train.main()"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Trains in small, `small(run, result, stop=99)`, and is itself a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("small")
    parts = {name: reviews[:400] for name, reviews in corpus.split().items()}
    (folder / "parts").write_bytes(pickle.dumps(parts))

    def train(run, result, *more, stop=99):
        command = [sys.executable, "-c", TRAINING, str(stop), str(folder / "parts"), *OPTIONS]
        command += more
        command += ["--run", str(run), "--result", str(result)]
        return subprocess.run(command, capture_output=True, text=True)

    whole = train(folder / "run", folder / "whole")
    assert whole.returncode == 0, whole.stderr
    train.weights = (folder / "whole" / "model.safetensors").read_bytes()
    return train


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "step"), [(3, 2), (5, 4), (23, 10), (35, 14)])
def test_training_resumes_where_it_stopped(small, tmp_path, stop, step):
    """Whoever's laptop went to sleep in the second hour of `make model`, in any of its stages.

    `stop` counts batches: one a step while reading, three in the other stages.
    """
    assert small(tmp_path / "run", tmp_path / "result", stop=stop).returncode != 0
    again = small(tmp_path / "run", tmp_path / "result")
    assert f"resuming at step {step} of 16" in again.stdout, again.stderr
    assert (tmp_path / "result" / "model.safetensors").read_bytes() == small.weights


@pytest.mark.slow
def test_a_finished_model_learns_on_from_a_pretrained_teacher(small, tmp_path):
    """Whoever has a better teacher: the model begins where it was, and changes."""
    teacher = Pretrained(POCKET, 2)
    teacher.model.save_pretrained(tmp_path / "teacher")
    teacher.tokenizer.save(str(tmp_path / "teacher" / "tokenizer.json"))
    (tmp_path / "more.tsv").write_text("0\tThe soup sang.\n0\tSo good for the owners.\n")
    more = ["--start", str(POCKET), "--teacher", str(tmp_path / "teacher"), "--again", "4"]
    more += ["--more", str(tmp_path / "more.tsv")]
    done = small(tmp_path / "run", tmp_path / "result", *more)
    assert done.returncode == 0, done.stderr
    before, after = (load_file(f / "model.safetensors") for f in (POCKET, tmp_path / "result"))
    for name, was in before.items():
        moved = (after[name].float() - was.float()).norm() / was.float().norm()
        assert moved < 0.1, name
    assert any(not torch.equal(after[name], was) for name, was in before.items())
    again = small(tmp_path / "run", tmp_path / "result", *more)
    assert "resuming at step 4 of 4" in again.stdout, again.stderr


@pytest.mark.parametrize("layers", [4, 6, 8])
def test_new_layers_change_nothing_at_first(model, layers):
    """Whoever lets a finished model grow: it begins with what it can."""
    learner = Learner(4000, 0.05, layers).eval()
    learner.begin_from(model)
    ids = torch.arange(300, 364).reshape(2, 32)
    with torch.inference_mode():
        assert (learner.model(ids).logits - model(ids).logits).abs().max() < 1e-3


def test_a_pretrained_teacher_judges_every_beginning_as_it_would_alone():
    """Whoever distils: a chance that belongs to another word teaches the wrong thing."""
    torch.manual_seed(0)
    teacher = Pretrained(POCKET, 2)
    texts = ["The soup was cold, and nobody cared.", "Great — 10/10!  ", "😀", "", "x" * 900]
    for text, found in zip(texts, teacher.judge(texts), strict=True):
        words = text.split()
        beginnings = [" ".join(words[: i + 1]) for i in range(len(words))] or [""]
        assert found.shape == (len(beginnings), 3)
        for row, alone in zip(found, teacher.judge(beginnings), strict=True):
            assert row == pytest.approx(alone[-1], abs=1e-4)


def test_a_pretrained_teachers_tuning_resumes_where_it_stopped(tmp_path, monkeypatch):
    """Whoever's laptop went to sleep: the same teacher comes out, and it has learned something."""
    parts = {name: reviews[:96] for name, reviews in corpus.split().items()}
    monkeypatch.setattr(corpus, "split", lambda: parts)
    monkeypatch.setattr(pretrained, "LAYERS", 2)
    monkeypatch.setattr(pretrained, "BATCH", 24)
    monkeypatch.setattr(pretrained, "EVERY", 1)
    pretrained.Tuning(POCKET, tmp_path / "whole", 0).whole()
    stopped, keep = pretrained.Tuning(POCKET, tmp_path / "run", 0), pretrained.Tuning.keep

    def interrupted(tuning):
        keep(tuning)
        if tuning.done == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrained.Tuning, "keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stopped.whole()
    resumed = pretrained.Tuning(POCKET, tmp_path / "run", 0)
    assert resumed.done == 2
    resumed.whole()
    one, other = (load_file(tmp_path / f / "model/model.safetensors") for f in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_round_of_writing_is_the_same_again_and_keeps_its_beginnings():
    """Whoever resumes the writing of more text gets the texts that an uninterrupted run writes."""
    writer = Writer(POCKET)
    starts = [" The soup", " I", " Battery died"] * 4

    def drawn():
        return writer.lines("- Nice.\n-", starts, torch.Generator().manual_seed(1))

    lines = drawn()
    assert lines and lines == drawn()
    for line in lines:
        assert line.startswith(tuple(start.strip() for start in starts)) and "\n" not in line


def test_swapping_changes_whole_words_and_leaves_the_rest():
    """Whoever trains on such texts: they are like reviews, and a resumed run makes the same."""
    swapper = Swapper(POCKET)
    texts = ["The waiter didn't bring cold soup, and nobody cared.", "Ok", "Great coffee, great!"]
    found = swapper.swapped(texts, random.Random(1))
    assert found == swapper.swapped(texts, random.Random(1))
    assert len(found) == 2 * swapping.TIMES  # nothing to swap in the second one
    for k, text in enumerate(found):
        there, here = texts[2 * (k // swapping.TIMES)].split(), text.split()
        changed = [(a, b) for a, b in zip(there, here, strict=True) if a != b]
        assert changed
        for a, b in changed:
            assert a.strip(string.ascii_letters) == b.strip(string.ascii_letters)  # the same marks
            assert a not in ("The", "didn't", "and")


def numbered(seed):
    return (f"{seed}:{number}" for number in itertools.count())


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_made_ahead_go_on_where_they_stopped(workers):
    """Whoever resumes a training on a GPU: the steps that come are those that would have come."""
    whole = list(itertools.islice(Ahead(numbered, "seed", workers, 0).loaded(), 9))
    assert len(set(whole)) == 9
    for done in (4, 6):
        again = itertools.islice(Ahead(numbered, "seed", workers, done).loaded(), 9 - done)
        assert list(again) == whole[done:]


def test_muon_here_is_muon_there():
    """Whoever compares training recipes: our Muon does what torch's does, only in fp32."""
    torch.manual_seed(3)
    start, grads = torch.randn(24, 40), [torch.randn(24, 40) for _ in range(3)]
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    for matrix, optimizer in (
        (ours, Muon([{"params": [ours], "weight_decay": 0.1}])),
        (theirs, torch.optim.Muon([theirs], weight_decay=0.1, adjust_lr_fn="match_rms_adamw")),
    ):
        for grad in grads:
            optimizer.param_groups[0]["lr"] = 0.01
            matrix.grad = grad.clone()
            optimizer.step()
    assert (ours - theirs).abs().max() < 0.02 * (ours - start).abs().max()
