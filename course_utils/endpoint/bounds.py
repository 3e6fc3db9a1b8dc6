"""Replies that fit a JSON schema: which tokens may come next, computed by llguidance.

At each step the library reads the schema as a grammar and names the tokens that can still lead to
a whole reply; all others are left out before one is chosen. It knows neither HTTP nor the model.
"""

import json
from typing import Any

from course_utils.endpoint.refusals import Json, wrong

NAME = "response_format"
# JSON as Python writes it: a model that may choose the spaces fills its reply with them
STRICTLY = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "whitespace_pattern": None,
    "lenient": False,
}


class Bounds:
    """The schemas that one model's replies can be held to."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        """Prepare; `vocabulary` counts the model's logits."""
        self.tokenizer, self.size = tokenizer, max(vocabulary, len(tokenizer))
        self.made: Any = None

    def matcher(self, schema: Json) -> Any:
        """What follows one reply token by token; copy it for each reply.

        Raises:
            Refusal: nothing fits the schema, it is none, or llguidance does not know a keyword.
        """
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        try:
            if self.made is None:
                self.made = from_tokenizer(self.tokenizer, self.size)
            strictly: Any = STRICTLY
            text = json.dumps(schema, allow_nan=False)
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=strictly)
        except (ValueError, TypeError, RecursionError) as error:
            raise refused(error) from None
        matcher = LLMatcher(self.made, grammar, log_level=0)
        allowed(matcher.deep_copy(), self.size)
        return matcher


def allowed(matcher: Any, size: int) -> Any:
    """Which tokens may come next, as a mask of shape (size,).

    Raises:
        Refusal: none may, or the schema is too large to follow.
    """
    import numpy as np
    import torch

    check(matcher)
    bits = matcher.compute_bitmask()
    check(matcher)
    mask = np.unpackbits(np.frombuffer(bits, np.uint8), bitorder="little")[:size]
    return torch.from_numpy(mask.astype(bool))


def check(matcher: Any) -> None:
    """Raise `Refusal` where a schema can be followed no further."""
    if matcher.is_error():
        raise refused(matcher.get_error())


def refused(why: object) -> Any:
    """The refusal of a schema, in llguidance's words."""
    reason = " ".join(str(why).partition("<state>")[0].split())[:300]
    return wrong(NAME, f"`{NAME}`: no reply can be held to this schema: {reason}.")
