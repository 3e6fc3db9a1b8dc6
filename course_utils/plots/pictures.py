"""Pictures for the lessons: one look, and beside every picture its numbers as text.

Each function returns a `Shown`. Dark letters stand on a soft grey or on pale colours of their own,
never on the page's: so they are readable in a light theme and do not glare in a dark one.
"""

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from course_utils.plots.shown import INK, Shown, as_text, visible
from course_utils.sentiment import LABELS, UNPARSED, Score

# Okabe and Ito's colours, told apart by colour-blind readers too (jfly.uni-koeln.de/color)
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
PAPER = "#eceef1"
WIDTH, HEIGHT, DPI = 8.0, 3.6, 110
LOOK = {
    "figure.figsize": (WIDTH, HEIGHT),
    "figure.dpi": DPI,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.08,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "open-llms",
}


def _look() -> Any:
    """The course's matplotlib settings, a dict."""
    from cycler import cycler

    return {**LOOK, "axes.prop_cycle": cycler(color=PALETTE)}


def style() -> None:
    """Give every figure that the notebook draws itself the course's size, colours and fonts."""
    import matplotlib

    matplotlib.rcParams.update(_look())


@contextmanager
def canvas(height: float = HEIGHT, width: float = WIDTH) -> Iterator[tuple[Any, Any]]:
    """A styled (figure, axes) of this size in inches, outside pyplot: nothing to close later."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_look()):
        figure = Figure(figsize=(width, height), dpi=DPI)
        yield figure, figure.add_subplot()


def as_png(figure: Any) -> bytes:
    """The figure as PNG bytes; without the time or version, so that equal pictures are equal."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


def _bar_ends(
    axes: Any,
    rows: Mapping[float, str],
    lengths: Mapping[str, float],
    number: str,
    intervals: Mapping[str, tuple[float, float]] | None,
) -> None:
    """Each bar's number, beside the bar or beside its whisker where that is longer."""
    for y, name in rows.items():
        if name not in lengths:
            continue
        whisker = (intervals or {}).get(name, ())
        axes.plot(whisker, [y] * len(whisker), color=INK, linewidth=1.2, marker="|")
        end = (max(lengths[name], 0.0, *whisker), y)
        text = number.format(lengths[name])
        axes.annotate(text, end, (5, 0), textcoords="offset points", va="center")


def bars(
    values: Mapping[str, float] | Mapping[str, Mapping[str, float]],
    title: str = "",
    unit: str = "",
    number: str = "{:.2f}",
    highlight: Collection[str] = (),
    intervals: Mapping[str, tuple[float, float]] | None = None,
    in_picture: str = "",
) -> Shown:
    """Horizontal bars, the first on top, each with its number.

    Args:
        values: what each bar is called and how long it is; or, for bars side by side, one such
            mapping for each series: `{"predicted": {"fp16": 12.6}, "measured": {"fp16": 12.7}}`.
        title: says what the picture shows.
        unit: written along the axis, like "GiB" or "accuracy".
        number: how a number is written. The text is compared, so round well above the noise.
        highlight: the bars to bring out, by name (one series only).
        intervals: (low, high) drawn as a whisker on the bar of that name (one series only).
        in_picture: how a number is written beside its bar, where that may be finer than the text.

    Returns:
        The picture, with a table of the numbers as its text.
    """
    several = isinstance(next(iter(values.values()), None), Mapping)
    series: dict[str, Any] = dict(values) if several else {"": values}
    names = list(dict.fromkeys(name for one in series.values() for name in one))
    with canvas(max(1.4, 0.9 + 0.34 * len(names) * max(1.0, 0.75 * len(series)))) as (figure, axes):
        for i, (label, one) in enumerate(series.items()):
            thick = 0.8 / len(series)
            rows = [y + (i - (len(series) - 1) / 2) * thick for y in range(len(names))]
            colours = [PALETTE[1] if n in highlight else PALETTE[i % len(PALETTE)] for n in names]
            axes.barh(rows, [one.get(n, 0) for n in names], 0.9 * thick, color=colours, label=label)
            _bar_ends(
                axes, dict(zip(rows, names, strict=True)), one, in_picture or number, intervals
            )
        # a token like "$x$" is a name, not a formula
        axes.set_yticks(range(len(names)), names, parse_math=False)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(title=title, xlabel=unit)
        if len(series) > 1:
            figure.legend(loc="outside right upper")
        png = as_png(figure)
    return Shown(_bars_text(series, names, title or unit, unit, number), png=png)


def _bars_text(
    series: Mapping[str, Mapping[str, float]], names: list[str], head: str, unit: str, number: str
) -> str:
    """The numbers of bars as a table: a column for each series, a dash where there is no bar."""
    rows = [
        [name, *(number.format(one[name]) if name in one else "-" for one in series.values())]
        for name in names
    ]
    return as_text([head, *(label or unit for label in series)], rows)


def confusion(score: Score, title: str = "") -> Shown:
    """A score's confusion matrix: true labels down, given labels across, counts in the boxes.

    The last column holds replies without a label, where there are any. The text is the same table.
    """
    counts = score.confusion
    # labels of other names, as in a learner's own data, in the order of the alphabet
    named = {label for pair in counts for label in pair} - {UNPARSED}
    labels = LABELS if named <= set(LABELS) else sorted(named)
    true = [label for label in labels if any(t == label for t, _ in counts)]
    given = [*labels, *([UNPARSED] if score.unparsed else [])]
    grid = [[counts.get((t, g), 0) for g in given] for t in true]
    most = max((n for row in grid for n in row), default=1)
    with canvas(height=1.3 + 0.6 * len(true), width=1.9 + 1.25 * len(given)) as (figure, axes):
        axes.imshow(grid or [[0]], cmap="Blues", vmin=0, vmax=most, aspect="auto")
        for y, row in enumerate(grid):
            for x, n in enumerate(row):
                colour = "white" if n > 0.6 * most else INK
                axes.text(x, y, str(n), ha="center", va="center", color=colour, fontsize=12)
        axes.set_xticks(range(len(given)), given)
        axes.set_yticks(range(len(true)), true)
        axes.set(xlabel="given by the model", ylabel="true", title=title or repr(score))
        axes.title.set_fontsize(10)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        png = as_png(figure)
    head = ["true \\ given", *given]
    rows = [[t, *map(str, row)] for t, row in zip(true, grid, strict=True)]
    return Shown(as_text(head, rows), png=png)


def layers(values: Mapping[str, Sequence[float]], title: str = "") -> Shown:
    """How probable each token is after every layer: one line for each, from embedding to end.

    Args:
        values: probabilities by token text, the first after the embedding (layer 0).
        title: says what the picture shows.

    Returns:
        The picture; its text names the one that is most probable after each layer, "-" where all
        stay below a twentieth of the highest value.
    """
    count = len(next(iter(values.values())))
    top = max(max(line) for line in values.values())
    with canvas() as (figure, axes):
        for name, line in values.items():
            axes.plot(range(count), line, marker="o", label=name.replace("$", r"\$"))
        # flat probabilities are drawn larger, so that their order shows
        axes.set(title=title, xlabel="after layer (0: the embedding)", ylabel="probability")
        axes.set(ylim=(-0.03 * top, 1.03 if top > 0.5 else 1.2 * top))
        axes.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside right upper")
        png = as_png(figure)
    rows = []
    for i in range(count):
        name = max(values, key=lambda one: values[one][i])
        high = values[name][i]
        told = f"{high:.1f}" if top > 0.5 else f"{high:.3f}"
        rows.append([str(i), *([visible(name), told] if high >= 0.05 * top else ["-", ""])])
    head = ["layer", "most probable", "probability"]
    return Shown(as_text(head, rows, numbers=False), png=png)


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    title: str = "",
    x: str = "",
    y: str = "",
    level: Mapping[str, float] | None = None,
    number: str = "{:.1f}",
) -> Shown:
    """Lines through points, like a loss over training steps.

    Args:
        lines: (x, y) points by name, in the order they are joined.
        title: says what the picture shows.
        x: the horizontal axis's name.
        y: the vertical axis's name.
        level: heights of dashed lines across the picture, by name.
        number: how a height is written in the text. The text is compared, so round well above
            the noise.

    Returns:
        The picture; its text names each line's first and last point.
    """
    with canvas() as (figure, axes):
        for name, points in lines.items():
            marker = "o" if len(points) < 15 else ""
            axes.plot([p for p, _ in points], [q for _, q in points], label=name, marker=marker)
        for i, (name, height) in enumerate((level or {}).items()):
            colour = PALETTE[(len(lines) + i) % len(PALETTE)]
            axes.axhline(height, linestyle="--", label=name, color=colour)
        axes.set(title=title, xlabel=x, ylabel=y)
        figure.legend(loc="outside right upper")
        png = as_png(figure)
    ends = {name: (points[0][1], points[-1][1]) for name, points in lines.items() if points}
    ends.update({name: (height, height) for name, height in (level or {}).items()})
    rows = [[name, number.format(a), number.format(b)] for name, (a, b) in ends.items()]
    return Shown(as_text([title or y, "first", "last"], rows), png=png)
