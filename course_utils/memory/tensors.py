"""Which tensors are alive in this process, and how many bytes they hold.

Bytes are counted by storage: views, tied weights and a quantized weight that two objects share
count once. It sees what Python can see; memory below Python (a CUDA context, an allocator's
spare blocks, an autograd graph's saved tensors) is `memory`'s business.
"""

import contextlib
import gc
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError


@dataclass
class Storage:
    """One block of memory that tensors look into.

    Attributes:
        nbytes: its size.
        device: like `cpu` or `cuda:0`.
        tensors: weak references to the tensors that use it.
    """

    nbytes: int
    device: str
    tensors: list[Any]


def storage_of(tensor: Any) -> tuple[int, int, str] | None:
    """(address, bytes, device) of a tensor's storage, or None where it holds no memory."""
    try:
        if tensor.device.type == "meta":
            return None
        storage = tensor.untyped_storage()
        return (storage.data_ptr(), storage.nbytes(), str(tensor.device))
    except (RuntimeError, NotImplementedError):
        # fake and functional tensors have no plain storage
        return None


# What the compressed sparse layouts keep; COO keeps indices and values.
_COMPRESSED = ("crow_indices", "ccol_indices", "col_indices", "row_indices", "values")


def plain(tensor: Any) -> list[Any]:
    """The strided tensors that hold a tensor's numbers: itself, or what a sparse one is made of."""
    import torch

    if tensor.layout is torch.strided:
        return [tensor]
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    found = []
    for name in _COMPRESSED:
        with contextlib.suppress(RuntimeError, NotImplementedError):
            found.append(getattr(tensor, name)())
    return found


def places(tensor: Any) -> list[tuple[int, int, str]]:
    """`storage_of` each of a tensor's `plain` parts, those without memory left out."""
    return [p for part in plain(tensor) if (p := storage_of(part)) and p[1]]


def live() -> dict[int, Storage]:
    """Every storage that some Python tensor uses now, by address. Collects garbage first."""
    gc.collect()
    found: dict[int, Storage] = {}
    torch = sys.modules.get("torch")
    if not hasattr(torch, "Tensor"):
        return found
    tensor_type: type = torch.Tensor  # type: ignore[union-attr]
    for thing in gc.get_objects():
        # type(), not isinstance(): lazy modules answer isinstance with an import
        if issubclass(type(thing), tensor_type):
            add(found, thing)
    return found


def add(found: dict[int, Storage], tensor: Any) -> None:
    """Note a tensor's storages in `found`."""
    for address, nbytes, device in places(tensor):
        storage = found.setdefault(address, Storage(nbytes, device, []))
        storage.tensors.append(weakref.ref(tensor))


def still_there(before: dict[int, Storage]) -> set[int]:
    """Which storages of an earlier `live()` are still in use.

    An address alone proves nothing, it may have been given out again: one of the tensors seen
    then must still be there and still look into it.
    """
    kept = set()
    for address, storage in before.items():
        for reference in storage.tensors:
            tensor = reference()
            if tensor is not None and any(place[0] == address for place in places(tensor)):
                kept.add(address)
                break
    return kept


def since(before: dict[int, Storage]) -> dict[int, Storage]:
    """The storages that are alive now and were not in the earlier `live()`."""
    old = still_there(before)
    return {address: storage for address, storage in live().items() if address not in old}


def gone(before: dict[int, Storage]) -> dict[int, Storage]:
    """The storages of an earlier `live()` that have been given back since."""
    kept = still_there(before)
    return {address: storage for address, storage in before.items() if address not in kept}


def of_module(module: Any) -> Iterator[tuple[str, Any]]:
    """(name, tensor) for all that one layer itself holds, its children left out.

    Parameters and buffers, and what quantization libraries hang on them as plain attributes:
    bitsandbytes' scales (`quant_state`, `SCB`) and lookup tables, GPTQ kernels' own copies.
    """
    todo: list[tuple[str, Any]] = list(vars(module).items())
    todo += list(module._parameters.items()) + list(module._buffers.items())
    seen: set[int] = set()
    children = {id(child) for child in module.children()}
    while todo:
        name, value = todo.pop()
        if id(value) in seen or id(value) in children or value is module:
            continue
        seen.add(id(value))
        if hasattr(value, "untyped_storage"):
            yield name, value
            todo += [(f"{name}.{k}", v) for k, v in getattr(value, "__dict__", {}).items()]
        elif type(value).__module__.startswith(("bitsandbytes.", "gptqmodel.")):
            todo += [(f"{name}.{k}", v) for k, v in getattr(value, "__dict__", {}).items()]


def from_checkpoint(folder: str | Path, name: str) -> Any:
    """One tensor out of a checkpoint's safetensors, in fp32, without loading the model around it.

    Args:
        folder: of the checkpoint.
        name: like `model.layers.0.mlp.gate_proj.weight`.

    Raises:
        CourseError: the checkpoint holds no tensor of that name, as a quantized one does not.
    """
    from safetensors import safe_open

    folder = Path(folder)
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as weights:
            if name in weights.keys():  # noqa: SIM118 - not a dict
                tensor = weights.get_tensor(name)
                if tensor.is_floating_point():
                    return tensor.float()
    raise CourseError(
        f"There is no {name} in the safetensors of {folder.name!r}.",
        "The model is quantized already, of another family, or saved in another format.",
        "Take the fp16 checkpoint of a Llama-family model.",
    )


class _Watch:
    """What `watch` adds to PyTorch's `TorchDispatchMode`, which is not imported before it is used.

    Attributes:
        now: bytes alive that were made inside, less those given back that were there before.
        peak: the largest `now`.
    """

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self.now = self.peak = self.operations = 0
        self.most = most
        self.known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch import Tensor
        from torch.utils._pytree import tree_leaves

        self.operations += 1
        if self.most and self.operations > self.most:
            raise CourseError(
                "Following this model operation by operation would take too long.",
                f"It needs more than {self.most:,} operations: it goes through a text token by "
                "token.",
                "Take a shorter context, or measure it: generate inside memory.measure().",
            )
        kwargs = kwargs or {}
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        old = {id(part.untyped_storage()) for t in given for part in plain(t)}
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.follow(tensor, old)
        return result

    def follow(self, tensor: Any, old: Any = (), new: bool = True) -> None:
        """Count a tensor's storages, unless they are known or `old`; note when they go."""
        if tensor.device.type == "meta":
            return
        for storage in (part.untyped_storage() for part in plain(tensor)):
            key, nbytes = id(storage), storage.nbytes()
            if key in self.known or key in old:
                continue
            self.known[key] = weakref.ref(storage, partial(self.forget, key, nbytes))
            if new:
                self.now += nbytes
                self.peak = max(self.peak, self.now)

    def forget(self, key: int, nbytes: int, _: Any) -> None:
        """A storage is given back."""
        self.known.pop(key, None)
        self.now -= nbytes


def watch(before: dict[int, Storage], most: int | None = None) -> Any:
    """A context manager that follows every tensor operation and keeps the peak of new bytes.

    Its `now` and `peak` are bytes above those of `before`, a `live()` taken at the start; giving
    back what was there before counts too. For the CPU, whose allocator keeps no count: exact for
    what operations return, blind to scratch space inside a kernel. Slows small models by about
    half.

    Args:
        before: what was alive at the start.
        most: operations after which to give up.

    Raises:
        CourseError: from inside the block, after `most` operations.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    watcher = type("Watch", (_Watch, TorchDispatchMode), {})(most)
    for storage in before.values():
        alive = next((t for t in (r() for r in storage.tensors) if t is not None), None)
        if alive is not None:
            watcher.follow(alive, new=False)
    return watcher
