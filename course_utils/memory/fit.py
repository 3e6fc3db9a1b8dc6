"""Does it fit? A predicted model against a card, several cards, or this machine's free memory.

The check that a lesson runs before it loads anything, so that a model too large ends in a
sentence with the numbers and the rung that fits, not in an out-of-memory error.
"""

import bisect
import functools
import logging
from dataclasses import dataclass
from typing import Any

from course_utils import data, machine
from course_utils.errors import CourseError
from course_utils.memory import predict, shapes
from course_utils.memory.rungs import Rung, rung
from course_utils.units import GIB, size

# Rungs that from_pretrained makes by itself, most exact first: what check() offers.
LOADABLE = ("fp32", "bf16", "fp16", "int8", "nf4", "nf4-dq")


@dataclass(frozen=True)
class Card:
    """One GPU model from data/gpus.json.

    Attributes:
        usable_bytes: what PyTorch sees as its total capacity.
        capability: CUDA compute capability, like (7, 5).
        bandwidth_gb_s: memory bandwidth, GB of 10**9 bytes a second.
    """

    name: str
    total_gib: float
    usable_gib: float
    capability: tuple[int, int]
    bf16_native: bool
    bandwidth_gb_s: float

    @property
    def usable_bytes(self) -> int:
        """Usable memory in bytes."""
        return int(self.usable_gib * GIB)


@dataclass(frozen=True)
class Fit:
    """Whether a model fits on one card or several.

    Attributes:
        needed: predicted peak bytes on each card, in order.
        usable: usable bytes of one card.
        reason: why it does not fit; empty where it does.
    """

    card: str
    needed: list[int]
    usable: int
    reason: str = ""

    @property
    def ok(self) -> bool:
        """Whether it fits."""
        return not self.reason

    def __bool__(self) -> bool:
        """The same as `ok`, for `if fit.fits(...):`."""
        return self.ok

    def __str__(self) -> str:
        """One line."""
        need = " + ".join(size(n) for n in self.needed)
        count = f"{len(self.needed)} x " if len(self.needed) > 1 else ""
        answer = "fits" if self.ok else f"does not fit: {self.reason}"
        return f"{count}{self.card}: needs {need} of {size(self.usable)}, {answer}"

    __repr__ = __str__


def cards() -> list[Card]:
    """The common cards, smallest first, with their source in data/gpus.json."""
    fields = Card.__dataclass_fields__
    rows = [{k: v for k, v in row.items() if k in fields} for row in data.table("gpus")["cards"]]
    found = [Card(**{**row, "capability": tuple(row["capability"])}) for row in rows]
    return sorted(found, key=lambda card: card.usable_gib)


def card(name: str) -> Card:
    """The card of that name.

    Raises:
        CourseError: it is not in the list.
    """
    for known in cards():
        if known.name == name:
            return known
    raise CourseError(
        f"There is no card {name!r} in the list.",
        "It has " + ", ".join(c.name for c in cards()) + ".",
        "Write one of these, or make a fit.Card with your card's figures.",
    )


def too_old(r: Rung, capability: tuple[int, int]) -> str:
    """Why a CUDA card of this compute capability cannot run the rung; empty where it can."""
    if capability >= r.capability:
        return ""
    need, have = (".".join(map(str, c)) for c in (r.capability, capability))
    return f"{r.name} needs compute capability {need}, this card has {have}"


def fits(
    config: Any, rung_name: str, on: Card, batch: int = 1, length: int = 2048, count: int = 1
) -> Fit:
    """Whether a model on a rung fits one card, or `count` equal ones split by `device_map="auto"`.

    Args:
        config: a model's config.
        rung_name: a rung of the ladder.
        on: the card.
        batch: sequences at once.
        length: tokens of context in each, prompt included.
        count: number of cards.

    Returns:
        A `Fit`, true where it fits.

    Raises:
        CourseError: no config, card, rung or count, or a model that cannot be predicted.
    """
    if not isinstance(on, Card):
        raise CourseError(
            f"{str(on)[:40]!r} is no card.",
            "A card has figures: its memory, its compute capability.",
            f'Write fit.card("{on}").' if isinstance(on, str) else 'Write fit.card("T4").',
        )
    predict.whole(batch=batch, length=length, count=count)
    if count == 1:
        needed = [predict.inference(config, rung_name, batch, length).total]
    else:
        needed = split(config, rung_name, on.usable_bytes, count, batch, length)
    reason = too_old(rung(rung_name), on.capability)
    if not reason and not needed:
        reason = "device_map='auto' would put layers on the CPU"
    elif not reason and max(needed) > on.usable_bytes:
        reason = f"{size(max(needed) - on.usable_bytes)} too much"
    return Fit(on.name, needed, on.usable_bytes, reason)


def context_left(config: Any, rung_name: str, on: Card, count: int = 1) -> int:
    """The longest context, in tokens, that still fits one sequence; 0 for none.

    Not cut at what the model was trained for (`max_position_embeddings`).
    """

    def too_long(length: int) -> bool:
        return not fits(config, rung_name, on, 1, length, count)

    most = 2048
    while not too_long(most):
        most *= 2
    return bisect.bisect_left(range(1, most), True, key=too_long)


class _ElementSizes:
    """What transformers asks a quantizer while it splits a model: bytes for each element.

    bitsandbytes is counted as transformers counts it, by bits alone, and leaves a tenth of each
    card free (`adjust_max_memory` in its bitsandbytes quantizers).
    """

    def __init__(self, model: Any, r: Rung) -> None:
        self.linear = {f"{path}.weight" for path in shapes.quantized_layers(model)}
        self.rung = r

    def param_element_size(self, model: Any, name: str, tensor: Any) -> float:
        if name in self.linear:
            return self.rung.bits / 8
        return (
            predict.BYTES[self.rung.dtype] if tensor.is_floating_point() else tensor.element_size()
        )

    def adjust_max_memory(self, max_memory: dict[Any, float]) -> dict[Any, float]:
        share = 0.9 if self.rung.kind in ("int8", "bnb4") else 1.0
        return {where: n * share for where, n in max_memory.items()}

    def validate_environment(self, **_: Any) -> None:
        pass


def split(
    config: Any, rung_name: str, usable: int, count: int, batch: int = 1, length: int = 2048
) -> list[int]:
    """Peak bytes on each of `count` equal cards, split by the code behind `device_map="auto"`.

    Each card has its layers' weights, scales and cache, one layer's activations at a time, and the
    framework's overhead; whole decoder layers stay together.

    Returns:
        Bytes for each card; an empty list where layers would be left over for the CPU.
    """
    r = rung(rung_name)
    places = _places(shapes.Key(config), r, usable - predict.CUDA_OVERHEAD, count)
    if not all(isinstance(place, int) for place in places.values()):
        return []
    return _bytes_by_card(config, r, places, count, batch, length)


@functools.lru_cache(maxsize=64)
def _places(key: shapes.Key, r: Rung, room: int, count: int) -> dict[str, Any]:
    """{module: card number, or "cpu"} for `count` cards with `room` bytes each."""
    from transformers.integrations.accelerate import _get_device_map

    model = shapes.on_meta(key.config)
    sizes: Any = _ElementSizes(model, r)
    log = logging.getLogger("accelerate.utils.modeling")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns that the cards are not in this machine
    try:
        return _get_device_map(model, "auto", dict.fromkeys(range(count), room), sizes)
    finally:
        log.setLevel(level)


def _bytes_by_card(
    config: Any, r: Rung, places: dict[str, int], count: int, batch: int, length: int
) -> list[int]:
    """Peak bytes on each card, given which module goes where."""
    from transformers.integrations.accelerate import expand_device_map

    tensors, layers = shapes.shapes(config), shapes.layers(config)
    caches = predict.cache_by_layer(config, r.name, batch, length)
    homes = expand_device_map(places, [*(t.path for t in tensors), *layers])
    lost = [path for path, home in homes.items() if not isinstance(home, int)]
    if lost or len(layers) != len(caches):
        raise CourseError(
            f"How a {config.model_type} model is split over several cards cannot be predicted.",
            f"It is not said where {lost[0]} goes."
            if lost
            else "Its cache is not one part for each layer.",
            "Ask for one card, count=1, or load it with device_map='auto'.",
        )
    needed = [predict.activations(config, r.name, batch, length) + predict.CUDA_OVERHEAD] * count
    for t in tensors:
        needed[homes[t.path]] += sum(predict.bytes_of(t, r))
    for path, cache in zip(layers, caches, strict=True):
        needed[homes[path]] += cache
    return needed


def check(
    config: Any, rung_name: str, batch: int = 1, length: int = 2048, limit: int | None = None
) -> predict.Inference:
    """Look before loading: can this model run on this rung, here?

    Args:
        config: the model's config, from its folder, with what it says about quantization.
        rung_name: a rung of the ladder.
        batch: sequences at once.
        length: tokens of context in each.
        limit: bytes to stay under; by default what the first GPU, or the RAM, has free.

    Returns:
        The prediction, where it fits.

    Raises:
        CourseError: unknown rung, a checkpoint quantized in another way, a group size that does
            not divide, a GPU too old for the rung, or not enough memory.
    """
    r = rung(rung_name)
    check_checkpoint(config, r)
    gpus = machine.gpus()
    where, free = "this machine's memory", machine.ram_bytes()[1]
    if gpus:
        where, free = gpus[0].name, gpus[0].free_bytes
    capability = gpus[0].capability if gpus and gpus[0].kind == "cuda" else None
    if capability and (old := too_old(r, capability)):
        instead = "fp16" if r.kind == "float" or capability < rung("nf4").capability else "nf4"
        raise CourseError(f"{where} is too old for {r.name}.", f"{old}.", f"Take {instead} there.")
    if limit is not None:
        where, free = "the limit", limit
    # free memory is what is left beside this process's CUDA context: it is counted already
    on = {"gpu": capability is not None, "started": limit is None}
    need = predict.inference(config, rung_name, batch, length, **on)
    if need.total > free:
        raise CourseError(
            f"This model does not fit: {rung_name} needs {size(need.total)}, "
            f"{where} has {size(free)}.",
            ", ".join(f"{part} {size(n)}" for part, n in need.parts.items()) + ".",
            _way_out(config, free, batch, length, capability, on),
        )
    return need


def _way_out(
    config: Any,
    free: int,
    batch: int,
    length: int,
    capability: tuple[int, int] | None,
    on: dict[str, bool],
) -> str:
    """The most exact rung that fits, or what else to do."""
    for name in LOADABLE:
        if capability and too_old(rung(name), capability):
            continue
        total = predict.inference(config, name, batch, length, **on).total
        if total <= free:
            return f"Take the rung {name}: it needs {size(total)}."
    last = LOADABLE[-1]
    smallest = predict.inference(config, last, 1, 256, **on).total
    if smallest <= free:
        return f"Take {last} with batch 1 and a shorter context: 256 tokens need {size(smallest)}."
    return "No rung fits: take a smaller model, free memory, or use a larger card."


def check_checkpoint(config: Any, r: Rung) -> None:
    """Raise `CourseError` where the checkpoint is quantized already, and not as the rung says."""
    found = getattr(config, "quantization_config", None)
    if not found:
        return
    saved = found if isinstance(found, dict) else found.to_dict()
    method, bits = saved.get("quant_method"), saved.get("bits")
    eight = bool(saved.get("load_in_8bit"))
    if method == "bitsandbytes" or eight or saved.get("load_in_4bit"):  # the first ones named none
        method, bits = "bitsandbytes", 8 if eight else 4
        code = "" if eight else saved.get("bnb_4bit_quant_type", "fp4")
        same = (r.kind, r.code) == ("int8" if eight else "bnb4", code)
        same = same and r.double_quant == bool(saved.get("bnb_4bit_use_double_quant"))
    else:
        same = method == "gptq" == r.kind and (bits, saved.get("group_size")) == (
            r.bits,
            r.group_size,
        )
    if not same:
        held = f"{method or 'by a method it does not name'}" + (f", {bits} bit" if bits else "")
        raise CourseError(
            f"This checkpoint is already quantized ({held}), so it cannot be loaded as {r.name}.",
            "Quantized weights have lost what another format would need.",
            "Load it with plain from_pretrained, or take the fp16 checkpoint and quantize that.",
        )
