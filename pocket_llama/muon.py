"""Muon in single precision: `torch.optim.Muon` computes in bf16, which many CPUs only emulate.

On a CPU without bf16 arithmetic the orthogonalization of torch's own Muon takes ten seconds a
step for this model, in single precision half a second. The update is the same (K. Jordan and
others, "Muon: An optimizer for hidden layers in neural networks", 2024).
"""

from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz step, from the source


def orthogonalized(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The matrix with all its singular values drawn close to 1 (roughly 0.7 to 1.2)."""
    a, b, c = COEFFICIENTS
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized; for matrices only. Step sizes match AdamW's (arXiv 2502.16982)."""

    def __init__(self, params: Iterable, momentum: float = 0.95) -> None:
        """Each group gives its own `weight_decay`; `lr` is set before each step."""
        super().__init__(params, {"lr": 0.0, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                held = self.state[p].setdefault("momentum", torch.zeros_like(p))
                held.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonalized(p.grad.lerp(held, group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)
