"""Lesson 05's helper: whoever fine-tunes on their own data relies on these."""

import contextlib
import io
import math
import os
import random
import subprocess
import sys

import pytest

from course_utils import plots, sentiment, tuning
from course_utils.errors import CourseError
from course_utils.memory import measured as memory
from course_utils.memory import predict, training
from course_utils.models import POCKET

GOOD = [("Up, then down.", "bull"), ("Flat.", "bear")]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(POCKET)


def written(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# -- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'text,label\n"Up, then down.",bull\nFlat.,bear\n'),
        ("a.csv", '\ufefflabel,id,Text\r\nbull,1,"Up, then down."\r\n\r\nbear,2,Flat.\r\n'),
        ("a.csv", "text;label\nUp, then down.;bull\nFlat.;bear"),
        ("a.tsv", "text\tlabel\nUp, then down.\tbull\nFlat.\tbear\n"),
        (
            "a.jsonl",
            '{"text": "Up, then down.", "label": "bull"}\n\n{"label":"bear","text":"Flat."}',
        ),
    ],
)
def test_a_table_is_read_however_it_was_saved(tmp_path, name, text):
    """A learner whose spreadsheet saves with semicolons, a BOM or Windows line ends."""
    assert tuning.read(written(tmp_path, name, text)) == GOOD


BAD_CSV = """text,label
fine,a
,b
no label here,
one, two, three
"two
lines",b
fine,b
Fine,a
"""


def test_bad_rows_of_a_table_are_named_by_line_and_reason(tmp_path):
    """A learner with four bad rows: each has to be found at once, and nothing trained."""
    path = written(tmp_path, "a.csv", BAD_CSV)
    with pytest.raises(CourseError) as caught:
        tuning.read(path)
    for part in (
        "line 3: no text",
        "line 4: no label",
        "line 5: 3 fields where the first line has 2; put a text that holds a comma in quotes",
        "line 8: the same text as line 2, with the label 'b' in place of 'a'",
        "line 9: the same text as line 2",
        "5 of 7 rows",
        "drop=True",
    ):
        assert part in str(caught.value), part


def test_bad_rows_are_left_out_only_on_purpose(tmp_path, capsys):
    """A learner who drops bad rows: what is left out is said, the rest is kept."""
    path = written(tmp_path, "a.csv", BAD_CSV)
    assert tuning.read(path, drop=True) == [("fine", "a"), ("two\nlines", "b")]
    assert "5 rows left out, 2 kept" in capsys.readouterr().out


def test_bad_lines_of_json_are_named(tmp_path):
    """A learner whose JSONL was edited by hand."""
    lines = ['{"text": "a", "label": "b"}', "{", "[1]", '{"text": "c"}', '{"text":"d","label":1}']
    with pytest.raises(CourseError) as caught:
        tuning.read(written(tmp_path, "a.jsonl", "\n".join(lines)))
    for part in ("line 2: not JSON", "line 3: not an object", "line 4: no label", "line 5: label"):
        assert part in str(caught.value)


def test_a_thousand_bad_rows_are_one_short_message(tmp_path):
    """A learner whose whole label column is empty: ten examples say it as well."""
    with pytest.raises(CourseError) as caught:
        tuning.read(written(tmp_path, "a.csv", "text,label\n" + "x,\n" * 1000))
    assert "and 990 more" in str(caught.value) and len(str(caught.value)) < 800


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.xlsx", "", "neither CSV nor JSONL"),
        ("a.csv", "review,stars\nx,5\n", "no columns named text and label"),
        ("a.csv", "", "no columns named text and label"),
        ("a.csv", b"text,label\nfine,a\ncaf\xe9,b\n", "line 3 holds other bytes"),
        ("a.csv", "text,label\n" + "x" * 200_000 + ",b\n", "not a row of a table"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_words(tmp_path, name, text, says):
    """A learner who names the wrong file gets one message, no traceback."""
    with pytest.raises(CourseError, match=says):
        tuning.read(written(tmp_path, name, text))


QUOTES = [
    'text,label\n"Unclosed start,Negative\nFine thing,Positive\nIt was "ok",Neutral\n',
    'text,label\n"Unclosed start,Negative\nFine thing,Positive\n',
    'text,label\n"Unclosed,Good\nFine,Good\nhe said ",Bad\nnever,Bad\nso so,Bad\nyes,Good\n',
    'text;label\n"Unclosed;Good\nFine;Good\n"quoted; well";Bad\n',
    'label,text\nGood,"Unclosed\nGood,fine\nBad,"quoted, well"\n',
    'text,label\n"ok" at first,Good\nFine,Good\n',
    'text,label\n"He said \\"no\\" to it",Good\nFine,Good\n',
    'text,label\n"closed" ,Good\nFine,Good\n',
    "text,label\n'single, quotes',Good\nFine,Good\n",
    "text,label\n“curly, quotes”,Good\nFine,Good\n",
]


@pytest.mark.parametrize("text", QUOTES)
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_quote_that_is_not_closed_loses_no_rows_in_silence(tmp_path, text, separator):
    """A learner with a stray quote: its line is named, and the rows after it are kept."""
    if ";" not in text:
        text = text.replace(",", separator)
    path = written(tmp_path, "a.csv", text)
    with pytest.raises(CourseError, match=r"line 2: .*(quote|fields)"):
        tuning.read(path)
    kept = [text for text, _ in tuning.read(path, drop=True)]
    assert any(text.lower() == "fine" or text == "Fine thing" for text in kept)


@pytest.mark.parametrize("count", [5, 500, 5000])
def test_rows_after_an_unclosed_quote_are_kept(tmp_path, count):
    """A learner who drops bad rows of a large table: one stray quote costs one row."""
    rows = "".join(f"row number {i} with some text in it,Positive\n" for i in range(count))
    path = written(tmp_path, "a.csv", 'text,label\nok one,Positive\n"unclosed,Negative\n' + rows)
    assert len(tuning.read(path, drop=True)) == count + 1


def test_every_line_is_read_or_named(tmp_path):
    """A learner with a table of any mess: no line vanishes between the rows and the message."""
    rng = random.Random(5)
    for _ in range(300):
        lines = ["text,label"]
        for n in range(2, 9):
            quote = '"' if rng.random() < 0.3 else ""
            odd = "".join(rng.choices("\"ab ,'\t", k=rng.randint(0, 6)))
            lines.append(f"{quote}w{n} {odd},{rng.choice(['Good', 'Bad'])}")
        path = written(tmp_path, "a.csv", "\n".join(lines))
        with contextlib.redirect_stdout(io.StringIO()) as said:
            good = tuning.read(path, drop=True)
        read = " ".join(text + " " for text, _ in good)
        for n in range(2, 9):
            assert f"w{n} " in read or f"line {n}:" in said.getvalue(), (lines, good)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("text;label;note (a, b, c)\nnice;Good;x\n", [("nice", "Good")]),
        ('"text";"label";"source, page, date"\nnice;Good;x\n', [("nice", "Good")]),
        ("sep=;\ntext;label\nnice;Good\n", [("nice", "Good")]),
        ('"sep=,"\ntext,label\nnice,Good\n', [("nice", "Good")]),
        ("text|label\nnice, really|Good\n", [("nice, really", "Good")]),
        ('text,label\n "good, cheap", Good\n', [("good, cheap", "Good")]),
        ("text,label\rnice,Good\rbad,Bad", [("nice", "Good"), ("bad", "Bad")]),
        ('text,label\n"Dear team,\nHi, you",Good\n', [("Dear team,\nHi, you", "Good")]),
        ("\n\ntext,label\nnice,Good\n", [("nice", "Good")]),
        ('text,label\n5" screen,Good\n', [('5" screen', "Good")]),
        ('text,label\nIt was "ok",Bad\n', [('It was "ok"', "Bad")]),
        ("\ufeff\ufefftext,label\nnice,Good\n", [("nice", "Good")]),
        (" Text , LABEL \nnice,Good\n", [("nice", "Good")]),
        ("text,label\nfamily 👨\u200d👩\u200d👧,Good\n", [("family 👨\u200d👩\u200d👧", "Good")]),
        ("text,label\ntrès bien\u00a0!,Good\n", [("très bien\u00a0!", "Good")]),
    ],
)  # fmt: skip
def test_tables_as_programs_write_them_are_read(tmp_path, text, good):
    """A learner whose spreadsheet has its own ideas of separators, quotes and line ends."""
    assert tuning.read(written(tmp_path, "a.csv", text)) == good


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"text":"nice \\ud83d","label":"Good"}', "line 1: half a character"),
        (
            "a.jsonl",
            '{"text":"a","label":"b","text":"c"}',
            "line 1: .*'text' stands twice",
        ),
        ("a.jsonl", '{"text":"a","label":NaN}', "line 1: not JSON .*NaN"),
        ("a.jsonl", '{"text":"a","label":null}', "line 1: label is None"),
        ("a.jsonl", '{"text":["a"],"label":"b"}', "line 1: text is"),
        ("a.jsonl", "[" * 100_000, "one JSON list"),
        ("a.jsonl", '{"a":' * 100_000, "line 1: not JSON"),
        ("a.jsonl", '[{"text":"a","label":"b"}]', "one JSON list"),
        ("a.jsonl", '{"text":"a\\u0000","label":"b"}', "line 1: a NUL"),
        ("a.csv", "text,label\nnice,Good\u200b\n", "line 2: .*ZERO WIDTH SPACE"),
        ("a.csv", "text,label\nnice,very\u00a0good\n", "line 2: .*NO-BREAK SPACE"),
        ("a.csv", "text,label\nnice,Go\u00adod\n", "line 2: .*SOFT HYPHEN"),
        ("a.csv", "text,label\nni\u202ece,Good\n", "line 2: the text holds .*OVERRIDE"),
        ("a.csv", "text,label\nok,Good\n\ufefftext,label\n", "line 3: the text holds"),
        ("a.csv", "text,label\nok,Good\ntext,label\n", "line 3: the first line again"),
        ("a.csv", "text,label\n\u200b\u200d,Good\n", "line 2: no text"),
        ("a.csv", "text,label\nnice,Good\nni\u200dce,Bad\n", "line 3: the same text as line 2"),
        ("a.csv", "text,label\nni\0ce,Good\n", "line 2: a NUL"),
        ("a.csv", "text,label,Text\nnice,Good,x\n", "two columns named text"),
        ("a.csv", "text\nnice\n", "no columns named"),
        ("a.csv", "\n \n", "is empty"),
        ("a.csv", "text,label\nnice,Good\n".encode("utf-16"), "UTF-16"),
        ("a.csv", "text,label\nnice,Good\n".encode("utf-16-le"), "UTF-16"),
        ("a.csv", b"PK\x03\x04rest", "Excel workbook"),
        ("a.tsv", b"\xd0\xcf\x11\xe0rest", "old Excel workbook"),
        ("a.jsonl", b"\x1f\x8brest", "gzip"),
        ("a.csv", "<!DOCTYPE html><p>Sign in</p>", "web page"),
        ("a.csv", b"text,label\ncaf\xe9,b\n", "0xE9 is 'é'"),
        ("a.json", "[]", "neither CSV nor JSONL"),
    ],
)
def test_what_is_odd_in_a_file_is_named(tmp_path, name, text, says):
    """A learner whose file came through other programs: the reason and the place, no traceback."""
    with pytest.raises(CourseError, match=says):
        tuning.read(written(tmp_path, name, text))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", "", "holds no rows"),
        ("a.csv", "text,label\n", "holds no rows"),
        ("a.csv", "text,label\nnice,nan\n", "line 2: nan, which programs write"),
        ("a.csv", "text,label\n#NAME?,Good\n", "line 2: #NAME., which programs write"),
        ("a.csv", "text,label\nnice,\\N\n", "line 2: .*which programs write"),
        ("a.csv", "text,label\ncaf\ufffd,Good\n", "line 2: the mark U.FFFD"),
        ("a.csv", "text,label\nni\x1b[1mce,Good\n", "line 2: .*cannot be seen: U.001B"),
        ("a.csv", b"text,label\rfine,b\rcaf\xe9,b\r", "line 3 holds other bytes"),
        ("a.csv", '{"text": "a", "label": "b"}\n', "It holds JSON.*\n.*jsonl"),
        ("a.csv", "\ufeff<!DOCTYPE html><p>Sign in</p>", "web page"),
        ("a.csv", "version https://git-lfs.github.com/spec/v1\noid x\n", "git lfs pull"),
        ("a.csv", b"BZh91AY&SY", "bzip2"),
        ("a.csv", b"\x28\xb5\x2f\xfd\x04", "zstd"),
    ],
)
def test_what_other_programs_leave_in_a_file_is_named(tmp_path, name, text, says):
    """A learner whose export holds failed formulas, lost characters or no rows at all."""
    with pytest.raises(CourseError, match=says):
        tuning.read(written(tmp_path, name, text))


def test_keys_beside_text_and_label_do_not_matter(tmp_path):
    """A learner whose JSON rows carry other fields: those may repeat, as columns of a table may."""
    row = '{"text": "nice", "label": "Good", "ID": 1, "id": 2, "meta": {"x": 1, "X": 2}}'
    assert tuning.read(written(tmp_path, "a.jsonl", row)) == [("nice", "Good")]


@pytest.mark.parametrize(
    "text",
    [
        'text,label\n"Unclosed,Negative\nFine,Positive\nsaid ",Neutral\n',
        'text,label\n"Unclosed,Good\nnice one",Good\n',
        'id,text,label\n1,"Unclosed,very bad\n2,fine,so so\n3,said ",good\n',
    ],
)
def test_a_small_table_s_rows_are_not_swallowed(tmp_path, text):
    """A learner with a few rows, where no label stands outside the stray quotes."""
    with pytest.raises(CourseError, match="line 2: a quote opens here and closes on line"):
        tuning.read(written(tmp_path, "a.csv", text))


def test_mails_that_end_alike_are_read(tmp_path):
    """A learner with mails of several lines: "Regards, Tom" in each is no label."""
    mail = '"Hi, team\n{}\nRegards, Tom\nSent from my phone",{}\n'
    table = "text,label\n" + mail.format("It broke.", "Complaint") + mail.format("Fine.", "Praise")
    assert [label for _, label in tuning.read(written(tmp_path, "a.csv", table))] == [
        "Complaint",
        "Praise",
    ]


def test_no_examples_are_not_split():
    """A learner whose filter leaves nothing: said here, not by an empty training."""
    with pytest.raises(CourseError, match="There are none"):
        tuning.split([])


def test_a_missing_file_is_said(tmp_path):
    """A learner with a slip in the name."""
    with pytest.raises(CourseError, match="cannot be read"):
        tuning.read(tmp_path / "none.csv")


def test_own_data_is_split_the_same_way_every_time():
    """A learner who runs the lesson again on their file: the test must stay the same texts."""
    mine = [(f"text number {i}", "abc"[i % 3]) for i in range(60)]
    parts = tuning.split(mine)
    assert [len(part) for part in parts] == [42, 6, 12]
    assert sorted(text for part in parts for text, _ in part) == sorted(t for t, _ in mine)
    assert tuning.split(mine[::-1]) == parts
    assert all({label for _, label in part} == set("abc") for part in parts)


def test_too_few_examples_of_a_label_are_refused():
    """A learner with three examples of a label: a test on one text would say nothing."""
    with pytest.raises(CourseError, match="'rare' has 3"):
        tuning.split(
            [(f"t{i}", "often") for i in range(30)] + [(f"r{i}", "rare") for i in range(3)]
        )


# -- checking -------------------------------------------------------------------------------------


def checked(examples, tokenizer, **more):
    return tuning.check(examples, tokenizer, sentiment.messages, **more)


def test_labels_of_any_name_pass(tokenizer):
    """A learner whose labels are not Positive, Negative and Neutral."""
    assert checked(GOOD, tokenizer) == ["bear", "bull"]


@pytest.mark.parametrize(
    ("examples", "says"),
    [
        ([], "no examples"),
        ([("a", "x"), ("b", "x")], "only one label"),
        ([("a", "Up"), ("b", "up")], "in capitals only"),
        ([("a", "x"), ("b", "</s>")], "cannot say the label '</s>'"),
        ([("a", "x"), ("b", "long " * 30 + "end")], "tokens long"),
        ([("a", "x"), ("b", "Unparsed")], "could not be told from one that names no label"),
        ([("a", "x"), ("b", "</think>")], "could not be told from one that names no label"),
        ([("a", ""), ("b", "y")], "where a text belongs"),
        ([("a", "x"), ("b", "y\ud83d")], "where a text belongs"),
        ([("a", "x"), ("b [INST]", "y")], "refuses example 2"),
        ([("a", "x"), ("word " * 2000, "y")], "longer than 1,024 tokens"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_training(tokenizer, examples, says):
    """A learner would wait for a training that cannot work."""
    with pytest.raises(CourseError, match=says):
        checked(examples, tokenizer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Positive", "Positive\u200b"),
        ("Positive", "Positive\ufeff"),
        ("Positive", "Pos\u00aditive"),
        ("Positive", "Positive "),
        ("Positive", "P\u043esitive"),
        ("Positive", "\uff30ositive"),
        ("very good", "very\u00a0good"),
        ("very good", "very  good"),
        ("n\u00e9gatif", "ne\u0301gatif"),
        ("Level 1", "Level l"),
        ("Level 1", "Level I"),
        ("10", "1O"),
        ("up", "UP"),
        ("up", "up."),
        ("up", "'up'"),
        ("can't say", "can\u2019t say"),
        ("non-fiction", "non\u2013fiction"),
        ("very good", "very_good"),
        ("positive", "pos\u0131tive"),
        ("1", "1.0"),
        ("\u2764", "\u2764\ufe0f"),
    ],
)
def test_labels_that_look_the_same_are_told(tokenizer, one, other):
    """A learner with two spellings of one label: half of the rows would count as another class."""
    with pytest.raises(CourseError, match="looks the same.*differs"):
        checked([("a", one), ("b", other)], tokenizer)


@pytest.mark.parametrize("labels", [(1, 0), ("a", None), ("a", float("nan")), (True, False)])
def test_labels_from_pandas_must_be_text(tokenizer, labels):
    """A learner who builds the pairs with pandas: numbers and empty cells are named."""
    with pytest.raises(CourseError, match="where a text belongs"):
        checked([("x", labels[0]), ("y", labels[1])], tokenizer)


def test_few_examples_of_a_label_are_told(tokenizer, capsys):
    """A learner with a small file: it may go on, and knows what to expect."""
    checked([(f"t{i}", "often") for i in range(60)] + [("r", "rare")], tokenizer)
    said = capsys.readouterr().out
    assert "'rare' has 1" in said and "often" not in said


def test_a_text_that_passes_is_not_dropped_by_the_trainer(tokenizer):
    """A learner whose tokenizer knows no limit: check and trainer stop at the same length."""
    from trl import SFTConfig

    from course_utils.tuning import checking

    assert SFTConfig(use_cpu=True, bf16=False).max_length == checking.MAX_LENGTH
    tokenizer.model_max_length, kept = int(1e30), tokenizer.model_max_length
    try:
        with pytest.raises(CourseError, match="longer than 1,024 tokens"):
            checked([("a", "x"), ("word " * 1100, "y")], tokenizer)
    finally:
        tokenizer.model_max_length = kept


def test_a_shorter_limit_counts_the_answer_too(tokenizer):
    """A learner who lowers max_length: a cut-off label would leave nothing to learn from."""
    length = len(
        tokenizer.apply_chat_template(
            [*sentiment.messages("Flat."), {"role": "assistant", "content": "bear"}]
        )["input_ids"]
    )
    both = [("Flat.", "bear"), ("Up.", "bull")]
    assert checked(both, tokenizer, max_length=length + 1)
    with pytest.raises(CourseError, match="example 1"):
        checked(both, tokenizer, max_length=length - 1)


# -- memory ---------------------------------------------------------------------------------------


def tiny(dtype=None):
    """A Llama too small to know anything, with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=3072,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).to(dtype or torch.float32)


@pytest.mark.parametrize("modules", [(), ("q_proj", "v_proj"), ("embed_tokens", "down_proj")])
def test_counted_lora_parameters_are_peft_s(modules):
    """A learner who trusts the counter: peft has to make as many."""
    from peft import LoraConfig, get_peft_model

    model = tiny()
    counted = training.lora_parameters(model.config, 4, modules)
    target = list(modules) or "all-linear"
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=target, task_type="CAUSAL_LM"))
    assert counted == wrapped.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("method", ["full", "lora"])
def test_predicted_training_bytes_are_the_measured_ones(method):
    """A learner who plans a training: weights, gradients and optimizer, to the byte."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = tiny()
    told = tuning.training(model.config, method, rank=4)
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.arange(8)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    states = [v for s in optimizer.state.values() for k, v in s.items() if k != "step"]
    assert told.trained == sum(p.numel() for p in trained)
    buffers = sum(b.nbytes for b in model.buffers())
    assert told.parts["weights"] == sum(p.nbytes for p in model.parameters()) + buffers
    assert told.parts["gradients"] == sum(p.grad.nbytes for p in trained)
    assert told.parts["optimizer"] == sum(v.nbytes for v in states)


def test_predicted_weights_of_qlora_are_the_measured_ones():
    """A learner who compares LoRA and QLoRA: embeddings and head stay whole, and are counted so."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    model = AutoModelForCausalLM.from_pretrained(
        POCKET, dtype=torch.float32, device_map="cpu", quantization_config=four_bits
    )
    told = tuning.training(model.config, "qlora", rank=4)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    measured = sum(memory.tensor_bytes(model).values())
    assert abs(told.parts["weights"] / measured - 1) < 0.01


def test_the_7b_fits_one_16_gib_card_with_qlora_only():
    """A learner with a T4: the lesson sends them to QLoRA for this reason."""
    config = predict.config("llama-2-7b")
    total = {
        method: tuning.training(config, method, 16, 4, 256, "fp16").total / 2**30
        for method in tuning.METHODS
    }
    assert total["qlora"] < 6 < 13 < total["lora"] < 15 and total["full"] > 100
    with pytest.raises(CourseError, match="no method"):
        tuning.training(config, "magic")


# -- training -------------------------------------------------------------------------------------


def trainer_of(folder, tokenizer, callbacks=(), **settings):
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = [
        {
            "prompt": sentiment.messages(f"Note number {i}."),
            "completion": [{"role": "assistant", "content": "Positive" if i % 2 else "Negative"}],
        }
        for i in range(16)
    ]
    options = {
        "output_dir": str(folder),
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_steps": 2,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": 0,
        **settings,
    }
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    return SFTTrainer(
        model=tiny(),
        args=SFTConfig(**options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=list(callbacks),
    )


@pytest.mark.slow
def test_loss_is_on_the_answer_only_and_bos_stands_once(tmp_path, tokenizer):
    """A learner whose loss counts the prompt learns to write notes, not to label them."""
    trainer = trainer_of(tmp_path, tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        assert ids.count(tokenizer.bos_token_id) == 1
        answer = [token for token in labels if token != -100]
        assert tokenizer.decode(answer, skip_special_tokens=True).strip() in sentiment.LABELS
        assert answer[-1] == tokenizer.eos_token_id


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_training(tmp_path, tokenizer):
    """A learner whose learning rate is far too high: one message, not an hour of NaN."""
    curve = tuning.loss_curve()
    trainer = trainer_of(tmp_path, tokenizer, [curve], save_strategy="no")
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data.fill_(math.nan)
    with pytest.raises(CourseError, match="blown up"):
        trainer.train()


@pytest.mark.slow
def test_an_interrupted_training_goes_on_where_it_was(tmp_path, tokenizer):
    """A learner who presses Stop, or whose laptop sleeps: resumed and undisturbed end the same."""
    from transformers import TrainerCallback

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 3:
                raise KeyboardInterrupt

    whole = tuning.loss_curve()
    trainer_of(tmp_path / "whole", tokenizer, [whole]).train()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "cut", tokenizer, [Interrupt()]).train()
    resumed = tuning.loss_curve()
    trainer_of(tmp_path / "cut", tokenizer, [resumed]).train(resume_from_checkpoint=True)
    assert [step for step, _ in resumed.train] == [3, 4, 5, 6]
    assert [v for _, v in resumed.train] == pytest.approx([v for _, v in whole.train[2:]], rel=1e-3)
    restarted = tuning.loss_curve()
    trainer_of(tmp_path / "cut", tokenizer, [restarted]).train()
    assert [v for _, v in restarted.train] == pytest.approx([v for _, v in whole.train], rel=1e-3)


def test_the_loss_curve_shows_both_lines():
    """A learner who looks whether it overfits: training and validation in one picture."""
    curve = tuning.loss_curve()
    curve.train, curve.validation = [(1, 2.04), (2, 0.51)], [(2, 0.72)]
    assert "train" in repr(curve.picture()) and "0.7" in repr(curve.picture())
    assert curve.picture().png.startswith(b"\x89PNG")


# -- keeping --------------------------------------------------------------------------------------


def test_a_disk_without_room_is_refused_before_writing(tmp_path):
    """A learner with a full disk: told before an hour of training, with the figures."""
    with pytest.raises(CourseError, match="too full"), tuning.writing(tmp_path, 2**60):
        raise AssertionError("nothing may be written")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="file size limits are a Unix matter")
@pytest.mark.parametrize("writer", ["write_bytes", "torch", "safetensors"])
def test_a_disk_that_fills_up_ends_in_one_message(tmp_path, writer):
    """A learner whose disk or quota fills up while the adapter is saved."""
    script = f"""
import resource, signal
import torch
from pathlib import Path
from safetensors.torch import save_file
from course_utils import tuning
from course_utils.memory import training
from course_utils.errors import CourseError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with tuning.writing("adapter") as folder:
        if {writer!r} == "safetensors":
            save_file({{"a": torch.zeros(100_000)}}, folder / "a.safetensors")
        elif {writer!r} == "torch":
            torch.save({{"a": torch.zeros(100_000)}}, folder / "a.pt")
        else:
            (folder / "a.bin").write_bytes(bytes(400_000))
except CourseError as error:
    print(error)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "too full" in done.stdout, done.stdout + done.stderr


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    """A learner who pressed Stop, or filled the disk, while a checkpoint was written."""
    assert tuning.newest_checkpoint(tmp_path / "none") is None
    states = {"25": "{}", "100": '{"epoch": 1}', "125": '{"epo', "150": "", "175": None}
    for step, state in states.items():
        (tmp_path / f"checkpoint-{step}").mkdir()
        written(tmp_path / f"checkpoint-{step}", "adapter_model.safetensors", b"")
        if state is not None:
            written(tmp_path / f"checkpoint-{step}", "trainer_state.json", state)
    written(tmp_path, "checkpoint-200", "a file")
    (tmp_path / "checkpoint-best").mkdir()
    assert tuning.newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")


def test_other_errors_pass_through(tmp_path):
    """A learner with another mistake: it must not be hidden behind a wrong message."""
    with pytest.raises(ZeroDivisionError), tuning.writing(tmp_path / "new") as folder:
        assert folder.is_dir()
        _ = 1 / 0


# -- pictures and scores of own labels ------------------------------------------------------------


def test_a_confusion_matrix_shows_the_learner_s_own_labels():
    """A learner with other labels than the course's: their matrix must not come out empty."""
    score = sentiment.Score([("a", "bull", "bull", "bull"), ("b", "bear", "bull", "bull")])
    assert "bear" in repr(plots.confusion(score)) and "Positive" not in repr(plots.confusion(score))


@pytest.mark.slow
def test_batches_score_as_single_reviews_do(tokenizer):
    """A learner who compares the two: filling up on the left must not change a reply."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(POCKET, dtype=torch.float32)
    pairs = [("Great food.", "Positive"), ("We waited an hour and then they lost it.", "Negative")]
    pairs += [("It opens at nine.", "Neutral")]
    single = sentiment.evaluate(sentiment.local_complete(model, tokenizer), pairs, progress=False)
    batch = sentiment.evaluate_batch(sentiment.local_batch(model, tokenizer), pairs, size=2)
    assert batch.rows == single.rows
