"""Predictions before the answer: what is asked, kept and compared."""

import pytest

from course_utils import guesses


@pytest.fixture
def learner(monkeypatch):
    """A learner at a screen, who has guessed nothing yet."""
    monkeypatch.setenv("COURSE_STATIC", "0")
    monkeypatch.setattr(guesses, "_made", {})


def click(asked, text):
    """Click the option with this text."""
    (button,) = [b for b in asked.children[1].children if getattr(b, "description", "") == text]
    button.click()


def test_a_chosen_option_is_compared(learner, capsys):
    """A learner who clicks a prediction reads it beside what was measured."""
    click(guesses.guess("tokens", "How many?", 9, 12, 15), "9")
    guesses.guessed("tokens", 12, "tokens")
    assert capsys.readouterr().out == "It is 12 tokens. You guessed 9.\n"
    click(guesses.guess("tokens", "How many?", 9, 12, 15), "12")
    guesses.guessed("tokens", 12, "tokens")
    assert capsys.readouterr().out == "It is 12 tokens, as you guessed.\n"


@pytest.mark.parametrize(("typed", "measured"), [(12, 12), (12.0, 12), (0.5, 0.50), (90, "90")])
def test_a_typed_number_equals_the_same_number(learner, typed, measured, capsys):
    """A learner who types 12 into a box that says 12.0 is not told that they missed."""
    guesses.guess("n", "How many?").children[1].children[0].value = typed
    guesses.guessed("n", measured)
    assert capsys.readouterr().out == f"It is {measured}, as you guessed.\n"


def test_a_typed_number_is_shown_as_it_was_typed(learner, capsys):
    """A learner who typed a million reads no 1e+06."""
    guesses.guess("n", "How many?").children[1].children[0].value = 1_000_000
    guesses.guessed("n", 22)
    assert "You guessed 1000000." in capsys.readouterr().out


def test_without_a_guess_the_answer_stands_alone(learner, capsys):
    """A learner who skips the question is not stopped."""
    guesses.guessed("skipped", "Negative")
    assert capsys.readouterr().out == "It is Negative. You made no guess.\n"


def test_a_cell_run_again_keeps_the_guess(learner, capsys):
    """A learner who goes back over a section finds what they had said."""
    click(guesses.guess("label", "Which?", "Positive", "Negative"), "Negative")
    again = guesses.guess("label", "Which?", "Positive", "Negative")
    assert "You say: Negative" in again.children[1].children[-1].value


def test_a_program_reads_the_question(monkeypatch, capsys):
    """A reader on the web sees what is asked; what is stored is the same for everybody."""
    monkeypatch.setenv("COURSE_STATIC", "1")
    assert guesses.guess("label", "Which?", "one", "two") is None
    assert capsys.readouterr().out == "Your guess first: Which? (one / two)\n"
