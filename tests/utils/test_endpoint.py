import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import openai
import psutil
import pytest
from openai import OpenAI

from course_utils import models
from course_utils.endpoint import own as own_endpoint
from course_utils.endpoint import server as endpoint
from course_utils.endpoint.upstream import http_library
from course_utils.errors import CourseError

CHAT = [{"role": "user", "content": "Great food."}]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="uses SIGKILL")


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def server():
    """One local server for this file. The last test of the file kills it."""
    started = endpoint.start()
    yield started
    started.stop()


@pytest.fixture
def own(monkeypatch, server):
    """Settings of a learner who has an endpoint: the local one stands in for it, as it is real."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", server.key)
    return monkeypatch


def answer(server):
    client = OpenAI(base_url=server.base_url, api_key=server.key, max_retries=0, timeout=120)
    reply = client.chat.completions.create(model=server.model, messages=CHAT, temperature=0)
    return reply.choices[0].message.content


def family(process):
    """The gateway and everything that it started."""
    return [process, *process.children(recursive=True)]


def assert_gone(processes, seconds=20):
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


# -- a server of our own -------------------------------------------------------------------------


@pytest.mark.slow
def test_starting_twice_gives_the_same_server(server):
    """A learner who runs the first cell again must not start a second server."""
    assert endpoint.start() is server
    assert answer(server).strip()


@pytest.mark.slow
def test_the_key_is_never_shown(server):
    """A learner who prints the server in a notebook that is then shared."""
    assert server.key not in repr(server) + str(server)
    for process in family(psutil.Process(server.process.pid)):
        assert server.key not in " ".join(process.cmdline())


@pytest.mark.slow
def test_a_proxy_in_the_environment_is_not_asked_for_this_machine(server, monkeypatch):
    """A learner in a company whose proxy would not know the way to their own machine."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert answer(server).strip()


@pytest.mark.slow
def test_a_taken_port_is_one_clear_message(server):
    """A learner who asks for a port that something else uses."""
    taken = int(server.base_url.rsplit(":", 1)[1].split("/")[0])
    with pytest.raises(CourseError, match=f"cannot listen on port {taken}"):
        endpoint.launch({"folder": str(models.POCKET), "port": taken}, "pocket_llama", "test")


@pytest.mark.slow
def test_the_lessons_server_is_not_the_one_that_serves_a_folder(server, tmp_path):
    """A learner who served a model of their own, and then opens lesson 01 in the same kernel.

    The folder is as many on the hub are: its template inside tokenizer_config.json, no generation
    settings.
    """
    folder = shutil.copytree(models.POCKET, tmp_path / "mine")
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told["chat_template"] = (folder / "chat_template.jinja").read_text()
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "chat_template.jinja").unlink()
    (folder / "generation_config.json").unlink()
    with endpoint.serve(folder) as mine:
        assert mine.model == "mine" and mine.said_by == "mine behind a local server"
        assert answer(mine) == answer(server)
        assert endpoint.start() is server


@pytest.mark.slow
def test_a_base_model_is_refused_with_the_reason(tmp_path):
    """A learner who serves a model that was never taught to chat."""
    folder = shutil.copytree(models.POCKET, tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(CourseError, match="did not start") as caught:
        endpoint.serve(folder)
    assert "no chat template" in caught.value.why


def test_the_tiers_own_model_is_served_where_it_is_here(monkeypatch, tmp_path):
    """A learner in another tier: lesson 01 talks to the model of lesson 02, or says which."""
    folder = shutil.copytree(models.POCKET, tmp_path / "small-chat")
    monkeypatch.setenv("COURSE_MODEL", str(folder))
    where, name, who = endpoint.tiers_model()
    assert (where, name) == (folder.resolve(), "small-chat")
    assert "small-chat" in who
    monkeypatch.setattr("course_utils.machine.ram_bytes", lambda: (2**20, 2**20))
    assert endpoint.tiers_model()[0] == models.POCKET, "it does not fit: the bundled one"
    monkeypatch.setenv("COURSE_MODEL", "somebody/not-here-yet")
    assert endpoint.tiers_model() == (models.POCKET, "pocket_llama", "pocket tier, Pocket Llama")


def test_a_model_to_serve_is_a_folder_or_a_name(monkeypatch, tmp_path):
    """A learner who serves what they trained, or the small tier's model by its name."""
    folder = shutil.copytree(models.POCKET, tmp_path / "smollm2")
    assert endpoint.whole(folder) == endpoint.whole(str(folder)) == (folder.resolve(), "smollm2")
    assert endpoint.whole("pocket") == (models.POCKET.resolve(), "pocket")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path))
    assert endpoint.whole("smollm2") == (Path(models.model_path("smollm2")).resolve(), "smollm2")
    (folder / "model.safetensors").write_bytes(b"cut off")
    for name in (folder, str(folder), tmp_path / "nobody", "nobody-at-all"):
        with pytest.raises(CourseError) as caught:
            endpoint.serve(name)
        assert caught.value.next_step


@pytest.mark.parametrize("port", [99999, -1, 1.5, "8000", True, None])
def test_a_port_that_is_none_is_refused_at_once(port):
    """A learner or instructor who mistypes the port: a sentence, no traceback and no waiting."""
    with pytest.raises(CourseError, match="is no port") as caught:
        endpoint.serve(models.POCKET, port)
    assert caught.value.next_step


@pytest.mark.parametrize("limit", [0, -5, 0.5, float("nan"), float("inf"), "20", True])
def test_a_limit_that_is_none_is_refused_at_once(limit):
    """A learner who tries other limits in the section on rate limits."""
    nobody = endpoint.Server("http://127.0.0.1:9/v1", "none", "m", "nobody")
    with pytest.raises(CourseError, match="is no limit"):
        endpoint.limited(nobody, limit)


@pytest.mark.slow
def test_a_damaged_model_is_found_before_anything_starts(monkeypatch, tmp_path):
    """A learner whose download of the course broke off."""
    endpoint_free = [s for s in endpoint._started if s.ended()]
    monkeypatch.setattr(endpoint, "_started", endpoint_free)
    monkeypatch.setattr(models, "POCKET", tmp_path / "pocket_llama")
    with pytest.raises(CourseError, match="does not exist"):
        endpoint.start()


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(tmp_path):
    """A learner whose model server fails: its last words, not an endless wait."""
    folder = tmp_path / "broken"
    shutil.copytree(models.POCKET, folder)
    config = (folder / "config.json").read_text().replace('"llama"', '"no_such_architecture"')
    (folder / "config.json").write_text(config)
    with pytest.raises(CourseError) as caught:
        endpoint.launch({"folder": str(folder), "port": 0}, "broken", "test")
    assert "did not start" in caught.value.what
    assert "no_such_architecture" in caught.value.why


@pytest.mark.slow
@POSIX
def test_a_forked_child_keeps_no_server_alive():
    """A learner whose program forked, as DataLoader does, before it was killed."""
    program = """
import os, time
from course_utils import endpoint
server = endpoint.start()
if os.fork() == 0:
    time.sleep(120)
    os._exit(0)
print(server.process.pid, flush=True)
time.sleep(120)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COURSE_STATIC": "1"},
    )
    gate = psutil.Process(int(parent.stdout.readline()))
    (child,) = [p for p in psutil.Process(parent.pid).children() if p.pid != gate.pid]
    parent.kill()
    parent.wait()
    try:
        assert_gone([gate])
        assert child.is_running(), "or the test shows nothing"
    finally:
        child.kill()


@pytest.mark.slow
@POSIX
def test_nothing_is_left_when_the_learners_program_is_killed():
    """A learner whose kernel crashes, or is killed for its memory: no orphan may keep running."""
    program = "from course_utils import endpoint; server = endpoint.start();"
    program += "print(server.process.pid, flush=True); input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COURSE_STATIC": "1"},
    )
    processes = family(psutil.Process(int(parent.stdout.readline())))
    assert processes
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert_gone(processes)


@pytest.mark.slow
@POSIX
def test_interrupt_death_and_restart_in_a_notebook():
    """A learner in Jupyter, in whose notebook nothing of this may end in a mess.

    Interrupting a cell keeps the server, its death is one clear message, a new start mends it,
    and a restarted kernel leaves nothing behind.
    """
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")

    def run(code):
        """What a cell prints, and the error message it shows."""
        said = []

        def hook(message):
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                said.append(message["content"]["text"])
            elif message["msg_type"] == "error":
                said.extend(message["content"]["traceback"])

        reply = client.execute_interactive(code, output_hook=hook, timeout=300)
        assert reply["content"]["status"] != "aborted", "the cell never ran"
        return "\n".join(said)

    start = """
from course_utils import endpoint
from openai import OpenAI
server = endpoint.start()
client = OpenAI(base_url=server.base_url, api_key=server.key)
print(server.process.pid)
"""
    call = f"""
print(client.chat.completions.create(
    model=server.model, messages={CHAT!r}, temperature=0).choices[0].message.content)
"""
    try:
        gate = psutil.Process(int(run(start)))
        first = run(call)
        assert first.strip() and "Error" not in first

        # A kernel drops the cells that reach it right after an error, as "Run all" wants it; the
        # next cell here stands for a learner who runs it later.
        message = client.execute(
            "import time; print('waiting'); time.sleep(600)", stop_on_error=False
        )
        # The interrupt must find the learner's own code running: one that comes while the kernel
        # still prepares the cell is swallowed, which "execute_input" does not rule out.
        while client.get_iopub_msg(timeout=60)["content"].get("text", "").strip() != "waiting":
            pass
        manager.interrupt_kernel()
        assert client.get_shell_msg(timeout=60)["parent_header"]["msg_id"] == message
        assert run(call) == first

        told = run(call.replace("'Great", "'long ' * 3000 + 'Great"))
        assert "pocket_llama refuses the request (400)." in told
        assert "maximum context length" in told and "Next: " in told
        assert "Traceback" not in told

        gate.kill()
        told = run(call)
        assert "The local server has ended." in told
        assert "memory" in told, "what most often ends a server so"
        assert "Run the cell with endpoint.start() again" in told
        assert "Traceback" not in told

        again = psutil.Process(int(run(start)))
        assert again.pid != gate.pid
        assert run(call) == first
        processes = [gate, *family(again)]
        manager.restart_kernel(now=True)
        assert_gone(processes)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# -- the learner's own endpoint --------------------------------------------------------------------


@pytest.mark.slow
def test_the_learners_endpoint_is_used_and_never_stopped(own, server):
    """A learner with a key and an address: their server answers, with the model it offers."""
    found = endpoint.start()
    assert (found.base_url, found.key, found.model) == (server.base_url, server.key, server.model)
    assert found.said_by.startswith("full tier, pocket_llama at 127.0.0.1")
    found.stop()
    assert answer(found).strip()


@pytest.mark.slow
def test_the_name_of_the_model_is_a_setting(own):
    """A learner who misspelt COURSE_API_MODEL: told which name is unknown, and what to set."""
    own.setenv("COURSE_API_MODEL", "pocket_lama")
    with pytest.raises(CourseError, match="knows no model 'pocket_lama'") as caught:
        endpoint.start()
    assert "COURSE_API_MODEL" in caught.value.next_step


@pytest.mark.slow
def test_a_wrong_key_is_one_clear_message_without_the_key(own):
    """A learner with a wrong key, whose notebook is shown to the class."""
    own.setenv("OPENAI_API_KEY", "wrong-and-secret")
    own.setenv("COURSE_API_MODEL", "pocket_llama")
    with pytest.raises(CourseError, match="refuses the key") as caught:
        endpoint.start()
    assert "wrong-and-secret" not in str(caught.value)
    assert "OPENAI_API_KEY" in caught.value.next_step


def test_an_address_without_a_server_is_found_out_at_once(monkeypatch):
    """A learner whose server is not running: told within moments, without retries."""
    address = f"http://127.0.0.1:{free_port()}/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(CourseError, match="cannot be reached"):
        endpoint.start()


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (400, "refuses the request (400)"),
        (400, "Set COURSE_API_MODEL to a chat model that takes it"),
        (401, "refuses the key (401)"),
        (403, "does not allow this (403)"),
        (404, "knows no model 'm' (404)"),
        (413, "too large (413)"),
        (415, "refuses the request (415)"),
        (422, "refuses the request (422)"),
        (429, "takes no more requests now (429)"),
        (500, "does not answer (500)"),
        (503, "takes no more requests now (503)"),
    ],
)
def test_every_refusal_has_a_next_step(status, says):
    """A learner without credit, without access, or with a model that takes no temperature."""
    httpx = http_library()
    response = httpx.Response(status, request=httpx.Request("POST", "http://127.0.0.1/v1"))
    kinds = {403: openai.PermissionDeniedError, 429: openai.RateLimitError}
    kind = kinds.get(status, openai.APIStatusError)

    def refuse(client):
        raise kind("no `temperature`, sk-secret", response=response, body=None)

    with pytest.raises(CourseError) as caught:
        own_endpoint.asked(endpoint.Server("http://127.0.0.1/v1", "k", "m", "test"), refuse)
    assert says in str(caught.value)
    assert caught.value.next_step
    assert status != 401 or "secret" not in str(caught.value)


class Odd(http.server.BaseHTTPRequestHandler):
    """Something at the learner's address that is no OpenAI-compatible server, on a real socket."""

    said, kind = b"", "application/json"

    def do_POST(self):
        """Answer like GET."""
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.do_GET()

    def do_GET(self):
        """Answer as told."""
        listed = self.path == "/v1/models"
        found = self.path.startswith("/v1") or self.kind == "text/html"
        told = json.dumps({"data": MODELS}).encode() if listed and MODELS else self.said
        self.send_response(200 if found else 404)
        self.send_header("content-type", self.kind if found else "text/plain")
        self.end_headers()
        self.wfile.write(told if found else b"404 page not found")

    def log_message(self, *args):
        """Say nothing."""


MODELS: list = []


@pytest.fixture
def odd(monkeypatch):
    """`odd(said, models, kind)`: the error where such a server stands at OPENAI_BASE_URL."""
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=found.serve_forever, daemon=True).start()

    def error(said, models=("chat",), kind="application/json", path="/v1"):
        monkeypatch.setattr(
            Odd, "said", said if isinstance(said, bytes) else json.dumps(said).encode()
        )
        monkeypatch.setattr(Odd, "kind", kind)
        monkeypatch.setitem(globals(), "MODELS", [{"id": m, "object": "model"} for m in models])
        monkeypatch.setenv(
            "OPENAI_BASE_URL", f"http://user:SECRET@127.0.0.1:{found.server_port}{path}"
        )
        with pytest.raises(CourseError) as caught:
            endpoint.start()
        assert "SECRET" not in str(caught.value)
        assert caught.value.next_step
        return caught.value

    yield error
    found.shutdown()
    found.server_close()


def reply(**message):
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}


@pytest.mark.parametrize(
    "said",
    [
        {"error": {"message": "Provider returned error"}, "choices": None},
        {"choices": []},
        {},
        [],
        "OK",
        None,
        7,
        b"{not json",
        b"",
        b"[" * 100_000,
        reply(role="assistant", content=None),
        reply(role="assistant", content=["OK"]),
        reply(role="assistant", content=[{"type": "text", "text": "OK"}]),
        reply(),
        {"choices": [None]},
        {"choices": {"0": "OK"}},
        {"choices": ["OK"]},
    ],
    ids=lambda said: str(said)[:40],
)
def test_an_endpoint_that_answers_something_odd_is_named(odd, said):
    """A learner behind a proxy, a router or a half-compatible server: a sentence, no traceback."""
    assert "not as an OpenAI-compatible server" in odd(said).what


@pytest.mark.parametrize("models", [("chat",), ()])
def test_a_web_page_at_the_address_is_no_endpoint(odd, models):
    """A learner whose network asks to sign in, or who copied a page's address."""
    told = odd(b"<html>sign in</html>", models, "text/html")
    assert "not as an OpenAI-compatible server" in told.what and "/v1" in told.next_step


def test_a_forgotten_v1_is_found(odd):
    """A learner with Ollama at http://localhost:11434."""
    assert "/v1:" in odd({}, path="").next_step


def test_of_many_models_one_that_chats_is_taken(monkeypatch, odd):
    """A learner with LM Studio, whose list begins with an embedding model."""
    server = endpoint.Server("http://127.0.0.1:9/v1", "none", "", "")
    monkeypatch.setattr(own_endpoint, "asked", lambda *_: ["text-embedding-small", "llama-chat"])
    assert own_endpoint.first_model(server) == "llama-chat"


# -- last: this one ends the server of this file ---------------------------------------------------


@pytest.mark.slow
@POSIX
def test_a_killed_server_is_noticed(server):
    """A learner whose server dies, most often for want of memory: told so, and what helps."""
    server.process.kill()
    told = server.ended(within=20)
    assert "has ended" in told.what and "memory" in told.why and "Shut Down" in told.next_step
    server.stop()
    server.stop()
