"""Train Pocket Llama from scratch: `make model`, or `python -m pocket_llama.train`.

Seeded; resumes from its last checkpoint after an interruption; picks a GPU where there is one.
Weights are averaged over the last steps (an exponential moving average), and the average is
what is saved, as fp16 safetensors, in `course_utils/pocket_llama/`.
"""

import argparse
import copy
import itertools
import json
import math
import shutil
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tqdm.auto import tqdm
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from pocket_llama import corpus, evaluate
from pocket_llama import tokenizer as tokenizers
from pocket_llama.batches import BOS, EOS, Batch, Encoder, bags, steps
from pocket_llama.dialogues import Drawer
from pocket_llama.muon import Muon
from pocket_llama.teacher import Teacher

RESULT = Path(__file__).parent.parent / "course_utils" / "pocket_llama"
PROMPT_SHARE = 0.3  # of the prompts' own tokens, the share that is predicted in a step
RUN = Path(__file__).parent / "run"  # checkpoints, ignored by git
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}


def config(vocabulary: int) -> LlamaConfig:
    """Llama 2's architecture at pocket size. The rope base stays 10,000, Llama 2's own."""
    return LlamaConfig(
        vocab_size=vocabulary,
        max_position_embeddings=tokenizers.CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=None,
        **SHAPE,
    )


def autocast(device: str) -> torch.autocast:
    """bf16 arithmetic where the processor has it; where it is only emulated, fp32 is faster."""
    native = device != "cpu" or torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device, torch.bfloat16, enabled=native)


def warm_embeddings(
    model: LlamaForCausalLM, head: torch.nn.Linear, drawer: Drawer, encoder: Encoder, args
) -> None:
    """Teach the embeddings in about a minute what single tokens mean for the label.

    A bag of embeddings is trained alone, without the layers above it: the mean of a text's
    embeddings, read by the first turn head (as fastText does, arXiv 1607.01759).
    """
    table = model.model.embed_tokens.weight
    torch.nn.init.normal_(table, std=0.1)
    adam = torch.optim.AdamW([table, *head.parameters()], lr=3e-3, weight_decay=0.05)
    for done, (ids, starts, labels) in bags(drawer, encoder, args.seed, args.bags):
        for group in adam.param_groups:
            group["lr"] = 3e-3 * (1 - done)
        ids, starts, labels = (t.to(table.device) for t in (ids, starts, labels))
        means = torch.nn.functional.embedding_bag(ids, table, starts, mode="mean")
        logits = head(torch.nn.functional.dropout(means, 0.2))
        torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.05).backward()
        adam.step()
        adam.zero_grad()


def add_dropout(model: LlamaForCausalLM, rate: float) -> None:
    """Drop parts of what attention and MLP add to the residual stream, while training only."""
    for layer in model.model.layers:
        for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
            part.register_forward_hook(
                lambda module, _, out: torch.nn.functional.dropout(out, rate, module.training)
            )


def noised(batch: Batch, rate: float, generator: torch.Generator) -> torch.Tensor:
    """Replace a share of the prompt's tokens by `<unk>`, so that no single word is relied on."""
    hit = torch.rand(batch.ids.shape, generator=generator) < rate
    hit &= (batch.weights < 0.1) & (batch.ids > 258)
    return batch.ids.masked_fill(hit, 0)


class TurnHeads(torch.nn.Module):
    """Linear heads that read a turn's label off the mean of its tokens' states, in mid-network.

    Used in training only: they teach the lower layers what single words mean for the label long
    before attention has learned to gather it at the answer. Deep supervision (arXiv 1409.5185).
    """

    def __init__(self, width: int, layers: tuple[int, ...]) -> None:
        """One head of size (labels, width) for each of `layers`."""
        super().__init__()
        self.layers = layers
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, 3) for _ in layers)

    def forward(self, states: tuple, turn: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The summed cross-entropy over turns, averaged over heads."""
        total = states[0].new_zeros((), dtype=torch.float32)
        flat = turn.flatten()
        counts = torch.bincount(flat, minlength=len(labels) + 1)[1:, None].clamp(min=1)
        for layer, head in zip(self.layers, self.heads, strict=True):
            state = states[layer].float().flatten(0, 1)
            sums = state.new_zeros(len(labels) + 1, state.shape[1]).index_add(0, flat, state)
            logits = head(sums[1:] / counts)
            total = total + torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        return total / len(self.layers)


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


@torch.inference_mode()
def reading_accuracy(model, heads: TurnHeads, tokenizer: Tokenizer, reviews: list) -> float:
    """The share of bare reviews whose label the last turn head reads off rightly."""
    right = 0
    for review in reviews:
        ids = torch.tensor([[BOS, *tokenizer.encode(review.text, add_special_tokens=False).ids]])
        states = model.model(ids.to(model.device), output_hidden_states=True).hidden_states
        found = heads.heads[-1](states[heads.layers[-1]].mean(1)).argmax().item()
        right += evaluate.LABELS[found] == review.label
    return right / len(reviews)


def make_optimizers(model: LlamaForCausalLM, heads: TurnHeads) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else.

    Muon needs clearly fewer steps here than AdamW alone.
    """
    inside = [p for p in model.model.layers.parameters() if p.dim() > 1]
    tables = [model.model.embed_tokens.weight, model.lm_head.weight]
    rest = [p for p in model.parameters() if p.dim() == 1] + list(heads.parameters())
    muon = [{"params": inside, "peak": 2e-3, "weight_decay": 0.1}]
    adam = [
        {"params": tables, "peak": 3e-3, "weight_decay": 0.05},
        {"params": rest, "peak": 3e-3, "weight_decay": 0.0},
    ]
    return [
        Muon(muon),
        torch.optim.AdamW(adam, betas=(0.9, 0.98), fused=True),
    ]


def learning_rate(step: int, steps: int) -> float:
    """The share of the peak: linear warm-up over 3 %, then a cosine down to 2 %."""
    warm = max(1, int(0.03 * steps))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def save_checkpoint(path: Path, state: dict) -> None:
    """Write whole or not at all: an interruption leaves the previous checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def save_model(model: LlamaForCausalLM, folder: Path, result: Path, log: list[dict]) -> None:
    """Write the finished checkpoint folder: fp16 weights, configs, tokenizer, training log."""
    result.mkdir(parents=True, exist_ok=True)
    model = copy.deepcopy(model).to("cpu", torch.float16)
    model.config.dtype = torch.float16
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, max_new_tokens=50
    )
    model.save_pretrained(result)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(folder / name, result / name)
    text = "".join(json.dumps(entry) + "\n" for entry in log)
    (result / "training_log.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    """Train, evaluating as it goes, and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--bags", type=int, default=8, help="passes of embeddings alone, before")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--noise", type=float, default=0.08, help="share of prompt tokens hidden")
    parser.add_argument("--heads", type=float, default=0.5, help="weight of the turn heads")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=100, help="steps between evaluations")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=shutil.which("gcc") is not None,
        help="twice as fast after two minutes; needs a C++ compiler on a CPU",
    )
    parser.add_argument("--run", type=Path, default=RUN)
    parser.add_argument("--result", type=Path, default=RESULT)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    parts = corpus.split()
    folder = args.run / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        from pocket_llama.dialogues import tokenizer_texts

        tokenizers.save(tokenizers.train(tokenizer_texts()), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    drawer, encoder = Drawer(parts["train"]), Encoder(tokenizer)
    teacher = Teacher(parts["train"])

    model = LlamaForCausalLM(config(tokenizer.get_vocab_size())).to(device)
    model.set_attn_implementation("eager")  # 1.5 times as fast as sdpa here, backward on a CPU
    heads = TurnHeads(SHAPE["hidden_size"], (0, 2, 3)).to(device)
    add_dropout(model, args.dropout)
    forward = torch.compile(model.model, dynamic=True) if args.compile else model.model
    optimizers = make_optimizers(model, heads)
    start, log, spent, opened = 0, [], 0.0, time.time()
    checkpoint = args.run / "checkpoint.pt"
    if not checkpoint.exists():
        warm_embeddings(model, heads.heads[0], drawer, encoder, args)
    average = copy.deepcopy(model).eval()
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        if state["args"] != {
            k: v for k, v in vars(args).items() if k not in ("run", "result", "compile")
        }:
            raise SystemExit(
                f"{checkpoint} is of a run with other settings: remove it to start anew."
            )
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        heads.load_state_dict(state["heads"])
        for optimizer, held in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(held)
        start, log, spent = state["step"], state["log"], state["spent"]
        print(f"resuming at step {start} of {args.steps}")

    began, running = opened - spent, 0.0
    stream = itertools.islice(steps(drawer, encoder, teacher, args.seed), start, None)
    bar = tqdm(range(start, args.steps), initial=start, total=args.steps, unit="step")
    for step in bar:
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate(step, args.steps)
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        torch.manual_seed(args.seed * 1_000_003 + step)
        model.train()
        batches = next(stream)
        answers = sum(float(b.weights[b.weights > 0.1].sum()) for b in batches)
        total = answers + args.heads * sum(len(b.labels) for b in batches)
        loss_sum = 0.0
        for batch in batches:
            shown = noised(batch, args.noise, generator)[:, :-1].to(device)
            with autocast(device):
                out = forward(input_ids=shown, use_cache=False, output_hidden_states=True)
            loss = torch.zeros((), device=device)
            if batch.weights.any():
                loss = loss + token_loss(model, out.last_hidden_state, batch, generator)
            if len(batch.labels):
                turn, labels = batch.turn[:, :-1].to(device), batch.labels.to(device)
                loss = loss + args.heads * heads(out.hidden_states, turn, labels)
            loss = loss / total
            if not torch.isfinite(loss):
                raise SystemExit(
                    f"loss is {loss.item()} at step {step}: lower the peaks in make_optimizers."
                )
            loss.backward()
            loss_sum += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        keep = min(0.996, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, now in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)
        running = 0.98 * running + 0.02 * loss_sum if running else loss_sum
        bar.set_postfix(loss=f"{running:.3f}", refresh=False)
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            found = evaluate.label_accuracy(average, tokenizer, parts["validation"])
            read = reading_accuracy(average, heads, tokenizer, parts["validation"])
            log.append(
                {
                    "step": step + 1,
                    "minutes": round((time.time() - began) / 60, 1),
                    "loss": round(running, 4),
                    "validation_accuracy": round(found, 4),
                    "reading_accuracy": round(read, 4),
                }
            )
            tqdm.write(json.dumps(log[-1]))
            save_checkpoint(
                checkpoint,
                {
                    "args": {
                        k: v for k, v in vars(args).items() if k not in ("run", "result", "compile")
                    },
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "heads": heads.state_dict(),
                    "optimizers": [o.state_dict() for o in optimizers],
                    "step": step + 1,
                    "log": log,
                    "spent": time.time() - began,
                },
            )
            save_model(average, folder, args.result, log)


if __name__ == "__main__":
    main()
