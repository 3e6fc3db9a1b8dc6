"""What this machine has, which tier and model follow, what each lesson needs, what to do next.

`python -m course_utils doctor` prints it, `--json` prints it for programs, and in a notebook
`preflight.show()` shows it as a table. It says whether a key is there, never its value.
"""

import platform
import sys
from collections.abc import Iterator
from typing import Any

from course_utils import __version__, data, machine, models, settings
from course_utils.errors import CourseError
from course_utils.plots import Shown, table
from course_utils.units import GIB

Json = dict[str, Any]
DISTRIBUTION = "open-llms-hands-on"
OPENAI = "https://api.openai.com/v1"
SECRETS = ("OPENAI_API_KEY", "HF_TOKEN")
OLDEST, NEWEST = (3, 11), (3, 13)
ROOM_GIB = 0.5  # left free for everything else when a lesson is said to fit


def report() -> Json:
    """Everything the preflight knows, as plain data; sizes in GiB.

    Returns:
        course, python, packages, machine, network, secrets, tier, lessons, and lacks: a list of
        {"what", "next", "stops"}, where `stops` says whether a lesson cannot run because of it.
    """
    found: Json = {
        "course": __version__,
        "python": _python(),
        "packages": machine.packages(DISTRIBUTION),
        "machine": _machine(),
        "network": _network(),
        "secrets": _secrets(),
        "tier": _tier(),
    }
    weights, access = _model(found)
    found["lessons"] = _lessons(found, weights)
    found["lacks"] = _lacks(found, access)
    return found


def _model(found: Json) -> tuple[int | None, list[Json]]:
    """The named model's bytes, None where they cannot be known from here; what keeps it away."""
    online = found["network"].get(machine.host(models.hub_address()), False)
    name = settings.model_name()
    weights = models.weights_bytes(name)
    try:
        if online and weights is None and models.is_here(name) is None and name.count("/") == 1:
            return models.check_hub(name), []
        if weights or models.is_here(name) or name.count("/") != 1:
            models.check(name)
            return weights, []
        what = f"{name} is not on this machine and the hub is out of reach."
        return None, [_lack(what, f"Connect, or {models.BACK_TO_POCKET}.", True)]
    except CourseError as error:
        return weights, [_lack(f"{error.what} {error.why}".strip(), error.next_step, True)]


def _python() -> Json:
    """This Python and whether the course supports it."""
    span = ".".join(map(str, OLDEST)), ".".join(map(str, NEWEST))
    return {
        "version": platform.python_version(),
        "supported": f"{span[0]} to {span[1]}",
        "ok": sys.version_info[:2] >= OLDEST,
    }


def _gib(n_bytes: float) -> float:
    """Bytes as GiB, to one digit."""
    return round(n_bytes / GIB, 1)


def _machine() -> Json:
    """Cores, memory, disk and GPUs."""
    total, free = machine.ram_bytes()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "colab": settings.on_colab(),
        "cores": machine.cores(),
        "ram_gib": _gib(total),
        "ram_free_gib": _gib(free),
        "disk_free_gib": _gib(machine.disk_free_bytes()),
        "gpus": [
            {
                "name": gpu.name,
                "kind": gpu.kind,
                "memory_gib": _gib(gpu.total_bytes),
                "free_gib": _gib(gpu.free_bytes),
                "capability": ".".join(map(str, gpu.capability)) if any(gpu.capability) else None,
                "bf16_native": gpu.bf16_native,
            }
            for gpu in machine.gpus()
        ],
        "gpu_driver": machine.has_gpu_driver() and sys.platform != "darwin",
    }


def _api_address() -> str:
    """Where lesson 01 would send its requests with a key: OpenAI or `OPENAI_BASE_URL`."""
    return settings.plain("OPENAI_BASE_URL") or OPENAI


def _network() -> Json:
    """Whether the hub and the API can be reached, by host name."""
    found = machine.all_reachable([models.hub_address(), _api_address()])
    return {machine.host(address): yes for address, yes in found.items()}


def _secrets() -> Json:
    """Which keys are there: "present", "absent" or "malformed", never a value."""
    state = {}
    for name in SECRETS:
        try:
            state[name] = "present" if settings.secret(name) else "absent"
        except CourseError:
            state[name] = "malformed"
    return state


def _tier() -> Json:
    """What the settings lead to: the local model and the API."""
    try:
        own_server = settings.api_is_local()
    except CourseError:
        own_server = False
    host = machine.host(_api_address())
    return {
        "tier": settings.tier(),
        "model": models.spoken_name(),
        "api": "a server on this machine, started by lesson 01" if own_server else host,
        "api_model": settings.api_model(),
    }


def _need(need: Json, pocket: Json, weights: int | None, gpu: bool) -> tuple[float | None, str]:
    """(GiB, "RAM" or "GPU") that a lesson takes: its card's figure, or that of the named model.

    For a model whose size is known, that is its weights and 1 GiB to work with; the card speaks of
    Llama-2-7b alone, so for another model of unknown size it is None.
    """
    if need.get("memory_kind", "RAM") == "RAM":
        return need["memory_gib"], "RAM"
    kind = "GPU" if gpu else "RAM"
    if weights is None:
        seven = "llama-2-7b" in settings.model_name().lower()
        return (need["memory_gib"] if seven else None), kind
    return round(weights / GIB + (1.0 if gpu else pocket["memory_gib"]), 1), kind


def _lessons(found: Json, weights: int | None) -> list[Json]:
    """What each lesson needs in the tier that follows, and whether this machine has it free.

    `fits` is None where the model's size is not known.
    """
    tier, here = found["tier"]["tier"], found["machine"]
    card = max((gpu["free_gib"] for gpu in here["gpus"]), default=0.0)
    stored = models.weights_bytes(settings.model_name())
    rows = []
    for course in data.table("lessons"):
        default = course.get("pocket") or course["small"]
        need = course.get(tier) or default
        gib, kind = _need(need, default, weights, bool(here["gpus"]))
        has = card if kind == "GPU" else here["ram_free_gib"] - ROOM_GIB
        download = "nothing" if stored else need["download"]
        if not stored and (weights or gib is None):
            download = f"{weights / GIB:.1f} GiB" if weights else "not known"
        rows.append(
            {
                "lesson": course["lesson"],
                "title": course["title"],
                "needs": "not known" if gib is None else f"{gib:g} GiB {kind}",
                "minutes": need["run_minutes"],
                "download": download,
                "fits": None if gib is None else gib <= has,
            }
        )
    return rows


def _lacks(found: Json, access: list[Json]) -> list[Json]:
    """What is missing here, each with the next step; what stops a lesson comes first."""
    lacks = [*_lacks_of_software(found), *_lacks_of_machine(found), *access]
    return sorted([*lacks, *_lacks_of_access(found)], key=lambda lack: not lack["stops"])


def _lack(what: str, next_step: str, stops: bool = False) -> Json:
    return {"what": what, "next": next_step, "stops": stops}


def _lacks_of_software(found: Json) -> Iterator[Json]:
    """Python and packages."""
    version = found["python"]["version"]
    if not found["python"]["ok"]:
        step = "Install Python 3.11 or newer and set up again."
        yield _lack(f"Python {version} is too old.", step, True)
    elif sys.version_info[:2] > NEWEST:
        step = "If something fails, use Python 3.13."
        yield _lack(f"Python {version} is newer than what was tried.", step)
    if not found["packages"]:
        what = "The course runs from a folder without having been installed."
        yield _lack(what, 'Run: pip install -c constraints.txt -e ".[lab]"', True)
    if wrong := [p for p in found["packages"] if not p["ok"]]:
        names = ", ".join(f"{p['name']} {p['version'] or 'missing'}" for p in wrong)
        again = " ".join(f'"{p["name"]}{p["supported"]}"' for p in wrong)
        yield _lack(f"Outside the supported range: {names}.", f"pip install {again}", True)


def _lacks_of_machine(found: Json) -> Iterator[Json]:
    """Memory, disk and GPUs."""
    here = found["machine"]
    if tight := [lesson["lesson"] for lesson in found["lessons"] if lesson["fits"] is False]:
        step = "Close other programs and notebooks (Kernel, Shut Down All)."
        if found["tier"]["tier"] == "full":
            step = f"Name a smaller model (COURSE_MODEL={settings.SMALL}), use a GPU, or unset it."
        what = f"Memory is too small at present for lesson {', '.join(tight)}."
        yield _lack(what, step, True)
    if here["disk_free_gib"] < 1:
        step = "Free at least 1 GiB: fine-tuning and quantizing write files."
        yield _lack(f"Only {here['disk_free_gib']} GiB of disk are free.", step)
    if not here["gpus"] and here["gpu_driver"]:
        what = "There is a GPU driver, but this PyTorch cannot use a GPU."
        yield _lack(what, "Install a CUDA build: https://pytorch.org/get-started/locally")
    elif not here["gpus"]:
        step = "None is needed in the pocket tier; for Llama-2-7b use a GPU, as on Colab."
        yield _lack("There is no GPU.", step)
    for gpu in here["gpus"]:
        if not gpu["bf16_native"]:
            what = f"{gpu['name']} has no native bf16 (compute capability {gpu['capability']})."
            yield _lack(what, "Pass dtype=torch.float16 where a lesson loads a model.")


def _lacks_of_access(found: Json) -> Iterator[Json]:
    """The network and the keys."""
    for name, state in found["secrets"].items():
        if state == "malformed":
            what = f"{name} is set but holds a space, a line break or a curly quote."
            yield _lack(what, f"Set {name} again, with the key alone.", True)
    if not any(found["network"].values()):
        yield _lack("There is no network.", "None is needed in the pocket tier.")
    if found["secrets"]["OPENAI_API_KEY"] == "absent":
        step = "Lesson 01 starts a server of its own; for a real API set OPENAI_API_KEY."
        yield _lack("There is no OPENAI_API_KEY.", step)
    if found["secrets"]["HF_TOKEN"] == "absent":
        step = f"Only gated models like {models.LLAMA_2} need one: https://hf.co/settings/tokens"
        yield _lack("There is no HF_TOKEN.", step)


def _facts(found: Json) -> list[tuple[str, str]]:
    """(name, value) lines for people."""
    here, tier = found["machine"], found["tier"]
    gpus = [
        f"{g['name']}, {g['memory_gib']} GiB ({g['free_gib']} free)"
        + (f", compute capability {g['capability']}" if g["capability"] else "")
        + f", bf16 {'native' if g['bf16_native'] else 'emulated only'}"
        for g in here["gpus"]
    ]
    odd = [p for p in found["packages"] if not p["ok"]]
    key = ("torch", "transformers", "accelerate", "bitsandbytes", "peft", "trl", "openai")
    versions = [f"{p['name']} {p['version']}" for p in found["packages"] if p["name"] in key]
    network = [f"{host} {'yes' if yes else 'no'}" for host, yes in found["network"].items()]
    return [
        ("Python", f"{found['python']['version']} (supported: {found['python']['supported']})"),
        ("packages", ", ".join(versions) or "not installed"),
        ("", f"{len(found['packages']) - len(odd)} of {len(found['packages'])} in range"),
        ("system", here["system"] + (", Google Colab" if here["colab"] else "")),
        ("CPU cores", str(here["cores"])),
        ("RAM", f"{here['ram_gib']} GiB ({here['ram_free_gib']} free)"),
        ("disk", f"{here['disk_free_gib']} GiB free"),
        ("GPU", "; ".join(gpus) or "none"),
        ("network", ", ".join(network)),
        *((name, state) for name, state in found["secrets"].items()),
        ("tier", tier["tier"]),
        ("model", tier["model"]),
        ("API", tier["api"] + (f", {tier['api_model']}" if tier["api_model"] else "")),
    ]


def _lesson_table(found: Json) -> Shown:
    """One row for each lesson."""
    rows = [
        [
            f"{row['lesson']} {row['title']}",
            row["needs"],
            f"{row['minutes']:g} min",
            row["download"],
            {True: "fits", False: "too big", None: "-"}[row["fits"]],
        ]
        for row in found["lessons"]
    ]
    return table(("lesson", "needs", "runs in", "download", "here"), rows, numbers=False)


def as_text(found: Json) -> str:
    """The report for a terminal."""
    facts = _facts(found)
    width = max(len(name) for name, _ in facts)
    blocks = ["\n".join(f"{name:{width}}  {value}" for name, value in facts)]
    if found["lessons"]:
        blocks.append(_lesson_table(found).text)
    lines = []
    for lack in found["lacks"]:
        lines += [f"{'! ' if lack['stops'] else '- '}{lack['what']}", f"  Next: {lack['next']}"]
    stops = sum(lack["stops"] for lack in found["lacks"])
    lines.append(
        f"{stops} to settle first (marked !)." if stops else "Ready: nothing here stops a lesson."
    )
    return "\n\n".join([*blocks, "\n".join(lines)])


def show() -> Shown:
    """The preflight as tables in a notebook, as text anywhere else."""
    found = report()
    parts = [table(("what", "here"), _facts(found), numbers=False)]
    if found["lessons"]:
        parts.append(_lesson_table(found))
    if lacks := [(lack["what"], lack["next"]) for lack in found["lacks"]]:
        parts.append(table(("missing", "what to do"), lacks, numbers=False))
    return Shown(as_text(found), html="\n".join(part.html for part in parts))
