"""`python -m course_utils serve`: one endpoint for a whole class."""

import urllib.request

import pytest

from course_staff import classroom
from course_utils import settings
from course_utils.endpoint import server as endpoint
from course_utils.errors import CourseError


@pytest.fixture(scope="module")
def server():
    """The endpoint of an instructor without a key: Pocket Llama is behind it."""
    with classroom.start(port=0, key="beans-are-fresh") as running:
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
        assert "beans-are-fresh" not in told and second.key in told
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
