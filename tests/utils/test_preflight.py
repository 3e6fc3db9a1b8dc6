"""The preflight: quick, honest, without secrets, with a next step for each lack."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from course_staff.notebooks import executing
from course_staff.notebooks import store as notebooks
from course_utils import __main__ as commands
from course_utils import machine, models, preflight

SECRET = "sk-" + "7" * 30


def command(*args: str, **more: str) -> subprocess.CompletedProcess:
    """`python -m course_utils ...` as a learner runs it, with nothing set but `more`."""
    env = {k: v for k, v in os.environ.items() if k not in executing.LEARNERS_OWN} | more
    return subprocess.run(
        [sys.executable, "-m", "course_utils", *args],
        env=env,
        cwd=notebooks.ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def found() -> dict:
    done = command("doctor", "--json")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_it_knows_what_the_issue_of_a_lesson_could_be(found):
    """A learner who asks for help can paste one report that holds everything."""
    assert set(found) == {
        "course", "python", "packages", "machine", "network", "secrets", "tier", "lessons", "lacks",
    }  # fmt: skip
    assert {p["name"] for p in found["packages"]} >= {"torch", "transformers", "bitsandbytes"}
    assert all(p["ok"] for p in found["packages"])
    here = found["machine"]
    assert here["cores"] >= 1
    assert here["ram_gib"] >= here["ram_free_gib"] > 0
    assert found["tier"]["tier"] == "pocket"
    assert found["secrets"] == {"OPENAI_API_KEY": "absent", "HF_TOKEN": "absent"}


def test_every_lack_has_a_next_step(found):
    """A learner is never told only what is wrong."""
    assert found["lacks"], "a machine without key and token has lacks"
    for lack in found["lacks"]:
        assert lack["what"].strip()
        assert lack["next"].strip()


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_keys_are_reported_and_never_shown(form):
    """A learner can paste the report into a forum."""
    done = command("doctor", *form, OPENAI_API_KEY=SECRET, HF_TOKEN="hf_" + "b" * 30)
    assert "present" in done.stdout
    for secret in (SECRET, "hf_" + "b" * 30):
        assert secret not in done.stdout + done.stderr


def test_a_wrongly_pasted_key_is_a_lack_not_a_crash():
    """A learner with a broken key still gets the whole report."""
    done = command("doctor", "--json", OPENAI_API_KEY="two words")
    report = json.loads(done.stdout)
    assert report["secrets"]["OPENAI_API_KEY"] == "malformed"
    assert done.returncode == 1
    assert "two words" not in done.stdout


def test_it_is_quick_without_network():
    """A learner on a train does not wait for a time-out: as quick as where all refuse at once."""
    refusing = "http://127.0.0.1:9/v1"
    began = time.monotonic()
    command("doctor", HF_ENDPOINT=refusing, OPENAI_BASE_URL=refusing)
    at_once = time.monotonic() - began
    done = command("doctor", HF_ENDPOINT="http://192.0.2.1", OPENAI_BASE_URL="http://192.0.2.2/v1")
    assert time.monotonic() - began < 6 * at_once
    assert "192.0.2.1 no" in done.stdout


def test_a_name_that_cannot_be_looked_up_does_not_hang():
    """A learner behind a captive portal, where every look-up hangs, gets an answer in time."""
    began = time.monotonic()
    answers = machine.all_reachable([f"no-such-host-{i}.invalid" for i in range(20)], seconds=1)
    assert not any(answers.values())
    assert time.monotonic() - began < 20 / 2, "side by side, not one after another"


def test_reachable_means_that_something_listens():
    """A learner with a proxy or a mirror is told the truth about it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        assert machine.reachable(address)
    assert not machine.reachable(address)


def test_a_proxy_is_what_has_to_answer(monkeypatch):
    """A learner in a company network, where only the proxy can be reached, is online."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "localhost")
        assert machine.reachable("huggingface.invalid")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("poket", "names no model"),
        ("/no/such/folder", "does not exist"),
        ("owner/name", "out of reach"),
    ],
)
def test_a_wrong_model_is_what_stops(model, says):
    """A learner reads about a wrong COURSE_MODEL before the first lesson does."""
    done = command("doctor", "--json", COURSE_MODEL=model, HF_ENDPOINT="http://127.0.0.1:9")
    stops = [lack["what"] for lack in json.loads(done.stdout)["lacks"] if lack["stops"]]
    assert any(says in what for what in stops), stops
    assert done.returncode == 1


def test_a_folder_as_model_is_full_tier():
    """A learner who names a folder sees that it will be used."""
    report = json.loads(command("doctor", "--json", COURSE_MODEL=str(models.POCKET)).stdout)
    assert report["tier"]["tier"] == "full"
    assert report["tier"]["model"] == str(models.POCKET)
    assert all(lesson["fits"] for lesson in report["lessons"]), "a small model needs little"


def test_another_api_is_named_by_host():
    """A learner sees where the requests of lesson 01 would go, without the path or a key."""
    url = "http://localhost:11434/v1"
    done = command("doctor", "--json", OPENAI_BASE_URL=url, COURSE_API_MODEL="llama2")
    tier = json.loads(done.stdout)["tier"]
    assert (tier["api"], tier["api_model"]) == ("localhost:11434", "llama2")


def t4() -> machine.Gpu:
    return machine.Gpu("Tesla T4", "cuda", 15 * 2**30, 14 * 2**30, (7, 5))


@pytest.mark.parametrize(
    ("capability", "native"), [((7, 5), False), ((8, 0), True), ((8, 9), True), ((9, 0), True)]
)
def test_bf16_is_native_from_ampere_on(capability, native):
    """A learner with a T4 is not sent into emulated bf16."""
    gpu = machine.Gpu("a GPU", "cuda", 0, 0, capability)
    assert gpu.bf16_native is native


def test_a_t4_gets_its_advice(monkeypatch):
    """A learner on Colab's free GPU reads which dtype to pass."""
    monkeypatch.setattr(machine, "gpus", lambda: [t4()])
    report = preflight.report()
    assert report["machine"]["gpus"][0]["capability"] == "7.5"
    advice = [lack["next"] for lack in report["lacks"] if "bf16" in lack["what"]]
    assert advice == ["Pass dtype=torch.float16 where a lesson loads a model."]
    assert "emulated only" in preflight.as_text(report)


def test_a_lesson_that_does_not_fit_is_named(monkeypatch):
    """A learner with little memory reads which lesson will not run, and what to do."""
    lesson = {
        "lesson": "02", "title": "Local Llama",
        "pocket": {"memory_gib": 10**4, "run_minutes": 1, "download": "nothing"},
    }  # fmt: skip
    monkeypatch.setattr(preflight.data, "table", lambda name: [lesson])
    report = preflight.report()
    assert report["lessons"][0]["fits"] is False
    assert any("lesson 02" in lack["what"] and lack["stops"] for lack in report["lacks"])
    assert "too big" in preflight.as_text(report)


def test_in_a_notebook_it_is_a_table_with_text():
    """A learner sees tables; whoever cannot sees the same as text."""
    shown = preflight.show()
    bundle = shown._repr_mimebundle_()
    assert bundle["text/html"].count("<table>") >= 2
    assert bundle["text/plain"] == repr(shown)
    assert "CPU cores" in bundle["text/html"]
    assert "<script" not in bundle["text/html"]


# -- the other commands --------------------------------------------------------------------------


def test_progress_names_every_lesson():
    """A learner sees at a glance what is left."""
    done = command("progress")
    assert done.returncode == 0
    assert "Lesson 00: 0 of" in done.stdout


def test_an_unknown_command_names_the_known_ones():
    """A learner who mistypes a command reads which ones there are."""
    done = command("docter")
    assert done.returncode == 2
    assert "doctor" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_lab_takes_further_arguments():
    """A learner's misspelt option is not swallowed."""
    args, rest = commands.parser().parse_known_args(["lab", "--port", "9000"])
    assert (args.command, rest) == ("lab", ["--port", "9000"])
    assert command("doctor", "--jsno").returncode == 2
