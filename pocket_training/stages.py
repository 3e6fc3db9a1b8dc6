"""The four stages of a training: their steps on this machine, their rates, their optimizers."""

import math
from dataclasses import dataclass, replace

import torch

from pocket_training.model import Learner
from pocket_training.muon import Muon

# Two cores have arithmetic for small steps only. A GPU is idle most of even a large one: fewer and
# larger steps, with their batches made by other processes meanwhile.
PLANS = {
    "cpu": {
        "reading": 3800,
        "answering": 1000,
        "quoting": 1200,
        "polishing": 2300,
        "again": 1500,
        "bags": 6,
        "scale": 1,
        "workers": 1,
        "every": 200,
    },
    "cuda": {
        "reading": 2850,
        "answering": 250,
        "quoting": 470,
        "polishing": 2060,
        "again": 1500,
        "bags": 3,
        "scale": 4,
        "workers": 3,
        "every": 500,
    },
}
GENTLE = 0.6  # of polishing's rates, for a finished model


@dataclass(frozen=True)
class Stage:
    """A stretch of training: its peak learning rates, and how long the weights are averaged."""

    name: str
    steps: int
    tokens: int = 2048  # of judged text in a step
    noise: float = 0.05  # the share of its words that is hidden
    judged: float = 0.5  # the weight of its loss, against dialogues and copies
    prompts: float = 0.6  # the share of it that stands in prompts
    dialogues: int = 1  # batches of them in a step
    spoken: int = 2048  # tokens of such a batch
    copied: int = 0  # tokens of copies in a step
    warm_up: int = 20  # steps
    layers: float = 1e-3  # the matrices inside the layers; AdamW has the rest
    embeddings: float = 0.75e-3
    output: float = 2e-3
    other: float = 1.5e-3
    keep: float = 0.99

    def share(self, step: int) -> float:
        """The share of the peaks at a step: linear warm-up, and a cosine down to 2 %."""
        rise = min(1.0, (step + 1) / self.warm_up)
        return rise * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))

    def optimizers(self, learner: Learner) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the layers (fewer steps than AdamW alone), else AdamW."""
        model = learner.model
        inside = [p for p in model.model.layers.parameters() if p.dim() > 1]
        other = [p for p in model.parameters() if p.dim() == 1] + list(learner.heads.parameters())
        table, output = [model.model.embed_tokens.weight], [model.lm_head.weight]
        adam = [
            {"params": table, "peak": self.embeddings, "weight_decay": 0.05},
            {"params": output, "peak": self.output, "weight_decay": 0.05},
            {"params": other, "peak": self.other, "weight_decay": 0.0},
        ]
        return [
            Muon([{"params": inside, "peak": self.layers, "weight_decay": 0.1}]),
            torch.optim.AdamW(adam, betas=(0.9, 0.98), fused=True),
        ]


def stages(*steps: int) -> tuple[Stage, ...]:
    """The four stages with their numbers of `steps`."""
    reading, answering, quoting, polishing = steps
    return (
        Stage(
            "reading",
            reading,
            tokens=4096,
            judged=1.0,
            prompts=0.0,
            dialogues=0,
            layers=1.6e-3,
            embeddings=1.6e-3,
            output=0.0,
            other=2.4e-3,
            warm_up=40,
            keep=0.995,
        ),
        Stage("answering", answering, dialogues=2),
        Stage("quoting", quoting, copied=1024, layers=1.2e-3),
        Stage(
            "polishing",
            polishing,
            tokens=3072,
            noise=0.0,
            judged=0.7,
            copied=256,
            embeddings=6e-4,
            output=1e-3,
            other=1e-3,
        ),
    )


def again(steps: int) -> tuple[Stage, ...]:
    """The one stage of a finished model that learns on: gentler polishing with more quoting."""
    polishing = stages(0, 0, 0, steps)[-1]
    rates = {
        name: GENTLE * getattr(polishing, name)
        for name in ("layers", "embeddings", "output", "other")
    }
    return (replace(polishing, name="again", judged=0.6, copied=512, keep=0.995, **rates),)
