"""How good a checkpoint is: accuracy by subject and phenomenon, formats, perplexity, speed.

    python -m pocket_training.evaluate                          the bundled model on the test part
    python -m pocket_training.evaluate --file reviews.tsv       any `text<TAB>label` file
    python -m pocket_training.evaluate --load nf4               fp32, fp16, bf16, int8 or nf4

A label in a file may be Positive, Negative, Neutral (any case) or 1, 0.
"""

import argparse
import json
import math
import random
import re
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import torch

from pocket_training import asking, corpus

LABELS = ("Positive", "Negative", "Neutral")
MODEL = Path(__file__).parent.parent / "course_utils" / "pocket_llama"


def prompt(text: str, system: str | None = asking.SEED_SYSTEM) -> str:
    """One review in Llama 2's chat format, without BOS."""
    head = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    return f"[INST] {(head + text).strip()} [/INST]"


@torch.inference_mode()
def next_tokens(model: Any, tokenizer: Any, prompts: list[str], batch: int = 32) -> list[int]:
    """The greedy next id after BOS and each prompt; `tokenizer` is a `tokenizers.Tokenizer`."""
    rows = [[1, *tokenizer.encode(p, add_special_tokens=False).ids] for p in prompts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = [0] * len(rows)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = max(len(rows[i]) for i in chosen)
        ids = torch.full((len(chosen), longest), 2)
        for k, i in enumerate(chosen):
            ids[k, : len(rows[i])] = torch.tensor(rows[i])
        last = torch.tensor([len(rows[i]) - 1 for i in chosen])
        hidden = model.model(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
        picked = model.lm_head(hidden[torch.arange(len(chosen)), last]).argmax(-1)
        for i, token in zip(chosen, picked.tolist(), strict=True):
            found[i] = token
    return found


def labels(model: Any, tokenizer: Any, texts: list[str], batch: int = 32) -> list[str]:
    """The greedy label of each text under the seed prompt; "" where it is no label."""
    names = {tokenizer.encode(f" {n}", add_special_tokens=False).ids[0]: n for n in LABELS}
    tokens = next_tokens(model, tokenizer, [prompt(t) for t in texts], batch)
    return [names.get(t, "") for t in tokens]


def label_accuracy(model: Any, tokenizer: Any, reviews: list[corpus.Review]) -> float:
    """The share of reviews whose greedy label is right."""
    found = labels(model, tokenizer, [r.text for r in reviews])
    return sum(f == r.label for f, r in zip(found, reviews, strict=True)) / len(reviews)


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share (Wilson 1927)."""
    z, p = 1.96, right / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return middle - half, middle + half


def read_file(path: Path) -> list[corpus.Review]:
    """Reviews from a `text<TAB>label` file."""
    names = {"1": "Positive", "0": "Negative", **{n.lower(): n for n in LABELS}}
    reviews = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text, tab, label = line.rpartition("\t")
        if not tab or label.strip().lower() not in names:
            raise SystemExit(f"{path.name}, line {number}: not text<TAB>label: {line[:60]!r}")
        reviews.append(corpus.Review(text, names[label.strip().lower()], path.stem, "any", ""))
    return reviews


def odd_inputs(tokenizer: Any, count: int = 300) -> list[str]:
    """Inputs that are no reviews: nothing, emoji, bytes, scripts, texts as long as the context."""
    rng = random.Random(7)
    texts = [
        "",
        " ",
        "\n\n",
        "😀",
        "😡😡😡",
        "🎉" * 40,
        "?",
        "...",
        "\u0000",
        "\u202e",
        "1234567890" * 30,
    ]
    bounds = (0x7F, 0x2FF, 0x7FF, 0xD7FF, 0x1FFFF)
    while len(texts) < count:
        high, length = rng.choice(bounds), rng.choice([1, 3, 10, 40, 120, 250])
        codes = (rng.randint(32, high) for _ in range(length))
        texts.append("".join(chr(c) for c in codes if not 0xD800 <= c <= 0xDFFF))
    reviews = [r.text for r in corpus.split()["test"]]
    for words in (80, 150, 300, 400, 500, 600, 700, 800):
        for _ in range(6):
            texts.append(" ".join(" ".join(rng.sample(reviews, 60)).split()[:words]))
    fits = 1024 - len(tokenizer.encode(prompt(""), add_special_tokens=False).ids) - 8
    return [t for t in texts if len(tokenizer.encode(t, add_special_tokens=False).ids) < fits]


def load(folder: Path, how: str) -> Any:
    """The model in one of fp32, fp16, bf16, int8 (LLM.int8()) or nf4."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if how in kinds:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=kinds[how]).eval()
    if how == "int8":
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    else:
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float16, quantization_config=quantization
    ).eval()


@torch.inference_mode()
def perplexity(model: Any, tokenizer: Any, texts: list[str]) -> float:
    """Exp of the mean next-token cross-entropy over plain review texts."""
    total, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([[1, *tokenizer.encode(text, add_special_tokens=False).ids]])
        logits = model(input_ids=ids.to(model.device)).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(
            logits, ids[0, 1:].to(model.device), reduction="sum"
        ).item()
        count += ids.shape[1] - 1
    return math.exp(total / count)


@torch.inference_mode()
def replies(model: Any, tokenizer: Any, prompts: list[str], tokens: int = 60) -> list[str]:
    """Greedy replies, one prompt at a time."""
    found = []
    for text in prompts:
        ids = torch.tensor([[1, *tokenizer.encode(text, add_special_tokens=False).ids]])
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=2,
        )[0, ids.shape[1] :]
        found.append(tokenizer.decode(out.tolist(), skip_special_tokens=True).strip())
    return found


def read_json(reply: str) -> dict[str, str] | None:
    """The reply as the JSON object asked for; None where it is not that object."""
    try:
        answer = json.loads(reply)
    except ValueError:
        return None
    whole = isinstance(answer, dict) and set(answer) == {"sentiment", "reason"}
    return answer if whole and str(answer["sentiment"]).capitalize() in LABELS else None


def words_of(text: str) -> str:
    """The words alone, in small letters, with one space between them."""
    return " ".join(re.findall(r"[\w'’]+", text.lower()))


def quoted_words(reason: str) -> str:
    """What a reply's reason quotes, as `words_of` gives it."""
    return words_of(reason).removeprefix("it says ")


def quotes(reason: str, text: str) -> bool:
    """Whether the words that a reply's reason quotes stand in the review, in this order."""
    return f" {quoted_words(reason)} " in f" {words_of(text)} "


def print_confusion(reviews: list[corpus.Review], found: list[str]) -> None:
    """True labels down, given labels across."""
    matrix = Counter((r.label, f or "no label") for f, r in zip(found, reviews, strict=True))
    columns = [*LABELS, "no label"]
    print("\n" + "true \\ said".ljust(12) + "".join(c.rjust(10) for c in columns))
    for label in LABELS:
        print(label.ljust(12) + "".join(str(matrix[label, c]).rjust(10) for c in columns))


def print_groups(reviews: list[corpus.Review], found: list[str]) -> None:
    """Accuracy by phenomenon and by subject."""
    for name in ("phenomenon", "subject"):
        groups = defaultdict(list)
        for f, r in zip(found, reviews, strict=True):
            groups[getattr(r, name)].append(f == r.label)
        print(f"\nby {name}:")
        for key, hits in sorted(groups.items(), key=lambda item: -len(item[1])):
            print(f"  {key:22} {sum(hits) / len(hits):.2f}  of {len(hits)}")


def print_formats(
    model: Any, tokenizer: Any, reviews: list[corpus.Review], found: list[str]
) -> None:
    """Shares of well-formed replies, the cost of leaving the template out, and perplexity."""
    texts = [r.text for r in reviews]
    odd = labels(model, tokenizer, odd_inputs(tokenizer), batch=8)
    print(f"\nwell-formed label, odd and long inputs  {sum(map(bool, odd)) / len(odd):.4f}")
    print(f"well-formed label, these reviews         {sum(map(bool, found)) / len(found):.4f}")
    ask = f"{asking.SEED_SYSTEM} {asking.JSON[5]}"
    answers = [read_json(a) for a in replies(model, tokenizer, [prompt(t, ask) for t in texts])]
    print(f"valid JSON when asked                    {1 - answers.count(None) / len(texts):.4f}")
    given = [
        (a["reason"], r)
        for a, r in zip(answers, reviews, strict=True)
        if a and a["sentiment"] != "neutral"
    ]
    there = sum(quotes(reason, r.text) for reason, r in given)
    print(f"  reasons that quote the review          {there / max(1, len(given)):.4f}")
    marked = [(quoted_words(q), r) for q, r in given if r.phrase and r.label != "Neutral"]
    same = sum(not {*q.split()}.isdisjoint(words_of(r.phrase).split()) for q, r in marked)
    print(f"  reasons with one of the deciding words {same / max(1, len(marked)):.4f}")
    raw = replies(model, tokenizer, texts, tokens=4)
    right = sum(a.split(" ")[0].strip(".!,") == r.label for a, r in zip(raw, reviews, strict=True))
    print(f"accuracy without the chat template       {right / len(texts):.4f}")
    print(f"perplexity of these reviews              {perplexity(model, tokenizer, texts):.2f}")


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--load", default="fp16", choices=["fp32", "fp16", "bf16", "int8", "nf4"])
    parser.add_argument("--file", type=Path, help="a text<TAB>label file instead of the test part")
    parser.add_argument("--formats", type=int, default=200, help="reviews for the format shares")
    args = parser.parse_args()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    model = load(args.model, args.load)
    reviews = read_file(args.file) if args.file else corpus.split()["test"]
    began = time.time()
    found = labels(model, tokenizer, [r.text for r in reviews])
    speed = len(reviews) / (time.time() - began)
    right = sum(f == r.label for f, r in zip(found, reviews, strict=True))
    low, high = interval(right, len(reviews))
    print(f"{args.model.name} in {args.load}, {len(reviews)} reviews, {speed:.0f} reviews/s")
    print(f"accuracy {right / len(reviews):.4f} (95 % interval {low:.3f} to {high:.3f})")
    print_confusion(reviews, found)
    if not args.file:
        print_groups(reviews, found)
        chosen = random.Random(3).sample(range(len(reviews)), min(args.formats, len(reviews)))
        print_formats(model, tokenizer, [reviews[i] for i in chosen], [found[i] for i in chosen])


if __name__ == "__main__":
    main()
