"""Lesson 04's ladder in one table and one chart, and recorded runs where nothing can be measured.

A row is a dict that the lesson fills while it climbs: `predicted` and `measured` bytes, `load s`,
`tokens/s`, `perplexity`, `right` of `reviews`, `same` (share of labels equal to fp16's). A row
that comes from a reference run has `recorded`: by which machine and when. This module loads no
model.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from course_utils import data, models, plots
from course_utils.memory import predict
from course_utils.plots import Shown
from course_utils.sentiment import interval
from course_utils.units import MIB, size

Row = dict[str, Any]
FOLDER = data.FOLDER / "reference_runs"
HEAD = (
    *("rung", "bits", "predicted", "measured", "of\nfp16", "load\ns", "tok/s"),
    *("perpl.", "accuracy\n(95 %)", "same"),
)
STAR = "*"


def runs() -> list[Row]:
    """The reference runs in the package, in the order of their files' names."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def label(run: Row) -> str:
    """Where and when a reference run was recorded, in one phrase; and whether it had company."""
    device = run["device"]
    busy = device.get("load_before", 0) > device.get("cores", 1) / 2
    beside = " (other programs slowed it down)" if busy else ""
    return f"recorded on {device['name']}, {run['date']}{beside}"


def of_model(config: Any) -> Row | None:
    """The newest reference run of a checkpoint with this config; None where there is none."""
    same = [
        run
        for run in runs()
        if run["model"]["weights"] == "checkpoint"
        and all(getattr(config, k, None) == v for k, v in run["model"]["config"].items())
    ]
    return max(same, key=lambda run: run["date"], default=None)


def recorded(config: Any, folder: str | Path, name: str) -> Row | None:
    """A row of the ladder out of a reference run; None where that rung of that model has none.

    Bytes hang on the model's sizes alone. Perplexity and labels are those of one training: they
    are left out where the weights in `folder` are not the ones that were recorded.

    Args:
        config: the model's config.
        folder: of its checkpoint.
        name: a rung.
    """
    run = of_model(config)
    found = next((r for r in run["rungs"] if r["rung"] == name), None) if run else None
    if run is None or found is None or "measured" not in found:
        return None
    row = {
        "predicted": found["predicted"]["weights_bytes"],
        "measured": found["measured"]["weights_bytes"],
        "load s": found["measured"]["load_s"],
        "tokens/s": found["measured"]["decode_tokens_s"],
        "recorded": label(run),
    }
    if found["quality"] and run["model"]["fingerprint"] == models.fingerprint(folder):
        quality = found["quality"]
        row |= {name: quality[name] for name in ("perplexity", "right", "reviews")}
        row["same"] = quality["same_as_fp16"]
    return row


def exchange(config: Any) -> Shown | None:
    """Who reads whose GPTQ checkpoint, as recorded; None where that has not been recorded."""
    run = of_model(config)
    if run is None or not run["exchange"]:
        return None
    rows = [
        (f"{r['made_by']} to {r['read_by']}", r["how"], f"{r['perplexity']:.2f}")
        for r in run["exchange"]
    ]
    return plots.table(("made by, read by", "how", "perplexity"), rows, [label(run)])


def of_run(run: Row) -> Shown:
    """A reference run's rungs in one table, with what was measured there."""
    name = f"{run['model']['name']}, {label(run)}"
    kept = [rung for rung in run["rungs"] if "measured" in rung]
    base = next((r["predicted"]["weights_bytes"] for r in kept if r["rung"] == "fp16"), None)
    rows = []
    for rung in kept:
        found, quality = rung["measured"], rung["quality"] or {}
        rows.append(
            (
                rung["rung"],
                size(rung["predicted"]["weights_bytes"]),
                size(found["weights_bytes"]),
                f"{found['weights_bytes'] / base:.2f}" if base else "-",
                f"{found['decode_tokens_s']:.0f}" if "decode_tokens_s" in found else "-",
                f"{quality['perplexity']:.2f}" if quality else "-",
            )
        )
    return plots.table(
        ("rung", "predicted", "measured", "of fp16", "tok/s", "perpl."), rows, [name]
    )


def change(found: Sequence[str], before: Sequence[str], true: Sequence[str]) -> Row:
    """What a rung changes on the same reviews: points of accuracy, signed, with their interval.

    Both models read the same reviews, so only those count that one of them gets right and the
    other wrong. The interval is Agresti and Min's for matched pairs (Statistics in Medicine 24,
    2005, 729): a half is added to each of the four counts.

    Args:
        found: the rung's labels.
        before: the labels it is compared with.
        true: the right ones.

    Returns:
        `better` and `worse` (reviews), `points` (percent of all), and `low` and `high` (95 %).
    """
    triples = list(zip(found, before, true, strict=True))
    better = sum(f == t != b for f, b, t in triples)
    worse = sum(b == t != f for f, b, t in triples)
    n = len(triples) + 2
    middle = (better - worse) / n
    half = 1.96 * math.sqrt((better + worse + 1) / n - middle**2) / math.sqrt(n)
    return {
        "better": better,
        "worse": worse,
        "points": 100 * (better - worse) / len(triples),
        "low": 100 * (middle - half),
        "high": 100 * (middle + half),
    }


def table(rows: Mapping[str, Row], config: Any) -> Shown:
    """All rungs in one table.

    Args:
        rows: the ladder, by rung.
        config: the model's config, for the bits a weight.
    """
    base = predict.weights(config, "fp16").total
    lines = [_line(name, row, config, base) for name, row in _down(rows).items()]
    notes = sorted({row["recorded"] for row in rows.values() if "recorded" in row})
    below = [f"{STAR} {note}: seconds and speed are that machine's" for note in notes]
    most = max((row.get("reviews", 0) for row in rows.values()), default=0)
    for name, row in rows.items():
        if row.get("reviews", most) < most:
            below.append(f"{name}: {row['reviews']} of {most} reviews, for lack of time")
    return plots.table(HEAD, lines, below)


def _down(rows: Mapping[str, Row]) -> dict[str, Row]:
    """The rungs from the largest to the smallest."""
    return dict(sorted(rows.items(), key=lambda pair: -pair[1]["predicted"]))


def _line(name: str, row: Row, config: Any, base: int) -> list[str]:
    """One rung's cells."""
    accuracy = "-"
    if "right" in row:
        low, high = interval(row["right"], row["reviews"])
        accuracy = f"{row['right'] / row['reviews']:.3f}\n({low:.2f} to {high:.2f})"
    return [
        name + STAR * ("recorded" in row),
        f"{predict.weights(config, name).bits_per_weight:.2f}",
        size(row["predicted"]).replace(" ", "\n"),
        size(row["measured"]).replace(" ", "\n"),
        f"{row['measured'] / base:.2f}",
        f"{row['load s']:.1f}",
        f"{row['tokens/s']:.0f}",
        f"{row['perplexity']:.2f}" if "perplexity" in row else "-",
        accuracy,
        f"{row['same']:.1%}" if row.get("same") is not None else "-",
    ]


def chart(rows: Mapping[str, Row], model: str) -> Shown:
    """The measured rungs in one picture: bytes, speed, and how often each is right.

    Recorded rungs are left out: another machine's speed does not stand beside this one's.

    Args:
        rows: the ladder, by rung.
        model: which model it was, for the title.

    Returns:
        The picture; its text is the measured MiB of each rung.
    """
    rows = {name: row for name, row in _down(rows).items() if "recorded" not in row}
    title = f"Measured, {model}"
    names = list(rows)
    places = list(range(len(names)))
    with plots.canvas(height=1.3 + 0.33 * len(names), width=9.5) as (figure, first):
        first.remove()
        weight, speed, right = figure.subplots(1, 3, sharey=True)
        sizes = [row["measured"] / MIB for row in rows.values()]
        weight.barh(places, sizes, height=0.6, color=plots.PALETTE[0], label="measured")
        predicted = [row["predicted"] / MIB for row in rows.values()]
        weight.plot(predicted, places, "D", color=plots.PALETTE[1], markersize=5, label="predicted")
        weight.set(title="weights", xlabel="MiB")
        weight.set_yticks(places, names)
        weight.legend(loc="lower right")
        weight.invert_yaxis()
        speeds = [row["tokens/s"] for row in rows.values()]
        speed.barh(places, speeds, height=0.6, color=plots.PALETTE[2])
        speed.set(title="writing", xlabel="tokens/s")
        for place, row in zip(places, rows.values(), strict=True):
            if "right" in row:
                low, high = interval(row["right"], row["reviews"])
                right.plot((low, high), (place, place), color=plots.INK, linewidth=1.2, marker="|")
                right.plot(row["right"] / row["reviews"], place, "o", color=plots.PALETTE[5])
        right.set(title="right, with 95 % interval", xlabel="share of the reviews")
        for axes in (weight, speed, right):
            axes.locator_params(axis="x", nbins=5)
            axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        png = plots.as_png(figure)
    text = [(name, f"{row['measured'] / MIB:.1f}") for name, row in rows.items()]
    return Shown(plots.as_text((title, "MiB"), text), png=png)
