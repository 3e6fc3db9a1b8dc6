"""Lesson 05: exercises and self-test."""

from collections.abc import Callable
from typing import Any

from course_utils.checks import Exercise, Question, Wrong


def _parameters(answer: Callable[[int, int, int], int]) -> str:
    """(inputs, outputs, rank) -> what LoRA trains there."""
    for inputs, outputs, rank in ((256, 256, 8), (4096, 11008, 16), (10, 3, 1)):
        found, wanted = answer(inputs, outputs, rank), rank * (inputs + outputs)
        if found == inputs * outputs:
            raise Wrong("That counts W, the frozen layer. LoRA trains A and B beside it.")
        if found != wanted:
            raise Wrong(f"For {inputs} inputs, {outputs} outputs, rank {rank} it gives {found!r}.")
    return "Inputs plus outputs, where the layer itself has inputs times outputs."


def _mask(answer: Callable[[list[int], list[int]], list[int]]) -> str:
    """(prompt ids, ids of prompt and answer) -> labels for the loss."""
    for prompt, whole in (([1, 5, 6, 7], [1, 5, 6, 7, 9, 2]), ([1, 1], [1, 1, 1]), ([4], [4, 8])):
        found = answer(list(prompt), list(whole))
        wanted = [-100] * len(prompt) + whole[len(prompt) :]
        if not isinstance(found, list) or len(found) != len(whole):
            raise Wrong(f"For {whole} there should be a list of {len(whole)} labels.")
        if found == list(whole):
            raise Wrong("Nothing is masked: the loss would count the prompt too.")
        if found[len(prompt) :] != wanted[len(prompt) :]:
            raise Wrong(f"The answer's own ids are missing: {found}.")
        if found != wanted:
            raise Wrong(f"A place of the prompt still counts: {found}.")
    return "A label of -100 is skipped by PyTorch's cross entropy."


def _training_bytes(answer: Callable[[int, int, float], float]) -> str:
    """(frozen, trained, bytes of a frozen parameter) -> bytes for weights, gradients, AdamW."""
    for frozen, trained, each in ((0, 1000, 2.0), (7_000_000_000, 40_000_000, 2.0), (800, 8, 0.5)):
        found, wanted = answer(frozen, trained, each), frozen * each + 16 * trained
        if abs(found - wanted) <= 1e-6 * wanted:
            continue
        if abs(found - frozen * (each + 12) - 16 * trained) <= 1e-6 * wanted:
            raise Wrong("Frozen parameters have no gradient and no optimizer state.")
        raise Wrong(
            f"For {frozen:,} frozen parameters of {each:g} bytes and {trained:,} trained ones "
            f"it gives {found:,.0f} bytes."
        )
    return "With 7 billion parameters frozen in 2 bytes each, training adds well under a GB."


def _merge(answer: Callable[..., Any]) -> str:
    """(W, A, B, alpha) -> the merged weight."""
    import torch

    draw = torch.Generator().manual_seed(0)
    weight, a, b = (torch.randn(*s, generator=draw) for s in ((5, 7), (2, 7), (5, 2)))
    before = weight.clone()
    for alpha in (4, 2, 16):
        found = answer(weight, a, b, alpha)
        if not isinstance(found, torch.Tensor) or found.shape != weight.shape:
            raise Wrong(f"The result should have the shape of W, {tuple(weight.shape)}.")
        if torch.allclose(found, weight + alpha * b @ a, atol=1e-5):
            raise Wrong("The update is too large: alpha is divided by something first.")
        if not torch.allclose(found, weight + alpha / 2 * b @ a, atol=1e-5):
            raise Wrong("The result is not what the layer with LoRA beside it computes.")
        if not torch.equal(weight, before):
            raise Wrong("W itself was changed; return a new tensor.")
    return "One matrix again: no extra work when the model runs."


def _leaks(answer: Callable[[list[str], list[str]], Any]) -> str:
    """(train texts, test texts) -> the test texts that are in training too."""
    train = ["Beat estimates.", "Loss  narrowed, shares up", "Guidance cut!"]
    test = ["beat estimates", "A new text.", "LOSS narrowed; shares up.", "Guidance cut"]
    found = list(answer(list(train), list(test)))
    for text in (test[0], test[2], test[3]):
        if text not in found:
            raise Wrong(f"It misses {text!r}: capitals, spaces and punctuation make no new text.")
    if test[1] in found:
        raise Wrong("It reports a text that is in the test only.")
    if list(answer(["a b"], [])) or list(answer([], ["a b"])) or list(answer(["ab"], ["a b"])):
        raise Wrong("It reports a leak between texts that differ.")
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
