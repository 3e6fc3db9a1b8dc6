"""The measuring of memory: exact bytes, and `free()` that proves the return to the baseline."""

import gc
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from course_staff.recording.build import load_arguments
from course_utils.errors import CourseError
from course_utils.memory import measured as memory
from course_utils.memory import predict, tensors
from course_utils.memory.rungs import LADDER
from course_utils.models import POCKET
from course_utils.units import size

QUICK = ("fp16", "int8", "nf4-dq")
LOADABLE = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow])
    for name in LADDER
    if not name.startswith("gptq")
]


def load(name: str):
    """Pocket Llama on a rung."""
    return AutoModelForCausalLM.from_pretrained(POCKET, **load_arguments(name))


@pytest.fixture(autouse=True)
def clean():
    """Each test starts and ends at its own baseline."""
    gc.collect()
    memory._baseline, memory._clean = None, True
    yield
    memory._baseline, memory._clean = None, True


@pytest.mark.parametrize("name", LOADABLE)
def test_measured_weights_are_the_predicted_ones(name):
    """A learner who compares the two columns of the ladder: they agree within 1 %, by part too."""
    with memory.measure() as used:
        model = load(name)
    predicted = predict.weights(predict.config(POCKET), name)
    measured = memory.tensor_bytes(model)
    assert measured.keys() == predicted.parts.keys()
    for part, expected in predicted.parts.items():
        assert measured[part] == pytest.approx(expected, rel=0.01), part
    assert sum(measured.values()) == pytest.approx(predicted.total, rel=0.01)
    # the first load on a rung also makes a library's tables, some hundred bytes
    assert used.kept == pytest.approx(sum(measured.values()), abs=4096)


@pytest.mark.slow
def test_free_returns_to_the_baseline_twenty_times():
    """A learner who runs the ladder again and again: nothing stays, to the byte."""
    totals = []
    for turn in range(20):
        with memory.measure() as used:
            model = load(("fp16", "int8", "nf4", "nf4-dq", "fp4")[turn % 5])
            model(torch.tensor([[1, 5, 7, 9]]))
        assert used.kept > 1_000_000
        del model
        freed = memory.free()
        assert freed.held == 0 and freed.returned, str(freed)
        if turn >= 5:
            assert freed.library_tables == 0
        totals.append(sum(s.nbytes for s in tensors.live().values()))
    assert len(set(totals[5:])) == 1


@pytest.mark.slow  # it looks through every module that the tests before it have loaded
def test_free_names_the_variable_that_still_holds_a_model():
    """A learner who forgot `del`: the message says which variable, how much, and what to do."""
    with memory.measure():
        kept_by_mistake = load("fp16")
        inside_a_list = [kept_by_mistake.lm_head]
    freed = memory.free()
    assert not freed.returned
    names = dict(freed.holders)
    mine = "test_free_names_the_variable_that_still_holds_a_model()"
    total = sum(memory.tensor_bytes(kept_by_mistake).values())
    assert freed.held == names[f"kept_by_mistake in {mine}"] == total
    assert names[f"inside_a_list in {mine}"] == kept_by_mistake.lm_head.weight.nbytes
    assert f"{size(total)} still held" in str(freed) and "memory.free() again" in str(freed)
    del kept_by_mistake, inside_a_list
    assert memory.free().returned


def two_holders():
    """A closure over a tensor, and a method bound to it."""
    weight = torch.ones(100_000)

    def closure():
        return weight

    return closure, weight.sum


@pytest.mark.slow
def test_a_function_or_an_object_that_holds_a_model_is_found():
    """A learner whose pipeline or closure keeps the model alive: that name is given."""
    with memory.measure():
        closure, bound = two_holders()
    names = [who for who, _ in memory.free().holders]
    assert any(who.startswith("closure in ") for who in names)
    assert any(who.startswith("bound in ") for who in names)
    del closure, bound
    assert memory.free().returned


@pytest.mark.slow
def test_the_variables_of_a_classs_body_stay():
    """Whoever frees memory inside a class's body, or in code that exec runs: nothing is lost."""
    program = """
import torch
from course_utils import memory
with memory.measure():
    held = torch.ones(1_000)
class Run:
    name = "first"
    freed = memory.free()
    again = name
inside = {"run": "second"}
exec("memory.free(); again = run", {"memory": memory}, inside)
print("SAID", Run.again, Run.freed.held, inside["again"])
"""
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False
    )
    assert "SAID first 4000 second" in answer.stdout, answer.stdout + answer.stderr


@pytest.mark.slow
def test_colabs_shell_is_not_named_as_a_holder():
    """A learner on Colab: `free()` must not tell them to delete `get_ipython`."""
    from IPython.core.interactiveshell import InteractiveShell

    shell_class = type("Shell", (InteractiveShell,), {"__module__": "google.colab._shell"})
    shell = shell_class.__new__(shell_class)
    with memory.measure():
        shell.__dict__["user_ns"] = {"model": torch.ones(100_000)}
        get_ipython = shell.run_cell
    names = [who for who, _ in memory.free().holders]
    assert not any(who.startswith(("shell in ", "get_ipython in ")) for who in names), names
    del shell.__dict__["user_ns"], get_ipython
    assert memory.free().returned


def test_loading_again_without_free_still_counts_the_new_model():
    """A learner who runs the loading cell twice: the second has the model's bytes, not zero."""
    with memory.measure():
        model = load("fp16")
    with memory.measure() as again:
        model = load("fp16")
    assert again.kept == sum(memory.tensor_bytes(model).values())
    del model
    assert memory.free().returned


def test_views_and_tied_weights_count_once():
    """A learner whose model ties embeddings and head: they are one piece of memory."""
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    with memory.measure() as used:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
        view = model.lm_head.weight[:10]
    assert used.kept == sum(memory.tensor_bytes(model).values())
    assert memory.tensor_bytes(model) == predict.weights(config, "fp16").parts
    del model, view


def test_the_peak_on_a_cpu_is_exact():
    """A learner without a GPU: the peak of an operation is counted, not guessed from RAM."""
    x = torch.ones(1000)
    with memory.measure(watch=True) as used:
        y = x + 1  # 4,000 bytes
        y = y * 2  # 4,000 more while the first are still there
        y.add_(1)  # in place: nothing
    assert (used.peak, used.kept, used.device) == (8000, 4000, "cpu")
    del y


def test_giving_back_old_memory_counts_in_the_peak():
    """A learner who replaces a large tensor by a small one: the peak is not the sum of both."""
    big = torch.ones(100_000)
    with memory.measure(watch=True) as used:
        del big
        small = torch.ones(1000)
    assert used.peak == 0 and used.kept == 4000
    del small


def test_blocks_can_be_nested():
    """A learner who measures a generation inside a measured cell: both are right."""
    with memory.measure(watch=True) as outer:
        first = torch.ones(1000)
        with memory.measure(watch=True) as inner:
            second = torch.ones(500)
    assert (outer.kept, inner.kept) == (6000, 2000)
    assert (outer.peak, inner.peak) == (6000, 2000)
    del first, second
    assert memory.free().returned


def test_free_without_a_baseline_says_so():
    """A learner who calls free() first thing: a sentence, no AttributeError."""
    with pytest.raises(CourseError, match="no baseline"):
        memory.free()


def failing(weight):
    """A function that ends in an error, with its argument in its frame."""
    inside = weight * 2
    raise ValueError(len(inside))


@pytest.mark.slow
def test_an_error_that_a_learner_keeps_stays_whole():
    """A learner who keeps an error for %debug: free() leaves its variables, and names it."""
    with memory.measure():
        weight = torch.ones(100_000)
        try:
            failing(weight)
        except ValueError as error:
            kept = error
        try:
            failing(torch.ones(5))
        except ValueError as error:
            others = [error]
        del weight
    freed = memory.free()
    frame = kept.__traceback__.tb_next.tb_frame
    assert frame.f_locals["inside"].numel() == 100_000, "the learner's error is empty"
    assert others[0].__traceback__.tb_next.tb_frame.f_locals["weight"].numel() == 5
    assert any(who.startswith("kept in ") for who, _ in freed.holders), freed
    del kept, others, frame
    assert memory.free().returned


@pytest.mark.slow
def test_an_error_that_nobody_keeps_does_not_hold_a_model():
    """A learner whose library stored an error while it loaded: its frames let go of the model."""
    stored = type(sys)("a_library")
    stored.__file__ = torch.__file__
    sys.modules["a_library"] = stored
    try:
        with memory.measure():
            try:
                failing(torch.ones(100_000))
            except ValueError as error:
                stored.note = error
        assert memory.free().returned
    finally:
        del sys.modules["a_library"]


@pytest.mark.parametrize(
    "layout",
    [
        "to_sparse",
        pytest.param("to_sparse_csr", marks=pytest.mark.slow),
        pytest.param("to_sparse_csc", marks=pytest.mark.slow),
    ],
)
def test_sparse_tensors_are_counted(layout):
    """A learner with a sparse matrix: its indices and values count, and nothing crashes."""
    dense = torch.eye(100)
    with memory.measure(watch=True) as used:
        sparse = getattr(dense, layout)()
        product = sparse @ torch.ones(100, 1)
    inside = sum(part.untyped_storage().nbytes() for part in tensors.plain(sparse))
    assert inside >= 100 * 4 + 100 * 8
    assert used.kept == pytest.approx(inside + product.nbytes, abs=64)
    assert used.peak >= used.kept
    del sparse, product
    assert memory.free().returned


@pytest.mark.slow
def test_what_a_notebook_remembers_of_other_things_stays():
    """A learner who frees a model keeps Out and the error of another cell, for %debug."""
    cells = """
import sys, torch
from IPython.core.interactiveshell import InteractiveShell
from course_utils import memory
shell = InteractiveShell.instance(user_module=sys.modules["__main__"])
for cell in (
    "with memory.measure():\\n    model = torch.ones(100_000)",
    "model", "6 * 7", "def use(n):\\n    inside = n\\n    return 1 / 0\\nuse(5)",
    "del model\\nfreed = memory.free()",
):
    shell.run_cell(cell, store_history=True)
print("RETURNED", freed.returned, "OUT", dict(shell.user_ns["_oh"]))
print("INSIDE", sys.last_traceback.tb_next.tb_next.tb_frame.f_locals)
"""
    answer = subprocess.run(
        [sys.executable, "-c", cells], capture_output=True, text=True, timeout=300, check=False
    )
    said = answer.stdout + answer.stderr
    assert "RETURNED True OUT {3: 42}" in said, said
    assert "INSIDE {'n': 5, 'inside': 5}" in said, said


@pytest.mark.slow
def test_what_a_notebook_remembers_does_not_keep_a_model():
    """A learner who displays the model, or whose cell failed: Out and the traceback let go."""
    cells = f"""
import torch
from transformers import AutoModelForCausalLM
from IPython.core.interactiveshell import InteractiveShell
from course_utils import memory
import sys
shell = InteractiveShell.instance(user_module=sys.modules["__main__"])
for cell in (
    "with memory.measure():\\n"
    "    model = AutoModelForCausalLM.from_pretrained({str(POCKET)!r}, dtype=torch.float16)",
    "model",
    "model.lm_head.weight",
    "def use(m):\\n    here = m\\n    return 1 / 0\\nuse(model)",
    "del model",
    "freed = memory.free()",
):
    shell.run_cell(cell, store_history=True)
print("RETURNED", freed.returned, freed)
"""
    answer = subprocess.run(
        [sys.executable, "-c", cells], capture_output=True, text=True, timeout=300, check=False
    )
    assert "RETURNED True" in answer.stdout, answer.stdout + answer.stderr
