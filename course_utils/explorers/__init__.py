"""Explorers: sliders and boxes to try a lesson's idea on; pictures while a program runs them."""

from course_utils.explorers.bias import bias
from course_utils.explorers.bill import bill
from course_utils.explorers.bounded import bounded
from course_utils.explorers.chat import chat_stepper
from course_utils.explorers.fitting import formats, rounding, vram
from course_utils.explorers.lora import lora_counter
from course_utils.explorers.playground import endpoint_playground, playground
from course_utils.explorers.tokens import next_token

__all__ = [
    "bias",
    "bounded",
    "bill",
    "chat_stepper",
    "endpoint_playground",
    "formats",
    "lora_counter",
    "next_token",
    "playground",
    "rounding",
    "vram",
]
