"""Muon in single precision: `torch.optim.Muon` computes in bf16, which many CPUs only emulate.

On a CPU without bf16 arithmetic the orthogonalization of torch's own Muon takes ten seconds a
step for this model, in single precision half a second. The update is the same (K. Jordan and
others, "Muon: An optimizer for hidden layers in neural networks", 2024).
"""

from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz step, from the source


def orthogonalized(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The matrices (…, n, m) with their singular values drawn close to 1 (some 0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized; for matrices only. Step sizes match AdamW's (arXiv 2502.16982).

    Matrices of one shape are orthogonalized together: Pocket Llama's 28 are of three shapes, and on
    a GPU it is the number of calls that counts.
    """

    def __init__(self, params: Iterable, momentum: float = 0.95) -> None:
        """Each group gives its own `weight_decay`; `lr` is set before each step."""
        super().__init__(params, {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    alike.setdefault(p.shape, []).append(p)
            for shape, params in alike.items():
                grads = [p.grad for p in params if p.grad is not None]
                held = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
                torch._foreach_lerp_(held, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, held, group["momentum"])
                updates = orthogonalized(torch.stack(ahead)).unbind()
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_add_(params, updates, alpha=-rate)
