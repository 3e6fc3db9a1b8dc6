"""Pocket Llama's shape, what is added to it while it is trained, and how it is saved."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from pocket_training import evaluate
from pocket_training.batches import AGAIN, BOS, EOS, PREVIOUS, QUOTE, Beginnings, pad
from pocket_training.corpus import Review
from pocket_training.tokenizer import CONTEXT

SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
# Layer (-1: the last), heads, weight in the loss: which words get quoted is a matter of opinion, so
# the last kind stays far from zero, and would drown the rest.
LOOKS = {PREVIOUS: (1, [6, 7], 5.0), AGAIN: (-1, [6, 7], 5.0), QUOTE: (-1, [4, 5], 0.5)}


def config(vocabulary: int, layers: int = SHAPE["num_hidden_layers"]) -> LlamaConfig:
    """Llama 2's architecture at pocket size. The rope base stays 10,000, Llama 2's own."""
    return LlamaConfig(
        vocab_size=vocabulary,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=None,
        **SHAPE | {"num_hidden_layers": layers},
    )


class Learner(torch.nn.Module):
    """The model with the linear heads that it has only while it is trained.

    The heads read the label off a word's last token, in mid-network and at the end. They let every
    word of a bare review teach the layers, long before attention has learned to gather the label
    at the answer. Deep supervision (arXiv 1409.5185).
    """

    def __init__(
        self, vocabulary: int, dropout: float, layers: int = SHAPE["num_hidden_layers"]
    ) -> None:
        """A fresh model; `dropout` is of what attention and MLP add to the residual stream."""
        super().__init__()
        self.model = LlamaForCausalLM(config(vocabulary, layers))
        self.model.set_attn_implementation("eager")  # 1.5 times as fast as sdpa, backward on a CPU
        width = self.model.config.hidden_size
        self.read_at = (layers // 2, layers)  # the layers after which a label is read off
        self.heads = torch.nn.ModuleList(torch.nn.Linear(width, 3) for _ in self.read_at)
        for layer in self.model.model.layers:
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part.register_forward_hook(
                    lambda module, _, out: torch.nn.functional.dropout(
                        out, dropout, module.training
                    )
                )

    def reading_loss(self, out: Any, batch: Beginnings) -> torch.Tensor:
        """The mean cross-entropy at the judged places; `out` is the layers' output for `batch`."""
        device = out.last_hidden_state.device
        chances, weights = batch.chances.to(device), batch.weights.to(device)
        total = torch.zeros((), device=device)
        for number, head in zip(self.read_at, self.heads, strict=True):
            last = number == len(self.model.model.layers)  # the last one after the closing norm
            states = out.last_hidden_state if last else out.hidden_states[number]
            read = states.float()[batch.row.to(device), batch.column.to(device)]
            read = torch.nn.functional.dropout(read, 0.1, self.training)
            losses = torch.nn.functional.cross_entropy(head(read), chances, reduction="none")
            total = total + (losses * weights).sum() / weights.sum()
        return total / len(self.read_at)

    def looking_loss(self, attentions: tuple[torch.Tensor, ...], links: torch.Tensor) -> Any:
        """How far the heads of `LOOKS` are from looking where the links say: a mean of -log.

        `attentions` are the layers' attention weights, each (rows, heads, queries, keys). The last
        layer finds what followed the current token before by what the second layer wrote there
        about the token before: an induction head (arXiv 2209.11895). Left to itself this pair does
        not form in the few steps that we have; shown where to look, it does in about 150.
        """
        device = self.model.device
        total = torch.zeros((), device=device)
        for kind, (layer, heads, weight) in LOOKS.items():
            row, query, key = links[links[:, 3] == kind, :3].to(device).unbind(1)
            if len(row):
                looked = attentions[layer][
                    row[:, None], torch.tensor(heads, device=device), query[:, None], key[:, None]
                ]
                total = total - weight * looked.float().clamp(min=1e-6).log().mean()
        return total

    @torch.no_grad()
    def begin_from(self, model: LlamaForCausalLM) -> None:
        """Take a finished model's weights; what is more here than there changes nothing at first.

        New layers stand behind its middle ones and add nothing to the residual stream: their last
        matrices are zero (as in Net2Net, arXiv 1511.05641).
        """
        old, new = model.model.layers, self.model.model.layers
        rest = {k: v for k, v in model.state_dict().items() if ".layers." not in k}
        self.model.load_state_dict(rest, strict=False)
        between = len(old) - 2  # how many of its layers have new ones behind them
        at = [0] + [1 + i * (len(new) - 2) // between for i in range(between)] + [len(new) - 1]
        for i, layer in enumerate(new):
            if i in at:
                layer.load_state_dict(old[at.index(i)].state_dict())
            else:
                torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
                torch.nn.init.zeros_(layer.mlp.down_proj.weight)

    @torch.no_grad()
    def tie(self) -> None:
        """Point the output head's row of each token towards its embedding, so that copying is easy.

        An attention head that hands on what it sees then already speaks for that token.
        """
        table = self.model.model.embed_tokens.weight
        self.model.lm_head.weight += 0.7 * torch.nn.functional.normalize(table, dim=1)

    @torch.inference_mode()
    def reading_accuracy(self, tokenizer: Tokenizer, reviews: list[Review]) -> float:
        """The share of bare reviews whose label the last head reads off rightly."""
        rows = [
            ([BOS, *tokenizer.encode(r.text, add_special_tokens=False).ids], r.label)
            for r in reviews
        ]
        rows.sort(key=lambda row: len(row[0]))
        right = 0
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            ids = pad([ids for ids, _ in part], len(part[-1][0])).to(self.model.device)
            states = self.model.model(input_ids=ids, use_cache=False).last_hidden_state
            last = torch.tensor([len(ids) - 1 for ids, _ in part])
            found = self.heads[-1](states[torch.arange(len(part)), last]).argmax(-1).tolist()
            right += sum(evaluate.LABELS[f] == row[1] for f, row in zip(found, part, strict=True))
        return right / len(reviews)


def save(model: LlamaForCausalLM, folder: Path, result: Path, log: list[dict]) -> None:
    """Write the finished checkpoint folder: fp16 weights, configs, tokenizer, training log.

    `folder` is the tokenizer's.
    """
    result.mkdir(parents=True, exist_ok=True)
    model = copy.deepcopy(model)
    model.to(device="cpu", dtype=torch.float16)  # type: ignore[call-arg]
    model.config.dtype = torch.float16
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, max_new_tokens=50
    )
    model.save_pretrained(result)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(folder / name, result / name)
    text = "".join(json.dumps(entry) + "\n" for entry in log)
    (result / "training_log.jsonl").write_text(text, encoding="utf-8")


def save_checkpoint(path: Path, state: dict) -> None:
    """Write whole or not at all: an interruption leaves the previous checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
