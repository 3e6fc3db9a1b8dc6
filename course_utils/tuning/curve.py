"""While it trains: a progress bar, the loss drawn as it falls, and a stop where it blows up."""

import math
from typing import Any

from course_utils import plots, settings
from course_utils.errors import CourseError
from course_utils.plots import Shown


def loss_curve() -> Any:
    """A callback for `SFTTrainer(callbacks=[...])`: a progress bar, and the loss drawn as it falls.

    `curve.train` and `curve.validation` hold (step, loss) pairs; `curve.picture()` is the curve.
    It stops the training with a `CourseError` where the loss is no number any more. A program
    that runs the notebook gets no bar and no moving picture.
    """
    from transformers import TrainerCallback

    return type("LossCurve", (LossCurve, TrainerCallback), {})()


class LossCurve:
    """What `loss_curve` adds to transformers' `TrainerCallback`, which takes seconds to import."""

    def __init__(self) -> None:
        """Start empty."""
        self.train: list[tuple[int, float]] = []
        self.validation: list[tuple[int, float]] = []
        self._handle: Any = None
        self._bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start anew, and have the trainer report a loss that is not a number."""
        from tqdm.auto import tqdm

        if state.global_step == 0:
            self.train, self.validation = [], []
        args.logging_nan_inf_filter = False
        self._handle = None
        if self._bar is not None:  # of a training that was interrupted
            self._bar.close()
        steps, done = state.max_steps, state.global_step
        self._bar = tqdm(total=steps, initial=done, unit="step", disable=settings.static())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the bar on."""
        self._bar.update()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Take up what was logged; stop where it is no number."""
        found = logs or {}
        for key, line in (("loss", self.train), ("eval_loss", self.validation)):
            if key in found:
                check_loss(float(found[key]), state.global_step)
                # after a resume the steps since the checkpoint are logged again
                line[:] = [point for point in line if point[0] < state.global_step]
                line.append((state.global_step, float(found[key])))
        if not settings.static():
            self._draw()

    def _draw(self) -> None:
        """Put the picture up, or in place of the last one."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(self.picture(), display_id=True)
        else:
            self._handle.update(self.picture())

    def picture(self) -> Shown:
        """Both curves; the text gives first and last values, to one digit."""
        lines = {"train": self.train, "validation": self.validation}
        return plots.curves(lines, "Loss on the answer", "step", "loss")


def check_loss(loss: float, step: int) -> None:
    """Raise `CourseError` where a loss is not a number, or infinite."""
    if not math.isfinite(loss):
        raise CourseError(
            f"The loss is {loss} at step {step}: training has blown up.",
            "Mostly the learning rate is too high, or fp16 overflowed.",
            "Load the base again, take a third of the learning rate, and on a GPU bf16 where it "
            "has it. What was trained in this run is lost.",
        )
