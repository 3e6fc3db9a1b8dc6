"""The files that other services read: container, dev container, Binder, JupyterHub."""

import json
import re

import yaml

from course_staff.notebooks import store as notebooks
from course_staff.notebooks import tables
from course_utils import lab

ROOT = notebooks.ROOT
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_container_runs_without_root_and_with_the_tested_set():
    """An instructor who runs strangers' notebooks in it, and a learner who gets what CI tried."""
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.M)
    assert users[-1] == "1000" and "--uid 1000" in DOCKERFILE
    assert '-c constraints.txt -e ".[lab]"' in DOCKERFILE
    for name in re.findall(r"^COPY (?!--chown)(.+) \S+$", DOCKERFILE, re.M):
        assert all((ROOT / part).exists() for part in name.split()), name


def test_the_dev_container_uses_that_container():
    """A learner on Codespaces works on the copy in front of them, in the container of the class."""
    place = ROOT / ".devcontainer"
    found = json.loads((place / "devcontainer.json").read_text(encoding="utf-8"))
    assert (place / found["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert (place / found["build"]["context"]).resolve() == ROOT
    assert found["remoteUser"] in re.search(r"useradd (.+) \\", DOCKERFILE)[1]
    assert found["containerEnv"]["PYTHONPATH"] == "${containerWorkspaceFolder}"
    needs = found["hostRequirements"]
    assert (needs["cpus"], needs["memory"]) == (2, "8gb")
    opened = found["customizations"]["codespaces"]["openFiles"]
    assert opened == [lab.FIRST] and (ROOT / lab.FIRST).is_file()


def test_a_hub_gives_each_learner_what_the_cards_ask():
    """An instructor of a class on JupyterHub: no lesson dies for want of memory, none waits."""
    values = yaml.safe_load((ROOT / "deploy" / "jupyterhub.yaml").read_text(encoding="utf-8"))
    learner = values["singleuser"]
    largest = max(
        course[tier]["memory_gib"]
        for _, course in tables.courses()
        for tier in ("pocket", "small")
        if tier in course
    )
    limit = int(learner["memory"]["limit"].removesuffix("G"))
    assert largest + 0.5 <= limit, "and half a GiB for JupyterLab"
    assert learner["cpu"]["limit"] == int(learner["extraEnv"]["OMP_NUM_THREADS"]) == 2
    assert learner["defaultUrl"].endswith(lab.FIRST)
    assert "/opt/course/notebooks" in learner["lifecycleHooks"]["postStart"]["exec"]["command"][2]
    assert "WORKDIR /opt/course" in DOCKERFILE
