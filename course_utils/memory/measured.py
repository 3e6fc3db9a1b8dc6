"""What a load or a generation really took, and the proof that it was given back.

    with memory.measure() as used:
        model = AutoModelForCausalLM.from_pretrained(...)
    print(used)
    del model
    print(memory.free())

Tensor bytes are exact on every device: they are counted storage by storage. The peak is the
allocator's own on CUDA, sampled on Apple's MPS, and on the CPU, whose allocator keeps no count,
followed operation by operation where `measure(watch=True)` asks for it.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from course_utils.errors import CourseError
from course_utils.memory import counters, holders, tensors
from course_utils.memory.rungs import PARTS, part_of
from course_utils.units import size

TABLE_BYTES = 4096


@dataclass
class Used:
    """What one `measure()` block took. Bytes; filled in when the block ends.

    Attributes:
        device: `cuda`, `mps` or `cpu`.
        before: tensor bytes alive at the start, on that device.
        kept: tensors made inside and still alive at the end, on whatever device.
        peak: most tensor bytes held at once above the start; None on a CPU without `watch`.
        reserved_peak: most that PyTorch's CUDA allocator held from the card, spare blocks too.
        resident: growth of the process's resident memory (RAM), which the system rounds and delays.
        resident_peak: its largest growth inside the block, sampled.
        seconds: wall-clock time of the block.
    """

    device: str = "cpu"
    before: int = 0
    kept: int = 0
    peak: int | None = None
    reserved_peak: int | None = None
    resident: int = 0
    resident_peak: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        """One line a figure."""
        lines = [f"kept      {size(self.kept):>12}  tensors made here and still alive"]
        if self.peak is not None:
            lines.append(
                f"peak      {size(self.peak):>12}  most tensor bytes at once ({self.device})"
            )
        if self.reserved_peak is not None:
            lines.append(
                f"reserved  {size(self.reserved_peak):>12}  most that PyTorch took from the card"
            )
        lines.append(
            f"process   {size(self.resident):>12}  RAM, {size(self.resident_peak)} at most"
        )
        lines.append(f"time      {self.seconds:>10.2f} s")
        return "\n".join(lines)

    __repr__ = __str__


@dataclass
class Freed:
    """Whether the tensors are gone. Bytes.

    Attributes:
        held: tensors made since the baseline that are still alive; 0 means it is reached.
        holders: (who holds them, bytes), largest first.
        below_python: what CUDA's allocator holds above the baseline and no Python tensor explains.
        library_tables: tensors of at most 4 KiB that no variable leads to, like bitsandbytes' NF4
            levels: a library keeps them for good, once; not counted as held.
    """

    held: int
    holders: list[tuple[str, int]] = field(default_factory=list)
    below_python: int = 0
    library_tables: int = 0

    @property
    def returned(self) -> bool:
        """Whether memory is back at the baseline, to the byte."""
        return self.held == 0 and self.below_python == 0

    def __str__(self) -> str:
        """A sentence, and what to do where something is still held."""
        if self.returned:
            return "0 bytes held: back at the baseline"
        lines = [f"{size(self.held)} still held above the baseline"]
        lines += [f"  {size(n):>12}  by {who}" for who, n in self.holders]
        names = [who for who, _ in self.holders if who.isidentifier()] or ["it"]
        if self.held:
            lines.append(f"Next: del {', '.join(names)}, then call memory.free() again.")
        if self.below_python:
            lines.append(
                f"  {size(self.below_python):>12}  below Python: most often an autograd graph"
                " behind a variable like loss. Next: del it, or use torch.inference_mode()."
            )
        return "\n".join(lines)

    __repr__ = __str__


# What free() compares with: the tensors alive and CUDA's bytes at the start of a first block.
_baseline: tuple[dict[int, tensors.Storage], int] | None = None
_clean = True
_open: list[counters.Block] = []


@contextlib.contextmanager
def measure(watch: bool = False) -> Iterator[Used]:
    """Measure what happens inside the `with` block.

    The first block since memory was last clean also sets the baseline for `free()`.

    Args:
        watch: on a CPU, follow every operation to get the exact peak of tensor bytes. It slows
            small models by about half, so don't take speeds inside such a block. A GPU's
            allocator knows its peak anyway.

    Yields:
        A `Used`, empty until the block ends.
    """
    global _baseline, _clean
    for outer in _open:
        outer.note_peaks()
    used, block = Used(), counters.Block()
    if _clean:
        _baseline, _clean = (block.tensors_before, block.requested_before), False
    _open.append(block)
    follow = watch and block.device == "cpu"
    watched = tensors.watch(block.tensors_before) if follow else None
    try:
        with watched or contextlib.nullcontext():
            yield used
    finally:
        _open.remove(block)
        _fill(used, block, watched)


def _fill(used: Used, block: counters.Block, watched: Any) -> None:
    """Close the block and write its figures into `used`."""
    used.kept = sum(s.nbytes for s in block.close().values())
    used.device, used.before, used.seconds = block.device, block.before, block.seconds
    used.resident = block.resident - block.resident_before
    used.resident_peak = block.resident_peak - block.resident_before
    if block.device == "cuda":
        used.reserved_peak = block.reserved_peak
    if block.device != "cpu":
        used.peak = block.peak - block.before
    elif watched is not None:
        used.peak = watched.peak


def free() -> Freed:
    """Collect what nothing refers to any more, hand it back, and compare with the baseline.

    Delete your own variables first (`del model`); what still holds memory is named in the result.
    What the notebook itself still holds of them, in shown results (`Out`, `_`) or in the last
    error, is cleared; everything else that it remembers stays.

    Raises:
        CourseError: no `measure()` block came before, so there is no baseline.
    """
    global _clean
    if _baseline is None:
        raise CourseError(
            "There is no baseline to compare with.",
            "memory.free() checks against the start of the first memory.measure() block.",
            "Load the model inside `with memory.measure() as used:`, then del it and free().",
        )
    before, requested_before = _baseline
    made = tensors.since(before)
    for forget in (holders.forget_displayed, holders.clear_finished_frames):
        if made:
            forget(made)
            made = tensors.since(before)
    counters.settle()
    names, nameless = holders.named(made) if made else ([], set())
    tables = {a for a in nameless if made[a].nbytes <= TABLE_BYTES}
    names += holders.by_kind({a: made[a] for a in nameless - tables})
    freed = Freed(
        held=sum(s.nbytes for a, s in made.items() if a not in tables),
        holders=names,
        library_tables=sum(made[a].nbytes for a in tables),
    )
    if counters.device() == "cuda":
        grown = counters.cuda(counters.REQUESTED) - requested_before
        freed.below_python = max(0, grown - _on_cuda(made) + _on_cuda(tensors.gone(before)))
    _clean = freed.returned
    return freed


def _on_cuda(storages: dict[int, tensors.Storage]) -> int:
    """How many of these bytes are on a CUDA card."""
    return sum(s.nbytes for s in storages.values() if s.device.startswith("cuda"))


def tensor_bytes(model: Any) -> dict[str, int]:
    """Bytes of a loaded model, counted on its tensors, by the parts that `predict.weights` uses.

    Returns:
        `embeddings`, `attention`, `mlp`, `norms`, `head`, `scales` (a quantized layer's scales,
        zeros and tables), `buffers`, in this order, the empty ones left out. Shared storages count
        once. Unlike `get_memory_footprint()`, which leaves bitsandbytes' scales out.
    """
    parts = dict.fromkeys(PARTS, 0)
    seen: set[int] = set()
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for path, module in model.named_modules():
        for name, tensor in tensors.of_module(module):
            place = tensors.storage_of(tensor)
            if place is None or place[0] in seen or not place[1]:
                continue
            seen.add(place[0])
            if name in ("weight", "bias", "qweight"):
                part = "head" if module is head else part_of(path)
            elif name in module._buffers and not hasattr(module, "qweight"):
                part = "buffers"
            else:
                part = "scales"
            parts[part] += place[1]
    return {part: n for part, n in parts.items() if n}
