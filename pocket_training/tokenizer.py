"""Train Pocket Llama's tokenizer: a byte-fallback BPE on the training reviews and dialogues.

Like Llama 2's: `<unk>`, `<s>`, `</s>` are ids 0, 1, 2, there is no pad token, a beginning-of-
sequence token is added, and any character that the vocabulary lacks falls back to its bytes.
Unlike Llama 2's it keeps spaces as they are (no `▁` marker, no space put in front), so that
decoding gives back exactly the text that went in.

    python -m pocket_training.tokenizer FOLDER
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Encoding, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

VOCABULARY = 4000
CONTEXT = 1024
SPECIALS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
# A word keeps its apostrophes ("don't" is one piece) and the space before it; digits stand alone.
WORD = r" ?[\p{L}\p{M}'’]+| ?\p{N}| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s"

# Llama 2's chat template as the reference code lays it out (meta-llama/llama, generation.py):
# system text inside the first user turn, BOS and EOS around every turn, roles that alternate.
CHAT_TEMPLATE = """\
{%- if messages and messages[0]['role'] == 'system' -%}
    {%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- if not turns -%}
    {{- raise_exception('A chat needs at least one user message.') -}}
{%- endif -%}
{%- if add_generation_prompt and messages[-1]['role'] == 'assistant' -%}
    {{- raise_exception('To be answered, a chat must end with a user message.') -}}
{%- endif -%}
{%- for message in messages -%}
    {%- for tag in ['[INST]', '[/INST]', '<<SYS>>', '<</SYS>>'] -%}
        {%- if tag in message['content'] -%}
            {{- raise_exception('A message must not contain the tag ' + tag + '.') -}}
        {%- endif -%}
    {%- endfor -%}
{%- endfor -%}
{%- for message in turns -%}
    {%- if message['role'] != ['user', 'assistant'][loop.index0 % 2] -%}
        {{- raise_exception('Roles must alternate user, assistant, user, ...') -}}
    {%- endif -%}
    {%- if message['role'] == 'user' -%}
        {%- set content = system + message['content'] if loop.first else message['content'] -%}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' -}}
    {%- else -%}
        {{- ' ' + message['content'].strip() + ' ' + eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""


def train(texts: list[str]) -> Tokenizer:
    """Train the BPE on `texts` (the order counts for ties, so give a fixed one)."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*SPECIALS, *BYTES],
        limit_alphabet=160,
        min_frequency=3,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The byte pieces are ordinary vocabulary, only <unk>, <s> and </s> are special.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in SPECIALS]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIALS])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer files and the chat template into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": CONTEXT,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def last_tokens(found: Encoding, whole: str, text: str) -> list[int]:
    """For each word of `text` its last token in `found`, which is `whole` with `text` in it."""
    ends, end = [], whole.rindex(text)
    for word in text.split():
        end = whole.index(word, end) + len(word)
        ends.append(end)
    places: list[int] = []
    for index, (_, stop) in enumerate(found.offsets):
        while len(places) < len(ends) and stop >= ends[len(places)]:
            places.append(index)
    return places


def main() -> None:
    """Train on the corpus' training part and on one pass of dialogues around it."""
    from pocket_training.dialogues import tokenizer_texts

    save(train(tokenizer_texts()), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
