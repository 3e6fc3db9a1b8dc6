import os
import shutil
import signal
import socket
import subprocess
import sys

import openai
import psutil
import pytest
from openai import OpenAI

from course_utils import models
from course_utils.endpoint import gateway
from course_utils.endpoint import server as endpoint
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
    for process in family(psutil.Process(server._process.pid)):
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
        endpoint._launch({"folder": str(models.POCKET), "port": taken}, "pocket_llama", "test")


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
        endpoint._launch({"folder": str(folder), "port": 0}, "broken", "test")
    assert "did not start" in caught.value.what
    assert "no_such_architecture" in caught.value.why


@pytest.mark.slow
@POSIX
def test_nothing_is_left_when_the_learners_program_is_killed():
    """A learner whose kernel crashes, or is killed for its memory: no orphan may keep running."""
    program = "from course_utils import endpoint; server = endpoint.start();"
    program += "print(server._process.pid, flush=True); input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "COURSE_STATIC": "1"},
    )
    processes = family(psutil.Process(int(parent.stdout.readline())))
    assert len(processes) >= 2
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

        client.execute_interactive(code, output_hook=hook, timeout=300)
        return "\n".join(said)

    start = """
from course_utils import endpoint
from openai import OpenAI
server = endpoint.start()
client = OpenAI(base_url=server.base_url, api_key=server.key)
print(server._process.pid)
"""
    call = f"""
print(client.chat.completions.create(
    model=server.model, messages={CHAT!r}, temperature=0).choices[0].message.content)
"""
    try:
        gate = psutil.Process(int(run(start)))
        first = run(call)
        assert first.strip() and "Error" not in first

        message = client.execute("import time; time.sleep(600)")
        # the interrupt must find the cell running
        while client.get_iopub_msg(timeout=60)["msg_type"] != "execute_input":
            pass
        manager.interrupt_kernel()
        assert client.get_shell_msg(timeout=60)["parent_header"]["msg_id"] == message
        assert run(call) == first

        told = run(call.replace("'Great", "'long ' * 3000 + 'Great"))
        assert "pocket_llama refuses the request (400)." in told
        assert "maximum context length" in told and "Next: " in told
        assert "Traceback" not in told

        gate.children()[0].kill()
        told = run(call)
        assert "The local server has ended." in told
        assert "Next: Run the cell with endpoint.start() again" in told
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
    """A learner whose server is not running: told what to do."""
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
        (429, "takes no more requests now (429)"),
        (500, "does not answer (500)"),
    ],
)
def test_every_refusal_has_a_next_step(status, says):
    """A learner without credit, without access, or with a model that takes no temperature."""
    httpx = gateway.http_library()
    response = httpx.Response(status, request=httpx.Request("POST", "http://127.0.0.1/v1"))
    kinds = {403: openai.PermissionDeniedError, 429: openai.RateLimitError}
    kind = kinds.get(status, openai.APIStatusError)

    def refuse(client):
        raise kind("no `temperature`, sk-secret", response=response, body=None)

    with pytest.raises(CourseError) as caught:
        endpoint.asked(endpoint.Server("http://127.0.0.1/v1", "k", "m", "test"), refuse)
    assert says in str(caught.value)
    assert caught.value.next_step
    assert status != 401 or "secret" not in str(caught.value)


# -- last: this one ends the server of this file ---------------------------------------------------


@pytest.mark.slow
@POSIX
def test_a_killed_gateway_takes_its_model_servers_along(server):
    """A learner whose gateway dies: the model servers behind it must not stay."""
    gate = psutil.Process(server._process.pid)
    processes = family(gate)
    gate.send_signal(signal.SIGKILL)
    assert_gone(processes)
    assert "has ended" in str(server.ended(within=5))
    server.stop()
    server.stop()
