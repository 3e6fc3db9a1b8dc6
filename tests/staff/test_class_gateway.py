"""The class's gateway: keys, shares, an account behind it, connections."""

import asyncio
import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from openai import OpenAI

from course_staff.classroom import connections, serving
from course_staff.classroom.gateway import ClassGateway, counted
from course_staff.classroom.lending import Learner, Lending
from course_utils.endpoint.gateway import Gateway
from course_utils.endpoint.prompts import Prompts
from course_utils.endpoint.refusals import Refusal
from course_utils.endpoint.server import launch
from course_utils.sentiment import messages
from tests.utils.by_hand import Provider, provided, raw

CHAT = "/v1/chat/completions"
KEY = "beans-are-fresh-and-hand-picked"


def test_a_learners_share_of_tokens_counts_what_is_under_way():
    """An instructor whose account pays: many requests at once do not get past the bound."""
    learner = Learner("Ada", 0, tokens=100)
    learner.hold(60)
    with pytest.raises(Refusal) as caught:
        learner.hold(60)
    assert (caught.value.status, caught.value.code) == (429, "insufficient_quota")
    assert caught.value.headers["x-should-retry"] == "false", "waiting does not help"
    learner.settle(60, used=10)
    learner.hold(60)
    assert (learner.tokens, learner.requests) == (10, 1)


def test_wrong_keys_are_slowed_and_right_ones_are_not(monkeypatch):
    """An instructor with a guest who tries keys, beside learners at the same address."""
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    monkeypatch.setattr("course_staff.classroom.lending.asyncio.sleep", sleep)
    lending = Lending({"Ada": "right"}, 0, 0)

    async def guess(key):
        return await lending.learner(key, "10.0.0.7")

    for _ in range(8):
        with pytest.raises(Refusal, match="Incorrect API key"):
            asyncio.run(guess("wrong"))
    assert waits[0] == 0 and waits[1:] == sorted(waits[1:]) and waits[-1] == 5
    assert asyncio.run(guess("right")).name == "Ada" and len(waits) == 8


def test_a_limit_above_what_the_model_can_say_costs_no_more_of_a_share():
    """A learner who asks Pocket Llama for at most a million tokens: it cannot make so many."""
    told = {"folder": ".", "model": "m", "keys": {"": KEY}, "tokens_each": 100_000}
    gate = ClassGateway(told)
    assert gate.bounded({"max_tokens": 10**6}) == 10**6, "not loaded: the request is a 503"
    gate.back.prompts = Prompts(SimpleNamespace(get_vocab=lambda: {"a": 0}), context=1024)
    assert gate.bounded({"max_tokens": 10**6, "n": 2}) == 2048
    assert gate.bounded({"max_tokens": int("9" * 4300), "n": 16}) == 16 * 1024
    assert gate.bounded({"max_tokens": 5}) == 5


@pytest.mark.parametrize("mark", ["data: ", "data:"])
def test_a_stream_is_counted_however_it_is_written(mark):
    """An instructor before a server that puts no space behind the colon, or tells no usage."""
    spent = []

    async def pieces(usage):
        yield f'{mark}{{"choices": []}}\n\n{mark}{{"usage": {{"tot'
        yield f'al_tokens": {usage}}}}}\n\n{mark}[DONE]\n\n'

    async def main(usage):
        return [piece async for piece in counted(pieces(usage), spent.append, 1000)]

    assert len(asyncio.run(main(31))) == len(asyncio.run(main("null"))) == 2
    assert spent == [31, 1002], "a long prompt is not for nothing because it is streamed"


def test_who_goes_away_has_used_the_prompt(monkeypatch):
    """An instructor whose account pays for prompts that impatient programs send again and again."""
    from starlette.requests import ClientDisconnect

    async def gone(*_):
        raise ClientDisconnect

    monkeypatch.setattr(Gateway, "complete", gone)
    gate = ClassGateway({"folder": ".", "model": "m", "keys": {"": KEY}, "tokens_each": 100_000})
    learner = Learner("Ada", 0, tokens=100_000)
    request = SimpleNamespace(state=SimpleNamespace(learner=learner))
    with pytest.raises(ClientDisconnect):
        asyncio.run(gate.complete({"messages": messages("long " * 1000)}, request))
    assert 1000 < learner.tokens < 2000 and learner.held == 0


# -- in front of somebody's account ----------------------------------------------------------------


def gateway_before(address, **told):
    """The class's gateway, with one key for all, before the API at an address."""
    told = {"upstream": address, "upstream_key": "sk-SECRET", "keys": {"": KEY}, **told}
    told = {"key": KEY, "most_tokens": 500, "tokens_each": 100_000, **told}
    return launch(told, "chosen", "test", serving.GATEWAY)


@pytest.fixture(scope="module")
def account():
    """A gateway before an account, as `serve` starts it; and what it forwards to."""
    with provided() as address, gateway_before(address) as gate:
        yield gate


@pytest.fixture
def provider(monkeypatch):
    """The provider's class, as new: what a test changes is undone."""
    monkeypatch.setattr(Provider, "seen", [])
    return monkeypatch


def chat(gate, content=None, **body):
    """(status, headers, body) of a chat request."""
    content = json.dumps({"messages": messages("Hi"), **body}).encode()
    return raw(gate, "POST", CHAT, content)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files"),
        ("DELETE", "/v1/files/file-1"),
        ("POST", "/v1/fine_tuning/jobs"),
        ("POST", "/v1/embeddings"),
        ("GET", CHAT),
        ("GET", "/v1/../api/tags"),
        ("POST", "/v1/%2e%2e/api/delete"),
        ("POST", "/v1/chat/completions/../../../api/delete"),
        ("GET", "//v1/models"),
        ("GET", "/v1/models?x=/../files"),
    ],
)
def test_nothing_else_of_an_account_is_reached(account, provider, method, path):
    """An instructor: a learner with the class's key cannot list or delete the account's files."""
    status, _, _ = raw(account, method, path, b"{}" if method == "POST" else b"")
    assert 400 <= status < 500
    assert Provider.seen == []


@pytest.mark.slow
def test_only_what_is_needed_goes_either_way(account, provider):
    """An instructor: no cookie, organisation or inner address passes between learners."""
    provider.setattr(Provider, "more", {"Set-Cookie": "session=first", "OpenAI-Organization": "me"})
    headers = {"OpenAI-Organization": "other", "Cookie": "a=b", "X-Api-Key": "k"}
    content = json.dumps({"model": "chosen", "messages": messages("Hi")}).encode()
    for _ in range(2):
        status, back, _ = raw(account, "POST", CHAT, content, **headers)
        assert status == 200
        assert not {"set-cookie", "openai-organization"} & {name.lower() for name in back}
    for _, sent, body in Provider.seen:
        sent = {name.lower(): value for name, value in sent.items()}
        assert sent["authorization"] == "Bearer sk-SECRET"
        assert not {"cookie", "openai-organization", "x-api-key"} & set(sent)
        assert json.loads(body)["model"] == "chosen"


@pytest.mark.slow
def test_an_account_is_asked_for_one_model_within_bounds(account, provider):
    """An instructor's bill: no other model, no endless reply, nothing that costs extra."""
    assert chat(account, model="dearest")[0] == 404
    for body, name in (
        ({"max_completion_tokens": 501}, "max_completion_tokens"),
        ({"max_tokens": 300, "n": 2}, "max_tokens"),
        ({"n": 99}, "n"),
        ({"store": True}, "store"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"models": ["chosen", "dearest"]}, "models"),
        ({"plugins": [{"id": "web"}]}, "plugins"),
        ({"best_of": 5}, "best_of"),
    ):
        status, _, told = chat(account, **body)
        assert (status, json.loads(told)["error"]["param"]) == (400, name)
    assert Provider.seen == []
    assert chat(account)[0] == 200
    assert json.loads(Provider.seen[0][2])["max_tokens"] == 500
    assert chat(account, tools=[{"type": "function"}])[0] == 200, "the provider's own business"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "answer", "says"),
    [
        (429, {"error": {"message": "Slow down.", "code": "rate"}}, "Slow down."),
        (400, {"error": {"message": "No.", "param": "n"}}, "No."),
        (404, {"error": "model not found"}, "model not found"),
        (422, {"detail": "field required"}, "field required"),
        (500, b"<html>oops</html>", "oops"),
        (503, b"", "no reason"),
        (400, b"\xff[", "["),
    ],
)
def test_an_upstreams_error_keeps_its_status_and_reason(account, provider, status, answer, says):
    """A learner behind vLLM, Ollama or a proxy: errors in one shape, whoever made them."""
    provider.setattr(Provider, "status", status)
    provider.setattr(Provider, "answer", answer)
    provider.setattr(Provider, "more", {"Retry-After": "4"})
    found, headers, body = chat(account)
    assert (found, headers["retry-after"]) == (status, "4")
    assert says in json.loads(body)["error"]["message"]


@pytest.mark.slow
def test_an_answer_that_breaks_off_is_a_bad_gateway(account, provider):
    """A learner whose provider's connection breaks in mid-answer: a 502, which clients retry."""
    provider.setattr(Provider, "cut_off", True)
    for status in (200, 400):
        provider.setattr(Provider, "status", status)
        found, _, body = chat(account)
        assert (found, json.loads(body)["error"]["code"]) == (502, "bad_gateway")


@pytest.mark.slow
@pytest.mark.parametrize("status", [301, 307, 401, 403])
def test_what_is_the_accounts_own_business_stays_inside(account, provider, status):
    """An instructor whose key ran out: learners are told, and see no piece of key or address."""
    provider.setattr(Provider, "status", status)
    provider.setattr(Provider, "more", {"Location": "http://inner/v1/x"})
    provider.setattr(Provider, "answer", {"error": {"message": "Incorrect key: sk-SEC***"}})
    found, headers, body = chat(account)
    assert found == 502 and headers["location"] is None
    assert b"sk-SEC" not in body and b"inner" not in body


@pytest.mark.slow
def test_the_list_of_models_shows_the_chosen_one(account, provider):
    """A learner who lists an account's models sees the one that answers, and no other."""
    listed = {"data": [{"id": "dearest"}, {"id": "chosen", "owned_by": "somebody"}, "odd"]}
    provider.setattr(Provider, "answer", listed)
    told = json.loads(raw(account, "GET", "/v1/models")[2])
    assert told == {"object": "list", "data": [{"id": "chosen", "owned_by": "somebody"}]}


@pytest.mark.slow
def test_a_stream_of_an_account_passes_and_is_counted(provider):
    """An instructor who reads afterwards what each learner used, streams included."""
    events = [{"choices": [{"delta": {"content": "Hi"}}]}, {"usage": {"total_tokens": 31}}]
    stream = "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
    provider.setattr(Provider, "answer", stream.encode())
    provider.setattr(Provider, "kind", "text/event-stream")
    keys = {"Ada": "a" * 22, "Bob": "b" * 22}
    with provided() as address, gateway_before(address, keys=keys, key=keys["Ada"]) as gate:
        assert chat(gate, stream=True)[2] == stream.encode()
        gate.key = "b" * 22
        provider.setattr(Provider, "answer", {"usage": {"total_tokens": 5}})
        provider.setattr(Provider, "kind", "application/json")
        assert chat(gate)[0] == 200
    assert serving.usage(gate) == [
        {"learner": "Ada", "requests": 1, "tokens": 31},
        {"learner": "Bob", "requests": 1, "tokens": 5},
    ]


# -- connections -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_who_connects_right_after_the_start_is_answered(account):
    """A learner whose first request comes the moment that the server says it is ready."""
    with gateway_before(account.base_url, upstream_key=account.key) as gate:
        port = int(gate.base_url.split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), 5) as connection:
            assert connection.getpeername()[1] == port


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of open files")
def test_idle_strangers_and_few_file_handles_end_no_class(account, provider):
    """A class on a machine that allows 300 open files, and a guest who opens 400 connections."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    started = subprocess.Popen

    def few(*args, **more):
        limit = (300, 300)
        return started(
            *args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit), **more
        )

    provider.setattr("course_utils.endpoint.server.subprocess.Popen", few)
    if soft < 1000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    before = gateway_before(account.base_url, upstream_key=account.key)
    with before as gate, ExitStack() as strangers:
        port = int(gate.base_url.split(":")[2].split("/")[0])
        for _ in range(400):
            strangers.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        client = OpenAI(base_url=gate.base_url, api_key=gate.key, max_retries=5, timeout=60)
        with ThreadPoolExecutor(16) as pool:
            done = list(pool.map(lambda i: client.models.list().data[0].id, range(160)))
    assert done == ["chosen"] * 160


def test_the_answer_where_no_connection_is_left_says_when_to_come_back():
    """A learner's client that is turned away waits and asks again, as the header says."""
    head, _, body = connections.FULL.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503") and b"retry-after: 2" in head
    assert json.loads(body)["error"]["code"] == "overloaded"
