"""A model on this machine behind the gateway: loaded here, answered by the engine.

Any folder that transformers loads as a causal language model with a chat template will do. Beside
it stands what a reply looks like in OpenAI's API, whole or in pieces.

It knows nothing of keys, limits or addresses.
"""

import asyncio
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from course_utils import machine, models
from course_utils.endpoint.bounds import Bounds
from course_utils.endpoint.engine import Engine
from course_utils.endpoint.prompts import Prompts
from course_utils.endpoint.refusals import Json, Refusal, as_response, busy
from course_utils.endpoint.replies import Reply, Words
from course_utils.endpoint.wishes import Wish, wished

SMALL_BYTES = 64 * 2**20  # of weights: so small a model is fastest on one thread
LARGE_BYTES = 2**30  # from here on a GPU is worth taking from the lesson
MOST_WAITING = 8192
AT_ONCE = 2000  # characters of messages up to which counting tokens takes no noticeable time


class Local:
    """The model in `folder`, called `model` in requests."""

    def __init__(self, folder: Path, model: str) -> None:
        """Remember where it is; `load` reads it."""
        self.folder, self.model = folder, model
        self.engine: Engine | None = None

    def load(self) -> None:
        """Read the model and start its engine. Takes seconds.

        Raises:
            ValueError: it is a base model, without a chat template.
        """
        size = models.weights_bytes(str(self.folder)) or 0
        if size < LARGE_BYTES:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1 if size < SMALL_BYTES else machine.cores())
        tokenizer = AutoTokenizer.from_pretrained(str(self.folder))
        if not tokenizer.chat_template:
            raise ValueError(f"{self.model} has no chat template: a base model does not chat.")
        gpu = torch.cuda.is_available()
        how = {"dtype": dtype(self.folder, size, gpu), "device_map": "cuda" if gpu else None}
        model = AutoModelForCausalLM.from_pretrained(str(self.folder), **how).eval()
        text = model.config.get_text_config()
        self.usual = model.generation_config.to_dict()
        self.vocabulary: int = text.vocab_size
        self.prompts = Prompts(tokenizer, getattr(text, "max_position_embeddings", 2048))
        ends = self.usual.get("eos_token_id")
        ends = {*(ends if isinstance(ends, list) else [ends]), tokenizer.eos_token_id} - {None}
        self.words = Words(tokenizer, ends)
        self.bounds = Bounds(tokenizer, self.vocabulary)
        self.engine = Engine(model)
        self.engine.start()

    async def complete(self, body: Json) -> Any:
        """The response to a chat request.

        Raises:
            Refusal: it cannot be done, or not yet.
        """
        from starlette.responses import StreamingResponse

        if self.engine is None:
            raise busy("The model is still loading.")
        if len(self.engine.waiting) > MOST_WAITING:
            raise busy("Too many requests are waiting. Send fewer at once.")
        chat = body.get("messages")
        if len(str(chat)) > AT_ONCE:  # in a thread: nobody else has to wait for it
            ids = await asyncio.to_thread(self.prompts.ids, chat)
        else:
            ids = self.prompts.ids(chat)
        wish = wished(body, self.prompts.context - len(ids), self.usual, self.vocabulary)
        bound = wish.schema_asked
        matcher = await asyncio.to_thread(self.bounds.matcher, bound) if bound is not None else None
        job = Job(self, ids, wish, matcher)
        if wish.stream:
            return StreamingResponse(job.stream(), media_type="text/event-stream")
        return as_response(await job.whole())


class Job:
    """The replies to one request on their way from the engine's thread to the client."""

    def __init__(self, local: Local, ids: list[int], wish: Wish, matcher: Any) -> None:
        """Hand the replies to the engine."""
        self.wish = wish
        self.loop, self.events = asyncio.get_running_loop(), asyncio.Queue[Any]()
        kind = "chat.completion.chunk" if wish.stream else "chat.completion"
        self.head: Json = {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind}
        self.head |= {"created": int(time.time()), "model": local.model}
        self.replies = [
            Reply(ids, wish, local.words, i, self.tell, matcher and matcher.deep_copy())
            for i in range(wish.n)
        ]
        assert local.engine
        local.engine.submit(self.replies)

    def tell(self, reply: Reply, error: Exception | None) -> None:
        """Hand an event over to the event loop. Called in the engine's thread."""
        piece = reply.new_text() if self.wish.stream else ""
        event = reply.index, piece, reply.measured_so_far(), reply.finish, error
        self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    async def news(self) -> AsyncIterator[tuple[int, str, int, str | None]]:
        """Until all is said: which reply, its new text, its log probabilities' count, its end."""
        left = len(self.replies)
        while left:
            index, piece, measured, finish, error = await self.events.get()
            if isinstance(error, Refusal):
                raise error
            if error:
                raise Refusal(500, "engine", f"The model stopped: {type(error).__name__}: {error}")
            left -= finish is not None
            yield index, piece, measured, finish

    def end(self) -> None:
        """Stop what is still in the making."""
        for reply in self.replies:
            reply.cancelled = True

    async def whole(self) -> Json:
        """The answer in one piece."""
        try:
            async for _ in self.news():
                pass
        finally:  # also where the client has gone away
            self.end()
        return {**self.head, "choices": [choice(r) for r in self.replies], "usage": self.usage()}

    async def stream(self) -> AsyncIterator[str]:
        """The answer in pieces, as server-sent events."""
        try:
            for index in range(len(self.replies)):
                yield self.event(index, {"role": "assistant", "content": ""})
            seen = [0] * len(self.replies)
            async for index, piece, measured, finish in self.news():
                logprobs = self.replies[index].logprobs[seen[index] : measured]
                if piece or logprobs:
                    yield self.event(index, {"content": piece}, logprobs)
                    seen[index] = max(measured, seen[index])
                if finish:
                    yield self.event(index, {}, finish=finish)
            if self.counts:
                yield sse({**self.head, "choices": [], "usage": self.usage()})
            yield "data: [DONE]\n\n"
        except Refusal as error:
            yield sse(error.body())
        finally:
            self.end()

    @property
    def counts(self) -> bool:
        """Whether a stream's last piece counts the tokens."""
        return bool(self.wish.stream_options and self.wish.stream_options.include_usage)

    def event(
        self, index: int, delta: Json, logprobs: list[Json] | None = None, finish: str | None = None
    ) -> str:
        """One chunk of a stream."""
        told: Json = {"index": index, "delta": delta, "finish_reason": finish}
        told["logprobs"] = {"content": logprobs} if logprobs else None
        return sse({**self.head, "choices": [told]} | ({"usage": None} if self.counts else {}))

    def usage(self) -> Json:
        """The tokens read and written."""
        read, made = len(self.replies[0].prompt), sum(reply.made for reply in self.replies)
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}


def sse(body: Json) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(body)}\n\n"


def choice(reply: Reply) -> Json:
    """A finished reply as one of the answer's choices."""
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    told = {"index": reply.index, "message": message, "finish_reason": reply.finish}
    logprobs = {"content": reply.logprobs, "refusal": None} if reply.wish.logprobs else None
    return {**told, "logprobs": logprobs}


def dtype(folder: Path, size: int, gpu: bool) -> Any:
    """The number format to compute in.

    On a CPU fp32 where it fits twice: an answer then does not depend on what else is in the batch,
    for which fp16 and bf16 round too coarsely, and few CPUs are fast at those. Otherwise, and
    where the checkpoint is quantized or there is a GPU, as it was saved.
    """
    import torch

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    saved = str(config.get("dtype") or config.get("torch_dtype"))
    in_fp32 = size * (1 if saved == "float32" else 2)
    if gpu or "quantization_config" in config or 2 * in_fp32 > machine.ram_bytes()[1]:
        return "auto"
    return torch.float32
