"""`python -m course_staff serve`: one endpoint for a whole class."""

import csv
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from course_staff.__main__ import main
from course_staff.classroom import serving as classroom
from course_utils import endpoint, settings
from course_utils.errors import CourseError

KEY = "beans-are-fresh-and-hand-picked"


@pytest.fixture(autouse=True)
def no_account(monkeypatch):
    """An instructor without an account, whatever tests before this one have set."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "COURSE_API_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def server():
    """The endpoint of an instructor without a key: Pocket Llama is behind it."""
    with classroom.start(port=0, key=KEY) as running:
        yield running


@pytest.fixture
def learner(server, monkeypatch):
    """A learner who has set what the instructor wrote on the board."""
    for line in classroom.instructions(server).splitlines():
        name, equals, value = line.strip().partition("=")
        if equals:
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("COURSE_API_MODEL", raising=False)


@pytest.mark.slow
def test_the_lesson_talks_to_the_class_server(server, learner):
    """A learner in class: the two variables are enough, and the lesson says who answers."""
    from openai import OpenAI

    assert not settings.api_is_local()
    own = endpoint.start()
    assert not own.local and own.model == "pocket_llama"
    client = OpenAI(base_url=own.base_url, api_key=own.key)
    messages = [{"role": "user", "content": "I love this place!"}]
    reply = client.chat.completions.create(model=own.model, messages=messages, temperature=0)
    assert reply.choices[0].message.content.strip()


@pytest.mark.slow
def test_others_in_the_network_stay_outside(server, learner, monkeypatch):
    """An instructor whose classroom has guests: without the key there is a 401, in plain words."""
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    with pytest.raises(CourseError, match="refuses the key"):
        endpoint.start()


@pytest.mark.slow
def test_the_instructors_account_is_shared_without_its_key(server, learner):
    """An instructor with one paid account: learners have the class's key, not the account's."""
    with classroom.start(port=0) as second:  # the first one plays the provider
        told = classroom.instructions(second)
        assert KEY not in told and second.key in told
        assert second.model == "pocket_llama"
        request = urllib.request.Request(
            f"{second.base_url}/models", headers={"Authorization": f"Bearer {second.key}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert b"pocket_llama" in opener.open(request, timeout=30).read()


@pytest.mark.parametrize("key", ["two words", "schlüssel", "a\nb"])
def test_a_key_that_cannot_be_sent_is_refused_at_once(key):
    """An instructor reads it before class, not thirty learners during it."""
    with pytest.raises(CourseError, match="no key may have"):
        classroom.start(port=0, key=key)


@pytest.mark.parametrize("key", ["abc", "beans-are-fresh"])
def test_a_key_that_can_be_guessed_is_refused(key):
    """An instructor with a paid account behind the endpoint, and guests in the room."""
    with pytest.raises(CourseError, match="too short") as caught:
        classroom.start(port=0, key=key)
    assert "Leave --key out" in caught.value.next_step


def serve(*options):
    """Run the command until it answers; its process and what it printed so far."""
    process = subprocess.Popen(
        [sys.executable, "-m", "course_staff", "serve", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COURSE_STATIC": "1"},
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if "Ctrl+C" in line:
            break
    return process, "".join(said)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_each_learner_has_a_key_and_the_end_says_who_used_what(tmp_path):
    """An instructor with three learners: a table to hand out, and a bill by name afterwards.

    Started again, as after a crash, the keys that learners hold already still open.
    """
    from openai import OpenAI

    table = tmp_path / "keys.csv"
    process, said = serve("--port", "0", "--learners", "3", "--table", str(table))
    rows = list(csv.DictReader(table.open()))
    assert [row["learner"] for row in rows] == ["learner-01", "learner-02", "learner-03"]
    keys = [row["OPENAI_API_KEY"] for row in rows]
    assert len(set(keys)) == 3 and all(len(key) >= 22 for key in keys)
    assert not any(key in said for key in keys), "the board is seen by all"
    assert sys.platform == "win32" or table.stat().st_mode & 0o077 == 0
    address = rows[1]["OPENAI_BASE_URL"].replace(classroom.own_address(), "127.0.0.1")
    client = OpenAI(base_url=address, api_key=keys[1])
    messages = [{"role": "user", "content": "I love this place!"}]
    client.chat.completions.create(model="pocket_llama", messages=messages)
    third = client.with_options(api_key=keys[2])
    assert list(third.chat.completions.create(model="pocket_llama", messages=messages, stream=True))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "Traceback" not in said
    used = dict(re.findall(r"(learner-\d+) +1 requests +(\d+) tokens", said))
    assert sorted(used) == ["learner-02", "learner-03"], (
        "streams too; who asked nothing is left out"
    )
    assert all(int(tokens) > 0 for tokens in used.values())
    assert list(classroom.learners_keys(4, table).values())[:3] == keys


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "99999"], "no port"),
        (["--port", "-1"], "no port"),
        (["--limit", "-3"], "no limit"),
        (["--limit", "nan"], "no limit"),
        (["--limit", "0.2"], "no limit"),
        (["--tokens", "-1"], "--tokens"),
        (["--learners", "-2"], "--learners"),
        (["--learners", "5000"], "--learners"),
        (["--learners", "2", "--table", "."], "cannot hold"),
        (["--learners", "2", "--table", __file__], "cannot hold"),
    ],
)
def test_an_odd_option_is_a_sentence(options, says, capsys):
    """An instructor in front of a class: what is wrong and what to type, at once."""
    before = Path(__file__).read_bytes()
    assert main(["serve", *options]) == 2
    told = capsys.readouterr().err
    assert says in told and "Next: " in told and "Traceback" not in told
    assert Path(__file__).read_bytes() == before
