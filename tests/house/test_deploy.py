"""The files of course_utils/data/deploy are what their readers expect, as far as that can be tried.

No GPU, cloud, Slurm or Kubernetes is needed: syntax, the makers' own schemas where they are
installed, and for the shell script programs that only write down how they were called.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from course_utils import data

DEPLOY = data.FOLDER / "deploy"
JOB = Path(__file__).parents[2] / "examples" / "label_reviews.py"
YAML = sorted(path.name for path in DEPLOY.glob("*.yaml"))


def read(name):
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def calls():
    """How each file calls the labelling job: words after `python`."""
    container = read("kubernetes.yaml")["spec"]["template"]["spec"]["containers"][0]
    shell = (DEPLOY / "slurm.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    return {
        "skypilot.yaml": read("skypilot.yaml")["run"],
        "kubernetes.yaml": container["args"][0],
        "slurm.sh": next(line for line in shell.splitlines() if line.startswith("python ")),
    }


@pytest.mark.parametrize("name", YAML)
def test_every_file_says_what_it_is_for_and_how_it_is_started(name):
    """Whoever opens one at work finds the command in it, and YAML below."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    head = text[: re.search(r"^[^#]", text, re.M).start()]
    assert re.search(r"^#     \w", head, re.M), "no command in the first comment"
    assert isinstance(read(name), dict)


@pytest.mark.parametrize("name", calls())
def test_the_job_is_called_as_it_wants_to_be(name):
    """Whoever submits the job at night does not find a usage message in the morning."""
    words = shlex.split(re.sub(r"\$\(\(.*?\)\)", "8", calls()[name]))
    assert words[:2] == ["python", "examples/label_reviews.py"]
    options = [word for word in words if word.startswith("--")]
    plain = [w for i, w in enumerate(words[2:], 2) if not w.startswith("--")
             and not words[i - 1].startswith("--")]  # fmt: skip
    assert len(plain) == 2 and "--workers" in options
    for option in options:
        assert f'"{option}"' in JOB.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in YAML if name.startswith("accelerate")])
def test_accelerate_reads_its_files(name):
    """Whoever rents four cards does not pay them while a misspelt key is looked for."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    settled = load_config_from_file(str(DEPLOY / name))  # refuses unknown keys
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(settled.fsdp_config) <= known
    assert settled.num_processes > 1
    assert str(settled.distributed_type.value) == read(name)["distributed_type"]


def test_fsdp_accepts_its_settings():
    """Whoever trains on several cards: values are checked, too, and the layer's name is Llama's."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from transformers.models.llama import modeling_llama

    given = {
        key.removeprefix("fsdp_"): one
        for key, one in read("accelerate_fsdp.yaml")["fsdp_config"].items()
    }
    layer = given.pop("transformer_layer_cls_to_wrap")
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=given.pop("version"), transformer_cls_names_to_wrap=[layer], **given
    )
    assert hasattr(modeling_llama, layer) and plugin.reshard_after_forward is True
    with pytest.raises(KeyError):  # the check can fail
        FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDS")


def test_accelerate_would_refuse_a_misspelt_key(tmp_path):
    """The check above can fail."""
    from accelerate.commands.config.config_args import load_config_from_file

    bad = tmp_path / "bad.yaml"
    bad.write_text((DEPLOY / "accelerate_ddp.yaml").read_text() + "num_procesess: 4\n")
    with pytest.raises(ValueError, match="num_procesess"):
        load_config_from_file(str(bad))


def test_the_two_servers_have_the_same_settings():
    """Whoever moves from one server to a cluster of them gets the same engine."""
    alone = {key.replace("-", "_"): value for key, value in read("vllm.yaml").items()}
    served = read("ray_serve.yaml")["applications"][0]["args"]["llm_configs"][0]
    engine = served["engine_kwargs"]
    assert {key: alone[key] for key in engine} == engine
    assert served["model_loading_config"] == {
        "model_id": alone["served_model_name"],
        "model_source": alone["model"],
    }
    room = served["deployment_config"]
    assert room["autoscaling_config"]["target_ongoing_requests"] <= room["max_ongoing_requests"]


def test_ray_serve_accepts_its_file():
    """Whoever deploys it: Ray Serve's own schema is asked, where it is installed."""
    schema = pytest.importorskip(
        "ray.serve.schema",
        reason="its maker's schema is not installed: ray[serve]",
        exc_type=ImportError,
    )
    app = schema.ServeDeploySchema(**read("ray_serve.yaml")).applications[0]
    assert app.import_path == "ray.serve.llm:build_openai_app"
    with pytest.raises(ValueError):
        schema.ServeDeploySchema(applications=[{"name": "reviews"}])  # nothing to import


def test_kubernetes_accepts_its_file():
    """Whoever applies it: the schema of Kubernetes is asked, where it is installed."""
    kubernetes = pytest.importorskip(
        "kubernetes_validate", reason="its maker's schema is not installed: kubernetes-validate"
    )
    job = read("kubernetes.yaml")
    version = kubernetes.latest_version()
    assert kubernetes.validate(job, version, strict=True)
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate({**job, "specs": {}}, version, strict=True)


def test_kubernetes_pods_have_a_part_and_shared_memory_each():
    """Whoever applies it: no two pods write into one folder, and Ray has its shared memory."""
    spec = read("kubernetes.yaml")["spec"]
    pod = spec["template"]["spec"]
    assert spec["completionMode"] == "Indexed" and spec["parallelism"] == spec["completions"]
    mounts = {m["name"]: m["mountPath"] for m in pod["containers"][0]["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert mounts["shared-memory"] == "/dev/shm"
    words = shlex.split(calls()["kubernetes.yaml"])
    assert all("$JOB_COMPLETION_INDEX" in word for word in words[2:4])


PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$(basename "$0") $1" in
  "scontrol show") printf 'one\\ntwo\\nthree\\n' ;;
  "python "*) until [ "$(grep -c ^srun "$CALLS")" -ge "$STARTED" ]; do :; done ;;
  "ray status") n=$(grep -c 'ray status' "$CALLS"); [ "$n" -ge 3 ] || exit 1 ;;
esac
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such shell scripts")
@pytest.mark.parametrize("machines", [1, 3])
def test_slurm_starts_the_head_then_the_others_then_the_job(tmp_path, machines):
    """Whoever waits hours in Slurm's queue: then the cluster comes up in the right order."""
    tools, written = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")
    for name in ("scontrol", "srun", "ray", "python", "sleep"):
        (tools / name).write_text(PROGRAM)
        (tools / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "x", "SLURM_NNODES": str(machines), "SLURM_CPUS_PER_TASK": "16"}
    env = {**os.environ, **slurm, "CALLS": str(written)}
    env["STARTED"] = str(min(machines, 2))  # srun is called in the background
    env |= {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    ran = subprocess.run(
        ["bash", str(DEPLOY / "slurm.sh")],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    lines = written.read_text().splitlines()
    started = [line for line in lines if line.startswith("srun") and "ray start" in line]
    assert len(started) == min(machines, 2)
    assert any("--nodelist=one" in line and "--head --port=6379" in line for line in started)
    if machines > 1:
        assert any(
            f"--nodes={machines - 1}" in line and "--address=one:6379" in line for line in started
        )
    job = next(line for line in lines if line.startswith("python "))
    assert job.endswith(f"--workers {8 * machines} --address one:6379")
    asked = [i for i, line in enumerate(lines) if line.startswith("ray status")]
    assert len(asked) == 3 and max(asked) < lines.index(job), "the job waits for the head"
