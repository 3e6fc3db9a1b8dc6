"""Settings and secrets: one place, one order, never a value shown."""

import builtins
import getpass

import pytest

from course_utils import settings
from course_utils.errors import CourseError

KEY = "a-key-0123456789"


@pytest.fixture
def by_hand(monkeypatch, tmp_path):
    """As for a learner at a keyboard: not run by a program, in an empty folder."""
    monkeypatch.setenv("COURSE_STATIC", "0")
    for name in ("COURSE_MODEL", "COURSE_API_MODEL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_nothing_set_means_pocket(by_hand):
    """A learner who has set nothing up gets a lesson that runs."""
    assert settings.model_name() == settings.POCKET
    assert settings.tier() == "pocket"
    assert settings.api_is_local()
    assert settings.api_model() is None


@pytest.mark.parametrize("value", ["pocket", "Pocket", "  pocket ", "POCKET", "", "  ", '"pocket"'])
def test_pocket_in_any_writing(by_hand, monkeypatch, value):
    """A learner who writes Pocket with a capital is not sent to the hub."""
    monkeypatch.setenv("COURSE_MODEL", value)
    assert settings.tier() == "pocket"


@pytest.mark.parametrize(
    "value", ["smollm2", "SmolLM2", " smollm2 ", "huggingfacetb/SmolLM2-135M-instruct"]
)
def test_smollm2_in_any_writing_is_the_small_tier(by_hand, monkeypatch, value):
    """A learner who names the small model by either name gets its prompts and its label."""
    monkeypatch.setenv("COURSE_MODEL", value)
    assert (settings.tier(), settings.model_name()) == ("small", settings.SMALL)


def test_a_lab_started_in_the_pocket_tier_can_go_online(by_hand, monkeypatch):
    """A learner who names a model in a kernel started offline by the course can download it."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv(settings.SWITCHED_OFF, raising=False)
    settings.prepare()
    monkeypatch.setenv("COURSE_MODEL", "owner/name")
    settings.prepare()
    assert "HF_HUB_OFFLINE" not in settings.os.environ
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    settings.prepare()
    assert settings.os.environ["HF_HUB_OFFLINE"] == "1", "the learner's own setting wins"


def test_another_model_is_full_tier(by_hand, monkeypatch):
    """A learner who names a model sees the full tier's label on every result."""
    monkeypatch.setenv("COURSE_MODEL", "owner/name")
    assert (settings.tier(), settings.model_name()) == ("full", "owner/name")


def test_prepare_switches_the_hub_off_in_pocket_only(by_hand, monkeypatch):
    """A learner without network never waits for one; a learner with a model can download it."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("COURSE_MODEL", "owner/name")
    settings.prepare()
    assert "HF_HUB_OFFLINE" not in settings.os.environ
    monkeypatch.setenv("COURSE_MODEL", "")
    settings.prepare()
    assert settings.os.environ["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    settings.prepare()
    assert settings.os.environ["HF_HUB_OFFLINE"] == "0", "the learner's own setting wins"


def test_environment_comes_before_env_file(by_hand, monkeypatch):
    """A learner who exports a key for one session is not surprised by an old file."""
    (by_hand / ".env").write_text("OPENAI_API_KEY=from-file\n")
    assert settings.secret("OPENAI_API_KEY") == "from-file"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert settings.secret("OPENAI_API_KEY") == KEY


@pytest.mark.parametrize(
    "line",
    [
        f"OPENAI_API_KEY={KEY}",
        f"export OPENAI_API_KEY={KEY}",
        f"  OPENAI_API_KEY = {KEY}  ",
        f'OPENAI_API_KEY="{KEY}"  # mine',
        f"OPENAI_API_KEY='{KEY}'",
        f"OPENAI_API_KEY={KEY} # until May",
    ],
)
def test_ways_to_write_an_env_file(by_hand, monkeypatch, line):
    """A learner's .env works in each of the usual spellings, from a folder below it too."""
    (by_hand / ".env").write_text(f"# a comment\nOTHER=1\n{line}\n")
    (by_hand / "notebooks").mkdir()
    monkeypatch.chdir(by_hand / "notebooks")
    assert settings.secret("OPENAI_API_KEY") == KEY


def test_a_found_key_is_where_the_libraries_look(by_hand):
    """A learner's key from .env reaches OpenAI(), which reads the environment."""
    (by_hand / ".env").write_text(f"OPENAI_API_KEY={KEY}")
    assert not settings.api_is_local()
    assert settings.os.environ["OPENAI_API_KEY"] == KEY


def test_a_base_url_alone_means_another_server(by_hand, monkeypatch):
    """A learner with vLLM or Ollama needs no key."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:11434/v1")
    assert not settings.api_is_local()


def test_a_base_url_from_the_env_file_reaches_the_client(by_hand):
    """A learner's OpenAI() goes to the server that .env names."""
    (by_hand / ".env").write_text("OPENAI_BASE_URL=http://localhost:8000/v1\nCOURSE_API_MODEL=m\n")
    assert not settings.api_is_local()
    assert settings.os.environ["OPENAI_BASE_URL"] == "http://localhost:8000/v1"
    assert settings.api_model() == "m"


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "“curly”", "key\x07", "a\tb"])
def test_a_wrongly_pasted_key_is_named_without_its_value(by_hand, monkeypatch, value):
    """A learner who pastes too much reads which key is wrong, and nobody reads the key."""
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(CourseError) as caught:
        settings.secret("OPENAI_API_KEY")
    assert "OPENAI_API_KEY" in str(caught.value)
    assert value not in str(caught.value)


def test_asking_shows_nothing_and_takes_no_for_an_answer(by_hand, monkeypatch):
    """A learner without a key presses Enter and goes on; the prompt says what happens."""
    asked = []
    monkeypatch.setattr(getpass, "getpass", lambda prompt: asked.append(prompt) or "")
    assert settings.secret("HF_TOKEN_OF_NOBODY", ask=True) is None
    assert "not shown" in asked[0]


def test_a_kernel_without_keyboard_is_not_asked(by_hand, monkeypatch):
    """A learner's scheduled notebook goes on without a key instead of stopping."""

    def no_keyboard(prompt):
        raise NotImplementedError("this frontend does not support input")

    monkeypatch.setattr(getpass, "getpass", no_keyboard)
    assert settings.secret("HF_TOKEN_OF_NOBODY", ask=True) is None


def test_a_program_reads_only_the_environment(by_hand, monkeypatch):
    """A teacher's .env does not end up in the stored outputs, nor does a test wait for a key."""
    (by_hand / ".env").write_text(f"OPENAI_API_KEY={KEY}")
    monkeypatch.setenv("COURSE_STATIC", "1")
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked"))
    assert settings.secret("OPENAI_API_KEY", ask=True) is None
    assert settings.api_is_local()


def test_not_on_colab_here():
    """A learner at home is not asked for Colab's secrets."""
    assert settings.on_colab() is False


def test_errors_say_what_why_and_next():
    """A learner reads three short lines in a notebook, not a traceback."""
    error = CourseError("It broke.", "Because.", "Do this.")
    assert error._render_traceback_() == ["It broke.", "Why:  Because.", "Next: Do this."]
    assert str(CourseError("It broke.")) == "It broke."
