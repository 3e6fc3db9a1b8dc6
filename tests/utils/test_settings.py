"""Settings and secrets: one place, one order, never a value shown."""

import builtins
import os
import sys

import pytest

from course_utils import machine, settings
from course_utils.endpoint.handle import Server
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
    assert "HF_HUB_OFFLINE" not in os.environ
    monkeypatch.setenv("COURSE_MODEL", "")
    settings.prepare()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    settings.prepare()
    assert os.environ["HF_HUB_OFFLINE"] == "0", "the learner's own setting wins"


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
    assert os.environ["OPENAI_API_KEY"] == KEY


def test_a_base_url_alone_means_another_server(by_hand, monkeypatch):
    """A learner with vLLM or Ollama needs no key."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:11434/v1")
    assert not settings.api_is_local()


def test_a_base_url_from_the_env_file_reaches_the_client(by_hand):
    """A learner's OpenAI() goes to the server that .env names."""
    (by_hand / ".env").write_text("OPENAI_BASE_URL=http://localhost:8000/v1\nCOURSE_API_MODEL=m\n")
    assert not settings.api_is_local()
    assert os.environ["OPENAI_BASE_URL"] == "http://localhost:8000/v1"
    assert settings.api_model() == "m"


@pytest.mark.parametrize("value", ["two words", "line\nbreak", "“curly”", "key\x07", "a\tb"])
def test_a_wrongly_pasted_key_is_named_without_its_value(by_hand, monkeypatch, value):
    """A learner who pastes too much reads which key is wrong, and nobody reads the key."""
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(CourseError) as caught:
        settings.secret("OPENAI_API_KEY")
    assert "OPENAI_API_KEY" in str(caught.value)
    assert value not in str(caught.value)


def test_a_corrected_env_file_counts_at_once(by_hand, monkeypatch):
    """A learner who mends a wrong key in .env runs the cell again and need not restart."""
    path = by_hand / ".env"
    path.write_text("OPENAI_API_KEY=wrong\nOPENAI_BASE_URL=http://one/v1")
    assert settings.secret("OPENAI_API_KEY") == "wrong"
    assert settings.plain("OPENAI_BASE_URL") == "http://one/v1"
    path.write_text(f"OPENAI_API_KEY={KEY}\n")
    assert settings.secret("OPENAI_API_KEY") == KEY == os.environ["OPENAI_API_KEY"]
    assert settings.plain("OPENAI_BASE_URL") is None
    path.unlink()
    assert settings.api_is_local()
    path.write_text("OPENAI_API_KEY=of-the-file")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert settings.secret("OPENAI_API_KEY") == KEY, "the environment still comes first"


def test_a_file_of_another_account_gets_no_key(by_hand, monkeypatch):
    """A learner in a shared folder, where somebody else laid a .env that names their server."""
    course = by_hand / "alice" / "course"
    course.mkdir(parents=True)
    for folder in (by_hand, by_hand / "alice"):
        (folder / ".env").write_text("OPENAI_BASE_URL=http://127.0.0.1:9/v1")
    monkeypatch.chdir(course)
    strangers = {by_hand / ".env", by_hand / "alice" / ".env"}
    monkeypatch.setattr(settings, "_is_mine", lambda path: path not in strangers)
    assert settings.plain("OPENAI_BASE_URL") is None
    strangers.clear()
    assert settings.plain("OPENAI_BASE_URL") == "http://127.0.0.1:9/v1"
    strangers |= {by_hand / "alice"}
    (by_hand / "alice" / ".env").unlink()
    assert settings.plain("OPENAI_BASE_URL") is None, "above a stranger's folder nothing counts"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="chown needs root")
def test_owners_are_told_apart_on_a_real_file(by_hand, monkeypatch):
    """The same with a file that really belongs to another account."""
    (by_hand / "course").mkdir()
    (by_hand / ".env").write_text("OPENAI_BASE_URL=http://127.0.0.1:9/v1")
    monkeypatch.chdir(by_hand / "course")
    assert settings.env_files() == [by_hand / ".env"]
    os.chown(by_hand / ".env", 65534, 65534)
    assert settings.env_files() == []


@pytest.mark.parametrize("end", [".git", "home"])
def test_the_search_ends_at_the_project_or_home(by_hand, monkeypatch, end):
    """A learner whose project lies below a folder of other projects reads its own .env only."""
    project = by_hand / "project"
    (project / "notebooks").mkdir(parents=True)
    (by_hand / ".env").write_text(f"OPENAI_API_KEY={KEY}")
    monkeypatch.chdir(project / "notebooks")
    if end == "home":
        monkeypatch.setenv("HOME", str(project))
        monkeypatch.setenv("USERPROFILE", str(project))
    else:
        (project / ".git").mkdir()
    assert settings.secret("OPENAI_API_KEY") is None
    (project / ".env").write_text("OPENAI_API_KEY=the-projects-own")
    assert settings.secret("OPENAI_API_KEY") == "the-projects-own"


def test_a_deleted_folder_has_no_env_file(by_hand, monkeypatch):
    """A learner whose working folder was deleted gets no traceback from a setting."""
    gone = by_hand / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert settings.plain("COURSE_API_MODEL") is None


def test_the_hubs_cache_stays_where_it_is(monkeypatch, tmp_path):
    """A learner with GPTQ: the local server finds the model that the notebook has."""
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings.prepare()
    os.environ.setdefault("HF_HOME", "/elsewhere")  # as tokenicer does when it is imported
    assert os.environ["HF_HOME"] == str(tmp_path / "huggingface")
    monkeypatch.setenv("HF_HOME", "mine")
    settings.prepare()
    assert os.environ["HF_HOME"] == "mine"


def test_waiting_threads_do_not_spin_unless_the_learner_says_so(by_hand, monkeypatch):
    """A learner with a browser open: PyTorch's threads leave the cores to each other."""
    for name in settings.WAITING:
        monkeypatch.delenv(name, raising=False)
    settings.prepare()
    assert {k: os.environ[k] for k in settings.WAITING} == settings.WAITING
    for name in settings.WAITING:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    settings.prepare()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE" and "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="GNU OpenMP is a Linux matter")
@pytest.mark.parametrize("busy, threads", [(100.0, 1), (3.0, 2)])
def test_torch_imported_too_early_gives_way_on_a_busy_machine(monkeypatch, busy, threads, capsys):
    """A learner who imports torch first, beside a busy browser: no hundredfold slower model."""
    import psutil
    import torch

    for name in settings.WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: busy)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        settings.prepare()
        assert torch.get_num_threads() == threads
        assert ("one thread" in capsys.readouterr().out) == (threads == 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "address",
    ["http://user:SEKRET@host:1/v1", "https://SEKRET@host/v1", "http://u:SEK/RET@host/SEKRET@x"],
)
def test_no_message_shows_a_password_inside_an_address(address):
    """A learner who pastes an error into a forum: no password in it."""
    said = str(CourseError(f"{address} is away.", f"({address})", f"Look at {address}"))
    assert "SEK" not in said and "//" in said
    for shown in (Server(address, "key", "model", "").where, machine.host(address)):
        assert "SEK" not in shown and shown


def test_a_program_reads_only_the_environment(by_hand, monkeypatch):
    """A teacher's .env does not end up in the stored outputs, nor does a test wait for a key."""
    (by_hand / ".env").write_text(f"OPENAI_API_KEY={KEY}")
    monkeypatch.setenv("COURSE_STATIC", "1")
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("asked"))
    assert settings.secret("OPENAI_API_KEY") is None
    assert settings.api_is_local()


def test_not_on_colab_here():
    """A learner at home is not asked for Colab's secrets."""
    assert settings.on_colab() is False


def test_errors_say_what_why_and_next():
    """A learner reads three short lines in a notebook, not a traceback."""
    error = CourseError("It broke.", "Because.", "Do this.")
    assert error._render_traceback_() == ["It broke.", "Why:  Because.", "Next: Do this."]
    assert str(CourseError("It broke.")) == "It broke."
