"""Pictures: the same every time, and never without their numbers as text."""

import io

import pytest

from course_utils import plots
from course_utils.plots import table
from course_utils.sentiment import UNPARSED, Score


def size(png: bytes) -> tuple[int, int]:
    from PIL import Image

    return Image.open(io.BytesIO(png)).size


def corner(png: bytes) -> tuple[int, ...]:
    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB").getpixel((2, 2))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """The contrast of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""

    def luminance(colour: tuple[int, ...]) -> float:
        shares = [c / 255 for c in colour]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return sum(w * s for w, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.fixture
def score() -> Score:
    rows = [
        ("good", "Positive", "Positive"),
        ("bad", "Negative", "Positive"),
        ("?", "Neutral", UNPARSED),
    ]
    return Score([(review, true, given, given) for review, true, given in rows])


def test_the_text_of_bars_is_a_table():
    """A learner with a screen reader, and the comparison in CI, get the numbers."""
    shown = plots.bars({"fp16": 12.55, "int8": 6.5}, "Memory", "GiB")
    assert repr(shown).splitlines() == ["Memory    GiB", "fp16    12.55", "int8     6.50"]
    assert shown._repr_mimebundle_()["text/plain"] == repr(shown)
    assert shown.png.startswith(b"\x89PNG")


def test_series_stand_side_by_side():
    """A learner compares predicted with measured; a number that is missing is a dash."""
    values = {"predicted": {"fp16": 12.55, "nf4": 3.9}, "measured": {"fp16": 12.61}}
    lines = repr(plots.bars(values, "Memory", "GiB", number="{:.1f}")).splitlines()
    assert lines[0].split() == ["Memory", "predicted", "measured"]
    assert lines[2].split() == ["nf4", "3.9", "-"]


def test_confusion_counts_every_review(score):
    """A learner sees replies without a label in a column of their own."""
    shown = plots.confusion(score)
    lines = repr(shown).splitlines()
    assert lines[0].split()[-1] == UNPARSED
    counts = [int(word) for line in lines[1:] for word in line.split() if word.isdigit()]
    assert sum(counts) == score.total


@pytest.mark.parametrize("draw", [lambda: plots.bars({}), lambda: plots.confusion(Score())])
def test_nothing_to_draw_is_no_crash(draw):
    """A learner who filters everything away gets an empty picture."""
    assert draw().png


def test_pictures_do_not_change_from_run_to_run(score):
    """A teacher who runs `make notebooks` twice sees no difference in the pictures."""
    assert plots.confusion(score).png == plots.confusion(score).png
    values = {"a": 1.0, "b": 2.0}
    assert (
        plots.bars(values, intervals={"a": (0.5, 1.5)}).png
        == plots.bars(values, intervals={"a": (0.5, 1.5)}).png
    )


def test_pictures_are_readable_on_a_dark_theme(score):
    """A learner sees dark letters on the picture's own grey, which does not glare at night."""
    for shown in (plots.confusion(score), plots.bars({"a": 1.0})):
        paper = corner(shown.png)
        assert contrast(paper, rgb(plots.INK)) >= 7, "WCAG 2.2 asks for 7 at its highest level"
        assert contrast(paper, (255, 255, 255)) > 1.1, "not as bright as a white page"


def test_pictures_fit_the_page():
    """A learner at 1280 pixels sees the whole picture."""
    names = {f"a rather long name of a bar {i}": float(i) for i in range(12)}
    assert size(plots.bars(names, "title", "unit").png)[0] <= 900


def test_drawing_leaves_the_learners_own_plots_alone(score):
    """A learner's matplotlib settings and figures are not touched by ours."""
    import matplotlib
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    plots.confusion(score)
    plots.bars({"a": 1.0})
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


def test_a_strip_shows_every_token():
    """A learner sees where one token ends: spaces and line breaks have a sign."""
    shown = plots.token_strip(["<s>", "▁love", "\n", " x", ""], [1, 2, 3, 4, 5], mark=["<s>"])
    assert repr(shown) == "<s>=1|▁love=2|⏎=3|·x=4|∅=5"
    assert "&lt;s&gt;" in shown.html
    assert shown.html.count(plots.STRONG) == 1
    assert plots.token_strip(["a", "b"]).text == "a|b"


def test_a_strip_cannot_be_broken_out_of():
    """A review with HTML in it is shown, not run."""
    shown = plots.token_strip(["<script>alert(1)</script>"], ["<b>"])
    assert "<script" not in shown.html
    assert "<b>" not in shown.html


@pytest.mark.parametrize("wrong", [{"below": [1]}, {"colours": ["red"]}])
def test_a_strip_with_lengths_that_differ(wrong):
    """A learner's off-by-one is an error, not a strip with the last token missing."""
    with pytest.raises(ValueError):
        plots.token_strip(["a", "b"], **wrong)


@pytest.mark.parametrize("flat", [1.0, 0.3])
def test_layers_name_the_leader_of_sure_and_of_unsure_models(flat):
    """A learner whose model has many layers and is never sure: the text is not a row of dashes."""
    rising = [flat * i / 30 for i in range(31)]
    shown = plots.layers({"' Yes'": rising, "' No'": [0.2 * flat] * 31})
    rows = shown.text.splitlines()
    number = "{:.1f}" if flat > 0.5 else "{:.3f}"
    assert len(rows) == 32 and rows[31].split() == ["30", "'·Yes'", number.format(flat)]
    assert rows[3].split() == ["2", "'·No'", number.format(0.2 * flat)]
    late = plots.layers({"a": [0.0, 0.001, 0.9]}).text.splitlines()
    assert late[1].split() == ["0", "-"] and late[2].split() == ["1", "-"]


def test_a_table_is_the_same_in_html_and_text():
    """A learner with a narrow window or a screen reader: every cell is there, markup is escaped."""
    shown = plots.table(["what", "how\nmany"], [["<b>", "1\n(0 to 2)"], ["c", "10"]], ["* a & b"])
    assert shown.text.splitlines() == [
        "what    how many",
        "<b>   1 (0 to 2)",
        "c             10",
        "* a & b",
    ]
    assert "1<br>(0 to 2)" in shown.html and "&lt;b&gt;" in shown.html and "a &amp; b" in shown.html


def test_a_table_has_its_text():
    """A learner with a screen reader, and the comparison in CI, get the table as plain text."""
    shown = table(("rung", "size\nin MiB"), [("fp16", "256.57"), ("<nf4>", "111.03")], ["measured"])
    lines = ["rung   size in MiB", "fp16        256.57", "<nf4>       111.03", "measured"]
    assert repr(shown).splitlines() == lines
    assert "size<br>in MiB" in shown.html, "a long head is broken, so that ten columns fit a page"
    assert "&lt;nf4&gt;" in shown.html
    with pytest.raises(ValueError):
        table(("one", "two"), [("lonely",)])
