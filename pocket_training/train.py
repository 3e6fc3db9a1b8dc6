"""Train Pocket Llama from scratch: `make model`, or `python -m pocket_training.train`.

Four stages: it learns to read bare reviews, judged word by word by a simpler teacher; then to
answer in the chat format; then to quote a review's words in its answer; then all of it once more
at lower rates. Seeded; resumes from its last checkpoint after an interruption; picks a GPU where
there is one. Weights are averaged over the last steps (an exponential moving average), and the
average is what is saved, as fp16 safetensors, in `course_utils/pocket_llama/`.

With `--start FOLDER` a finished checkpoint learns on, in one stage; with `--teacher FOLDER` a
model that `pretrained.py` has tuned judges in place of the counting teachers.
"""

import argparse
import copy
import itertools
import json
import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import LlamaForCausalLM

from pocket_training import batches, evaluate
from pocket_training.batches import Batch, Beginnings, Encoder
from pocket_training.dialogues import Drawer
from pocket_training.materials import Ahead, Materials, prepare
from pocket_training.model import Learner, save, save_checkpoint
from pocket_training.options import arguments
from pocket_training.stages import Stage, again, stages

NOISE = 0.05  # the share of a dialogue's words that is hidden from the model in a step
PROMPT_SHARE = 0.3  # of the prompts' own tokens, the share that is predicted in a step


def autocast(device: str) -> torch.autocast:
    """bf16 arithmetic where there is hardware for matrices of it; elsewhere fp32 is faster."""
    native = device != "cpu" or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device, torch.bfloat16, enabled=native)


def warm_embeddings(
    model: LlamaForCausalLM, drawer: Drawer, encoder: Encoder, seed: int, passes: int
) -> None:
    """Teach the embeddings in about a minute what single tokens mean for the label.

    A bag of embeddings is trained alone, without the layers above it: the mean of a text's
    embeddings, read by a linear layer (as fastText does, arXiv 1607.01759).
    """
    table = model.model.embed_tokens.weight
    torch.nn.init.normal_(table, std=0.1)
    head = torch.nn.Linear(table.shape[1], 3).to(table.device)
    adam = torch.optim.AdamW([table, *head.parameters()], lr=3e-3, weight_decay=0.05)
    for done, (ids, starts, labels) in batches.bags(drawer, encoder, seed, passes):
        for group in adam.param_groups:
            group["lr"] = 3e-3 * (1 - done)
        ids, starts, labels = (t.to(table.device) for t in (ids, starts, labels))
        means = torch.nn.functional.embedding_bag(ids, table, starts, mode="mean")
        logits = head(torch.nn.functional.dropout(means, 0.2))
        torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.05).backward()
        adam.step()
        adam.zero_grad()


def noised(
    ids: torch.Tensor, allowed: torch.Tensor, rate: float, generator: torch.Generator
) -> torch.Tensor:
    """Replace a share of the words' tokens by `<unk>`, so that no single word is relied on."""
    hit = torch.rand(ids.shape, generator=generator) < rate
    return ids.masked_fill(hit & allowed & (ids > 258), 0)  # up to 258: special tokens and bytes


def token_loss(
    model: LlamaForCausalLM, states: torch.Tensor, batch: Batch, generator: torch.Generator
) -> torch.Tensor:
    """The summed, weighted cross-entropy of the next tokens; `states` are the last layer's.

    All of the answers' tokens count; of the prompts' own a random share stands for the rest,
    since the output head over the whole vocabulary is the dearest part of a step.
    """
    weights = batch.weights[:, 1:].flatten()
    drawn = torch.rand(weights.shape, generator=generator) < PROMPT_SHARE
    weights = torch.where(weights < 0.1, weights * drawn / PROMPT_SHARE, weights)
    chosen = weights.nonzero().flatten()
    weights = torch.nn.functional.pad(weights[chosen], (0, -len(chosen) % 128))
    chosen = torch.nn.functional.pad(chosen, (0, -len(chosen) % 128))  # few shapes, as in batches
    device = states.device
    with autocast(device.type):
        logits = model.lm_head(states.flatten(0, 1)[chosen.to(device)])
    targets = batch.ids[:, 1:].flatten()[chosen].to(device)
    losses = torch.nn.functional.cross_entropy(
        logits.float(), targets, reduction="none", label_smoothing=0.02
    )
    return (losses * weights.to(device)).sum()


class Training:
    """A training under way: the learner, its running average, and how far it has come."""

    def __init__(self, args: argparse.Namespace, materials: Materials) -> None:
        """Start anew; `resume` goes on from a checkpoint's state instead."""
        self.args, self.materials = args, materials
        steps = (args.reading, args.answering, args.quoting, args.polishing)
        self.plan = again(args.again) if args.start else stages(*steps)
        *self.starts, self.total = itertools.accumulate((s.steps for s in self.plan), initial=0)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.learner = Learner(materials.tokenizer.get_vocab_size(), args.dropout, args.layers).to(
            self.device
        )
        layers = self.learner.model.model
        self.forward = torch.compile(layers, dynamic=True) if args.compile else layers
        self.average = copy.deepcopy(self.learner).eval()
        self.optimizers: list[torch.optim.Optimizer] = []
        self.stream: Iterator[list[Beginnings | Batch]] = iter(())
        self.log: list[dict] = []
        self.done, self.running = 0, 0.0
        self.began = time.time()

    def state(self) -> dict:
        """All that a later call needs to go on as if there had been no interruption."""
        return {
            "settings": self.materials.settings,
            "learner": self.learner.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "done": self.done,
            "log": self.log,
            "running": self.running,
            "spent": time.time() - self.began,
        }

    def resume(self, state: dict) -> None:
        """Go on from a checkpoint. Raises `ValueError` where it is of another training."""
        if state["settings"] != self.materials.settings:
            raise ValueError("of a run with other settings or another corpus")
        self.learner.load_state_dict(state["learner"])
        self.average.load_state_dict(state["average"])
        self.done, self.log, self.running = state["done"], state["log"], state["running"]
        self.began = time.time() - state["spent"]
        self.enter(state["optimizers"])

    def warm(self) -> None:
        """Teach the embeddings first, or a finished model's new heads."""
        seed, passes = self.args.seed, self.args.bags
        drawer, encoder = self.materials.drawer, self.materials.encoder
        if self.args.start:
            start = LlamaForCausalLM.from_pretrained(self.args.start, dtype=torch.float32)
            self.learner.begin_from(start)
            self.fit_heads()
        else:
            warm_embeddings(self.learner.model, drawer, encoder, seed, passes)
        self.average.load_state_dict(self.learner.state_dict())
        self.enter()

    def fit_heads(self, steps: int = 150) -> None:
        """Fit the training-only heads alone, which a finished model has no longer."""
        adam = torch.optim.AdamW(self.learner.heads.parameters(), lr=5e-3, fused=True)
        texts = self.materials.steps("heads", 3072, 0.0, dialogues=0, spoken=0, copied=0)
        for part, *_ in itertools.islice(texts, steps):
            assert isinstance(part, Beginnings)
            with torch.no_grad(), autocast(self.device):
                ids = part.ids.to(self.device)
                out = self.learner.model.model(ids, use_cache=False, output_hidden_states=True)
            self.learner.reading_loss(out, part).backward()
            adam.step()
            adam.zero_grad()

    @property
    def stage(self) -> Stage:
        """The stage of the step that comes next."""
        return self.plan[sum(self.done >= start for start in self.starts[1:])]

    @property
    def step_in_stage(self) -> int:
        """How many steps of the stage are done."""
        return self.done - max(start for start in self.starts if start <= self.done)

    def enter(self, held: list[dict] | None = None) -> None:
        """Begin the stage, or go on within it with the optimizers' `held` states."""
        self.optimizers = self.stage.optimizers(self.learner)
        if self.step_in_stage and held:
            for optimizer, state in zip(self.optimizers, held, strict=True):
                optimizer.load_state_dict(state)
        if self.done and not self.step_in_stage:  # the next stage starts from the average
            self.learner.load_state_dict(self.average.state_dict())
            if self.stage.name == "quoting":
                self.learner.tie()
        stage = self.stage
        make = partial(
            self.materials.steps,
            tokens=self.args.scale * stage.tokens,
            prompts=stage.prompts,
            dialogues=stage.dialogues,
            spoken=self.args.scale * stage.spoken,
            copied=self.args.scale * stage.copied,
        )
        seed = f"{self.args.seed}:{stage.name}"
        self.stream = Ahead(make, seed, self.args.workers, self.step_in_stage).loaded()

    def loss(self, part: Beginnings | Batch, generator: torch.Generator) -> torch.Tensor:
        """The heads' loss on judged texts, or the loss of a dialogue's next tokens."""
        judged = isinstance(part, Beginnings)
        noise = self.stage.noise if judged else NOISE
        allowed = part.ids > 0 if judged else part.weights < 0.1
        if isinstance(part, Batch):  # what is to be looked at stays visible
            allowed[part.links[:, 0], part.links[:, 2]] = False
        ids = noised(part.ids, allowed, noise, generator).to(self.device)
        with autocast(self.device):
            if isinstance(part, Beginnings):
                out = self.forward(input_ids=ids, use_cache=False, output_hidden_states=True)
                return self.learner.reading_loss(out, part) + self.answer_loss(out, part)
            links = part.links if self.stage.copied else part.links[:0]
            looked = bool(len(links))
            out = self.forward(input_ids=ids[:, :-1], use_cache=False, output_attentions=looked)
        answers = float(part.weights[part.weights > 0.1].sum()) or 1.0
        loss = token_loss(self.learner.model, out.last_hidden_state, part, generator) / answers
        return loss + self.learner.looking_loss(out.attentions, links)

    def answer_loss(self, out: Any, part: Beginnings) -> torch.Tensor:
        """How far the next token is from the label at the prompts' ends: mean cross-entropy."""
        if not len(part.asked):
            return torch.zeros((), device=self.device)
        states = out.last_hidden_state[part.asked.to(self.device), part.end.to(self.device)]
        chances = self.learner.model.lm_head(states).float().log_softmax(-1)
        labels = self.materials.label_ids
        return -(part.answers.to(self.device) * chances[:, labels]).sum(-1).mean()

    def step(self) -> None:
        """One step of training. Raises `ArithmeticError` where the loss is no number any more."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * self.stage.share(self.step_in_stage)
        seed = self.args.seed * 1_000_003 + self.done
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.learner.train()
        parts = next(self.stream)
        judged = self.stage.judged
        spoken = sum(part.ids.numel() for part in parts[1:])
        found = torch.zeros((), device=self.device)
        for part in parts:
            reading = isinstance(part, Beginnings)
            share = judged if reading else (1 - judged) * part.ids.numel() / spoken
            loss = self.loss(part, generator) * share
            loss.backward()
            found += loss.detach()
        total = found.item()  # asked once a step: a GPU would wait for each question
        if not math.isfinite(total):
            raise ArithmeticError(f"loss is {total} at step {self.done}")
        torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        keep = min(self.stage.keep, (self.step_in_stage + 1) / (self.step_in_stage + 10))
        with torch.no_grad():
            now: list[torch.Tensor] = list(self.learner.parameters())
            mean: list[torch.Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(mean, now, 1 - keep)
        self.running = 0.98 * self.running + 0.02 * total if self.running else total
        self.done += 1
        if self.done in self.starts:
            self.enter()

    def evaluate(self) -> dict:
        """An entry for the log: how good the average is on the validation part."""
        validation, tokenizer = self.materials.validation, self.materials.tokenizer
        entry = {
            "step": self.done,
            "minutes": round((time.time() - self.began) / 60, 1),
            "loss": round(self.running, 4),
            "reading_accuracy": round(self.average.reading_accuracy(tokenizer, validation), 4),
        }
        if self.args.start or self.done > self.args.reading:
            found = evaluate.label_accuracy(self.average.model, tokenizer, validation)
            entry["validation_accuracy"] = round(found, 4)
        self.log.append(entry)
        return entry


def main() -> None:
    """Train, evaluating as it goes, and save."""
    args = arguments(__doc__)
    torch.manual_seed(args.seed)
    training = Training(args, prepare(args))
    checkpoint = args.run / "checkpoint.pt"
    if checkpoint.exists():
        try:
            training.resume(torch.load(checkpoint, map_location=training.device))
        except ValueError as why:
            raise SystemExit(f"{checkpoint} is {why}: remove it to start anew.") from None
        print(f"resuming at step {training.done} of {training.total}")
    else:
        training.warm()
    bar = tqdm(initial=training.done, total=training.total, unit="step")
    while training.done < training.total:
        stage = training.stage.name
        try:
            training.step()
        except ArithmeticError as why:
            raise SystemExit(f"{why}: lower the peaks in stages.py.") from None
        bar.update()
        bar.set_postfix(stage=stage, loss=f"{training.running:.3f}", refresh=False)
        if training.done % args.every and training.done != training.total:
            continue
        tqdm.write(json.dumps(training.evaluate()))
        save_checkpoint(checkpoint, training.state())
        if stage != "reading":
            folder = training.materials.folder
            save(training.average.model, folder, args.result, training.log)
    bar.close()


if __name__ == "__main__":
    main()
