"""Fine-tuning's surroundings: the learner's own data, the loss drawn, files kept whole.

    examples = tuning.read("my_data.csv")          # (text, label) pairs, bad rows named by line
    tuning.check(examples, tokenizer, ask)         # can this model learn from them?
    tuning.training(config, "lora", rank=8)        # predicted bytes, part by part

What a fine-tuning lesson teaches (`LoraConfig`, `SFTTrainer`, the mask) is not here: that stands in
the notebook.
"""

from course_utils.memory.training import METHODS, training
from course_utils.replies import parser
from course_utils.tuning.checking import check
from course_utils.tuning.curve import check_loss, loss_curve
from course_utils.tuning.handover import to_gguf
from course_utils.tuning.quiet import prepare
from course_utils.tuning.reading import read
from course_utils.tuning.saving import newest_checkpoint, writing
from course_utils.tuning.splitting import split

__all__ = [
    "METHODS",
    "check",
    "check_loss",
    "loss_curve",
    "newest_checkpoint",
    "parser",
    "prepare",
    "read",
    "split",
    "to_gguf",
    "training",
    "writing",
]
