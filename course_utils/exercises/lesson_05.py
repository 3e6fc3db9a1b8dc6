"""Lesson 05: exercises and self-test."""

from collections.abc import Callable
from typing import Any

from course_utils.checks import Exercise, Question, Wrong
from course_utils.exercises import returned


def _parameters(answer: Callable[[int, int, int], int]) -> str:
    """(inputs, outputs, rank) -> what LoRA trains there."""
    for inputs, outputs, rank in ((256, 256, 8), (4096, 11008, 16), (10, 3, 1), (7, 5, 2)):
        asked = f"For {inputs} inputs, {outputs} outputs and rank {rank}"
        found = returned.number_for(asked, answer(inputs, outputs, rank))
        if found == inputs * outputs:
            raise Wrong(f"{asked} it counts W, the frozen layer. LoRA trains A and B beside it.")
        if found in (rank * inputs, rank * outputs):
            raise Wrong(f"{asked} it gives {found:g}: one of the two matrices is missing.")
        if found != rank * (inputs + outputs):
            raise Wrong(f"{asked} it gives {found:g}. Draw A and B for these and count.")
    return "Inputs plus outputs, where the layer itself has inputs times outputs."


def _mask(answer: Callable[[list[int], list[int]], list[int]]) -> str:
    """(prompt ids, ids of prompt and answer) -> labels for the loss."""
    for prompt, whole in (([1, 5, 6, 7], [1, 5, 6, 7, 9, 2]), ([1, 1], [1, 1, 1]), ([4], [4, 8])):
        asked = f"For the prompt {prompt} in {whole}"
        given = list(whole)
        said = answer(list(prompt), given)
        found = returned.ids(said, f"{asked} it gives {said!r}, which is no list of ids.")
        wanted = [-100] * len(prompt) + whole[len(prompt) :]
        if given != whole:
            raise Wrong(f"{asked} it changes whole_ids, which the model still has to read.")
        if len(found) != len(whole):
            raise Wrong(
                f"{asked} there should be {len(whole)} labels, one an id; it gives {found}."
            )
        if found == whole:
            raise Wrong(f"{asked} nothing is masked: the loss would count the prompt too.")
        if found[len(prompt) :] != wanted[len(prompt) :]:
            raise Wrong(f"{asked} it gives {found}: the answer's own ids are not all there.")
        if found != wanted:
            raise Wrong(f"{asked} it gives {found}: a place of the prompt still counts.")
    return "A label of -100 is skipped by PyTorch's cross entropy."


def _training_bytes(answer: Callable[[int, int, float], float]) -> str:
    """(frozen, trained, bytes of a frozen parameter) -> bytes for weights, gradients, AdamW."""
    for frozen, trained, each in ((0, 1000, 2.0), (7_000_000_000, 40_000_000, 2.0), (800, 8, 0.5)):
        asked = (
            f"For {frozen:,} frozen parameters of {each:g} bytes and {trained:,} trained ones "
            "in fp32"
        )
        found = returned.number_for(asked, answer(frozen, trained, each))
        wanted = frozen * each + 16 * trained
        if abs(found - wanted) <= 1e-6 * wanted:
            continue
        if abs(found - frozen * (each + 12) - 16 * trained) <= 1e-6 * wanted:
            raise Wrong(f"{asked}: a frozen one has no gradient and no optimizer state.")
        if abs(found - frozen * each - 12 * trained) <= 1e-6 * wanted:
            raise Wrong(f"{asked}: one of the four parts is missing, or one average of AdamW.")
        raise Wrong(f"{asked} it gives {found:,.0f} bytes.")
    return "With 7 billion parameters frozen in 2 bytes each, training adds well under a GB."


def _merge(answer: Callable[..., Any]) -> str:
    """(W, A, B, alpha) -> the merged weight."""
    import torch

    draw = torch.Generator().manual_seed(0)
    for rank, alpha in ((2, 4), (2, 2), (2, 16), (3, 5)):
        given = [torch.randn(*s, generator=draw) for s in ((5, 7), (rank, 7), (5, rank))]
        weight, a, b = (one.clone() for one in given)
        asked = f"For W of 5 x 7, rank {rank} and alpha {alpha}"
        said = answer(*given, alpha)
        if not all(map(torch.equal, given, (weight, a, b))):
            raise Wrong(f"{asked} it changes a matrix that it was given; return a new one.")
        try:
            found = torch.as_tensor(said).detach().float()
        except (TypeError, ValueError, RuntimeError):
            raise Wrong(f"{asked} it gives {type(said).__name__}, not a matrix.") from None
        if found.shape != weight.shape:
            raise Wrong(f"{asked} it gives the shape {tuple(found.shape)}, not that of W.")
        if torch.allclose(found, alpha / rank * b @ a, atol=1e-5):
            raise Wrong(f"{asked} it gives the update alone, without W.")
        for factor, what in ((alpha, "alpha"), (1, "1"), (0, "0"), (alpha / 7, "alpha / 7")):
            if factor != alpha / rank and torch.allclose(found, weight + factor * b @ a, atol=1e-5):
                raise Wrong(f"{asked} it adds {what} times B A. What does the layer add?")
        if not torch.allclose(found, weight + alpha / rank * b @ a, atol=1e-5):
            raise Wrong(f"{asked} the result is not what the layer with LoRA beside it computes.")
    return "One matrix again: no extra work when the model runs."


LEARNED = ("Beat estimates.", "Loss  narrowed, shares up", "Guidance cut!")
TESTED = {  # test text -> whether it stands in LEARNED
    "beat estimates": True,
    "LOSS narrowed; shares up.": True,
    "Guidance cut": True,
    "A new text.": False,
    "Guidance": False,
    "Guidance cut again by a third.": False,
    "Shares up, loss narrowed": False,
    "Beat estimate": False,
}


def _leaks(answer: Callable[[list[str], list[str]], Any]) -> str:
    """(train texts, test texts) -> the test texts that are in training too."""
    said = answer(list(LEARNED), list(TESTED))
    if isinstance(said, str) or not hasattr(said, "__iter__"):
        raise Wrong(f"It gives {said!r}; several test texts should come back, as a list.")
    found = list(said)
    for text in found:
        if text not in [*TESTED]:
            raise Wrong(f"It gives {text!r}, which is none of the test texts as they stand there.")
    for text, leaks in TESTED.items():
        if leaks and text not in found:
            raise Wrong(f"It misses {text!r}: capitals, spaces and punctuation make no new text.")
        if text in found and not leaks:
            raise Wrong(f"It reports {text!r}, and the training texts are {', '.join(LEARNED)}")
    for train, test in ((["One text."], []), ([], ["One text."])):
        said = answer(train, test)
        if not hasattr(said, "__iter__") or list(said):
            raise Wrong(
                f"For the training texts {train} and the test texts {test} it gives {said!r}."
            )
    return "Run it on every data set before you believe a test score."


EXERCISES = {
    "05.1": Exercise(
        "LoRA's parameters",
        _parameters,
        (
            "A has one row for each unit of rank and one column for each input. And B?",
            "A is rank x inputs, B is outputs x rank. Count the numbers in both.",
            "rank * inputs + outputs * rank",
        ),
    ),
    "05.2": Exercise(
        "the mask",
        _mask,
        (
            "The labels are the ids themselves, with the prompt's places made invisible.",
            "The loss skips -100. How many of them does the prompt need?",
            "[-100] * len(prompt_ids) + whole_ids[len(prompt_ids):]",
        ),
    ),
    "05.3": Exercise(
        "the memory of a training",
        _training_bytes,
        (
            "Add up four things for a trained parameter: weight, gradient, AdamW's two averages.",
            "Each of the four takes 4 bytes. What does a frozen parameter need beyond itself?",
            "frozen * bytes_each + 16 * trained",
        ),
    ),
    "05.4": Exercise(
        "merging by hand",
        _merge,
        (
            "Look at what LoRALinear adds to the layer's output, and do it to the weight.",
            "The update is B times A, scaled. The rank is A's first dimension.",
            "weight + alpha / A.shape[0] * B @ A",
        ),
    ),
    "05.5": Exercise(
        "leaks",
        _leaks,
        (
            "Bring every text into one plain form first, and compare these.",
            "Lower case, and runs of anything that is no letter or digit become one space: re.sub.",
            're.sub(r"\\W+", " ", text.lower()).strip() for each text; a set of those of training',
        ),
    ),
}

QUIZ = [
    Question(
        "Why does LoRA start with B = 0?",
        (
            (
                "So that the first steps are faster and the loss falls sooner.",
                "A step takes as long with any numbers, and the loss starts at the base's own.",
            ),
            (
                "So that the model at the start is exactly the base.",
                "B times A is then zero: training starts from what the base can do.",
            ),
            (
                "So that B needs no gradient and no memory.",
                "B is trained like A: it has gradients, and takes memory.",
            ),
        ),
        1,
    ),
    Question(
        "What takes the most memory when you fully fine-tune with AdamW?",
        (
            (
                "The weights, which are all there at once.",
                "They take one number for each parameter. Something else takes two.",
            ),
            (
                "The gradients of all the layers.",
                "They take as much as the weights, and are not the largest part.",
            ),
            (
                "The optimizer's two averages.",
                "Two fp32 numbers for each parameter: as much as weights and gradients together.",
            ),
        ),
        2,
    ),
    Question(
        "The loss counts only the answer. What would counting the prompt do?",
        (
            (
                "Train the model to write notes like yours, too.",
                "Most of its effort would go into notes that users bring anyway.",
            ),
            (
                "Make every step of the training several times slower.",
                "A step costs the same: the model reads the prompt in both cases.",
            ),
            (
                "Stop the training with an error.",
                "It would run, and the loss would even look fine.",
            ),
        ),
        0,
    ),
    Question(
        "After tuning, accuracy on ordinary reviews drops by 20 points. What helps first?",
        (
            (
                "Train longer on the new domain.",
                "Longer on the same data takes it further away from the old.",
            ),
            (
                "Mix ordinary reviews into the training data.",
                "What is not in the training data is not protected; a few old examples are.",
            ),
            (
                "Raise the learning rate.",
                "Larger steps away from the base forget more.",
            ),
        ),
        1,
    ),
    Question(
        "What does QLoRA keep in 4 bits?",
        (
            (
                "The frozen base weights.",
                "Everything that is trained stays in higher precision.",
            ),
            (
                "The adapter's two matrices, A and B.",
                "They are trained, and small steps would be lost in 4 bits.",
            ),
            (
                "The gradients of the adapter.",
                "They are small numbers that must not be rounded away.",
            ),
        ),
        0,
    ),
    Question(
        "A tuned small model beats a large general one on your test set. What do you know?",
        (
            (
                "That it is better on every text there is.",
                "You tried one kind of text. Lesson 02's reviews are another.",
            ),
            (
                "That small models are always enough.",
                "One task is one task; the next may need more.",
            ),
            (
                "That it is better on texts like those of the test.",
                "A test speaks for the domain it was drawn from; measure what you will meet.",
            ),
        ),
        2,
    ),
]
