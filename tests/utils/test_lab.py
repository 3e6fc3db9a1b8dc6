"""`python -m course_utils lab`: JupyterLab at the first lesson."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from course_staff.notebooks import store as notebooks
from course_utils import lab, settings


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_it_prints_an_address_that_works_and_stops_on_ctrl_c():
    """A learner on a machine without browser gets an address to open, and the way out."""
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-u", "-m", "course_utils", "lab", "--port", "0"]
    with subprocess.Popen(
        command, env=env, cwd=notebooks.ROOT, stdout=subprocess.PIPE, text=True
    ) as running:
        try:
            said, end = "", time.monotonic() + 60
            while "Ctrl+C" not in said and time.monotonic() < end:
                said += running.stdout.readline()
            url = re.search(r"http://\S+", said)[0]
            assert f"/lab/tree/{lab.FIRST}?token=" in url
            assert "ssh -L" in said
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            assert opener.open(url, timeout=30).status == 200
        finally:
            running.send_signal(signal.SIGINT)
        assert running.wait(30) == 0


def test_a_relative_model_is_found_from_the_notebooks(monkeypatch, tmp_path):
    """A learner's COURSE_MODEL=./my-model works although the kernels run in another folder."""
    jupyterlab = pytest.importorskip("jupyterlab.labapp")
    started = []
    monkeypatch.setattr(jupyterlab.LabApp, "launch_instance", started.append)
    monkeypatch.setattr(lab, "_announce", lambda token: None)
    monkeypatch.setattr(lab, "FIRST", "README.md")
    (tmp_path / "my-model").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_MODEL", "./my-model")
    monkeypatch.setenv("JUPYTER_TOKEN", "t")
    lab.run(["--port", "9000"])
    assert settings.model_name() == str(tmp_path / "my-model")
    assert started[0][-2:] == ["--port", "9000"]


def test_the_token_is_not_on_the_command_line(monkeypatch):
    """A learner on a shared machine keeps the others out of their notebooks."""
    assert not any("token" in argument.lower() for argument in lab.arguments([]))


def test_jupyterlab_is_started_without_its_question_about_news():
    """A learner whose first sight should be the lesson, not a pop-up that asks to go online."""
    page = json.loads((lab.CONFIG / "labconfig" / "page_config.json").read_text(encoding="utf-8"))
    assert page["disabledExtensions"] == {"@jupyterlab/apputils-extension:announcements": True}
