"""The engine's own tuned files, which an export is laid over: where they lie, and which of them go along."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

from fused_moe_configs.lookup import (
    CORRECT,
    ConfigError,
    printable,
    read_config,
    read_json,
    version_folders,
    version_in,
)
from fused_moe_configs.naming import ENGINE_NAMES, parse

from .notes import Notes

AUTO = "auto"
PACKAGED = {
    "vllm": ("model_executor/layers/fused_moe/configs",),
    "sglang": ("srt/layers/moe/moe_runner/triton_utils/configs", "srt/layers/moe/fused_moe_triton/configs"),
}
"""Where an engine's own files lie below its package, newest releases first: SGLang moved them at about 0.5.10."""

_MOE = r"E=\d+,N=\d+,device_name=[^,]*(,dtype=\w+)?"
_READ = {
    # vLLM reads LoRA's and Mamba's configs from the folder of the same variable.
    "vllm": rf"{_MOE}(,block_shape=\[\d+,\d+\])?(,backend=\w+)?(?<!_down)\.json|headdim=.+\.json"
    r"|.+_(SHRINK|EXPAND(_TRUE|_FALSE)?)\.json",
    "sglang": rf"{_MOE}(,block_shape=\[\d+, \d+\])?(,per_channel_quant=True)?(_down)?\.json",
}
"""What the engine asks for in the folder that its variable names, as vLLM 0.33 and SGLang 0.5.23 spell it."""


def find(engine: str) -> Path:
    """The configs folder of the engine that is installed beside this package, which is not imported.

    ValueError: it is not installed here, or holds no such folder.
    """
    name = ENGINE_NAMES[engine]
    wish = f"overlay: expected {name} installed for {sys.executable}"
    fix = f"Fix: run this in the environment of {name}, or name the folder: --overlay PATH/TO/{_usual(engine)}"
    try:
        spec = importlib.util.find_spec(engine)
    except (ImportError, ValueError):  # a module that stands half imported, or was put there by hand
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"{wish}, found none. {fix}")
    packages = [Path(package) for package in spec.submodule_search_locations]
    for path in (package / below for package in packages for below in PACKAGED[engine]):
        if path.is_dir():
            return path
    raise ValueError(f"{wish} with the folder {_usual(engine)}, found {printable(packages[0])} without it. {fix}")


class EnginesFile(NamedTuple):
    """One of the engine's own. data: as it goes along. sha256: of the bytes that the engine ships."""

    data: bytes
    sha256: str


def engines_own(engine: str, overlay: Path, notes: Notes) -> dict[str, EnginesFile]:
    """Name below the destination → file, as it is but for `triton_version`, over which SGLang stumbles.

    Only what the engine asks for by name and can read goes along; other JSON files and folders are named in a note.
    ValueError: overlay is missing, empty, another folder or the other engine's. OSError: it can't be read.
    """
    files, others = dict[str, EnginesFile](), list[str]()
    for below, source in _folders(engine, overlay).items():
        if below is None:
            others += [f"{path.name}/" for path in sorted(source.glob("triton_*")) if version_in(path.name) is None]
        for path in sorted(source.glob("[!.]*.json")):
            if below is None or not re.fullmatch(_READ[engine], path.name, re.ASCII):
                others.append(str(path.relative_to(overlay)))
                continue
            try:
                files[below + path.name] = _without_triton_version(path)
                if parse(path.name, engine):  # of this kernel; others' rows have other keys
                    read_config(path, is_users=True)
            except ConfigError as error:
                files.pop(below + path.name, None)
                notes.lose(f"{printable(path)}: left out: {error.said}")
            except RecursionError:  # to read it again takes less depth than to write it
                notes.lose(f"{printable(path)}: left out: nested too deeply. {CORRECT}")
    if others:
        names = ", ".join(map(printable, others))
        notes.say(f"{printable(overlay)}: left out, {ENGINE_NAMES[engine]} asks for no such name there: {names}")
    if not files and not notes.is_loss:
        raise ValueError(f"{_wish(engine)}, found no tuned file in {printable(overlay)}. {_fix(engine)}")
    return files


def _folders(engine: str, overlay: Path) -> dict[str | None, Path]:
    """Folder below the destination → the engine's own one. None: what lies beside those that the engine reads."""
    held = sorted(path.name for path in overlay.iterdir())
    nested = overlay / "configs"
    parent = nested if nested.is_dir() else overlay
    versions: dict[str | None, Path] = {f"configs/{path.name}/": path for path in version_folders(parent).values()}
    is_version = version_in(overlay.resolve().name) is not None
    is_flat = any(re.fullmatch(_READ["vllm"], name, re.ASCII) for name in held)
    if engine == "sglang" and versions:
        return versions | {None: parent}
    # An export for both engines has SGLang's folders below configs/; beside vLLM's files lie none.
    if engine == "vllm" and is_flat and not is_version and not (versions and parent == overlay):
        return {"": overlay}
    found, fix = f"{printable(overlay)}, ", _fix(engine)
    if not held:
        found += "an empty folder"
    elif is_version and engine == "sglang":
        found, fix = f"{found}which holds one Triton version", f"Fix: name the folder above it, {overlay.parent}"
    elif is_version or versions:
        found += "which is SGLang's"
    elif is_flat:
        found += "which is vLLM's"
    else:
        holds = f"{', '.join(map(printable, held[:3]))}{', …' if len(held) > 3 else ''}"
        lacks = "no tuned file of vLLM's" if engine == "vllm" else "no folder triton_X_Y_Z"
        found += f"another folder: it holds {holds}, and {lacks}"
    raise ValueError(f"{_wish(engine)}, found {found}. {fix}")


def _wish(engine: str) -> str:
    return f"overlay: expected the configs folder of {ENGINE_NAMES[engine]}"


def _fix(engine: str) -> str:
    return f"Fix: name {_usual(engine)} in its installation, or pass {AUTO} where {ENGINE_NAMES[engine]} is installed"


def _usual(engine: str) -> str:
    return f"{engine}/{PACKAGED[engine][0]}"


def missing(engine: str, overlay: Path, error: OSError) -> ValueError:
    """An overlay that can't be read, which is not to be taken for a fault of the folder written to."""
    why = {FileNotFoundError: "which does not exist", NotADirectoryError: "which is a file"}
    found = why.get(type(error), f"which can't be read: {os.strerror(error.errno or 0)}")
    return ValueError(f"{_wish(engine)}, found {printable(overlay)}, {found}. {_fix(engine)}")


def _without_triton_version(path: Path) -> EnginesFile:
    text, pairs = read_json(path)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    if any(key == "triton_version" for key, _ in pairs):
        kept = {key: value for key, value in json.loads(text).items() if key != "triton_version"}
        text = f"{json.dumps(kept, indent=4)}\n"
    return EnginesFile(text.encode(), sha256)
