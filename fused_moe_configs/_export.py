"""Writing the chain's answers out as an engine itself looks for them, since no engine walks the chain."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ._chain import Chain, device_in, device_part, release, renamed, version_folders
from ._read import ConfigError, read_json, shown
from ._reference import REFERENCE_TRITON

MANIFEST = ".fused_moe_configs.json"
LOCK = ".fused_moe_configs.lock"
WAIT_S = 30.0
_WRITTEN = re.compile(r"(configs/triton_\d+_\d+_\d+/)?[^/\\]+\.json")


def write_export(
    configs: str, destination: str | os.PathLike[str], engine: str, triton_version: str | None,
    device_name: str | None, overlay: str | os.PathLike[str] | None,
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """The paths written; what was left out or left alone, and why. Nothing is written if any file is broken."""
    if engine not in ("vllm", "sglang"):
        raise ValueError(f"engine: expected vllm or sglang, found {engine!r}")
    target, files = _folder("destination", destination), dict[str, bytes]()
    chain, notes = Chain(configs), list[str]()
    only = _driver_name(engine, device_part(device_name)) if device_name is not None else None
    own = _engines_own(engine, _folder("overlay", overlay), target, notes) if overlay is not None else {}
    for folder, tiers in _folders(chain, engine, triton_version, notes).items():
        names = {path.name for tier in tiers for path in Path(tier).glob("[!.]*.json")}
        for name in sorted(names):
            spelled = _spelled(engine, name, notes)
            for alias in chain.names(device_in(name)) if spelled else ():
                asked = _driver_name(engine, alias)
                if only not in (None, asked):
                    continue
                for device in (asked, alias):  # the folded name may be unknown to the registry
                    lookup, entries = chain.look_up(tiers, renamed(name, device))
                    if entries:
                        break
                if entries and str(lookup.winner).endswith("_down.json") == name.endswith("_down.json"):
                    files[folder + renamed(spelled, asked)] = _content(engine, name, entries, notes)
                else:
                    notes.append(f"{name}: left out: no up file wins beside it")
    if device_name is not None and not files:
        notes.append(f"no shipped file serves {device_name} in {engine}")
    files = own | files
    written = _write(target, engine, _with_twins(files), notes) if files else []
    return written, list(dict.fromkeys(notes))


def _with_twins(files: dict[str, bytes]) -> dict[str, bytes]:
    """Beside an up file that stands alone its copy, where another folder has a `_down` file.

    SGLang looks for each of the two through all folders, and would pair an up file with another version's down file.
    """
    places = [path.rpartition("/") for path in files]
    downs = {name for _, _, name in places if name.endswith("_down.json")}
    ups = {name.replace("_down.json", ".json"): name for name in downs}
    alone = ((folder + slash, name) for folder, slash, name in places if name in ups)
    twins = {folder + ups[name]: files[folder + name] for folder, name in alone}
    return twins | files


def _folder(what: str, path: object) -> Path:
    if isinstance(path, (str, os.PathLike)) and os.fspath(path):
        return Path(path)
    raise ValueError(f"{what}: expected a folder, found {'an empty string' if path == '' else shown(path)}")


def _folders(chain: Chain, engine: str, triton_version: str | None, notes: list[str]) -> dict[str, dict[str, str]]:
    """Folder below the destination → the tiers whose answers it holds."""
    below = "configs/triton_{}_{}_{}/"
    if triton_version is not None:
        return {below.format(*release(triton_version)) if engine == "sglang" else "": chain.tiers(triton_version)}
    versions = version_folders(chain.configs)
    if engine == "vllm":
        notes += [f"{path}: left out: vLLM's folder is flat. Fix: pass a Triton version" for path in versions.values()]
        return {"": chain.tiers(None)}
    default, legacy = ({folder: tier} for folder, tier in chain.tiers(None).items())
    folders = {(0, 0, 0): legacy} | {version: {folder: "a version folder"} for version, folder in versions.items()}
    reference = release(REFERENCE_TRITON)
    folders[reference] = folders.get(reference, {}) | default
    return {below.format(*version): tiers for version, tiers in folders.items()}


def _driver_name(engine: str, device: str) -> str:
    """vLLM asks for the whole H200 family under one name."""
    return "NVIDIA_H200" if engine == "vllm" and "H200" in device.split("_") else device


def _spelled(engine: str, name: str, notes: list[str]) -> str:
    """The engine's own spelling of a name; empty, with a note, where the engine never asks for it."""
    dead = {"vllm": ("dtype=int8_w8a8", "per_channel_quant=True", "_down.json"), "sglang": ("dtype=fp8_w8a16",)}
    faults = [f"{engine} never asks for {part}" for part in dead[engine] if part in name]
    if not (match := re.match(r"E=[1-9]\d*,N=([1-9]\d*),device_name=[^,=]", name, re.ASCII)):
        faults = ["no workload has this name"]
    elif engine == "sglang":
        name, N = re.sub(r"\[(\d+),(\d+)\]", r"[\1, \2]", name), match[1]
        if "dtype=int4_w4a16" in name:  # vLLM's N is doubled, because the weight is packed
            faults += [f"int4's N is doubled in our names, found the odd {N}"] if int(N) % 2 else []
            name = name.replace(f"N={N}", f"N={int(N) // 2}", 1)
    notes += [f"{name}: left out: {fault}" for fault in faults[:1]]
    return "" if faults else name


def _content(engine: str, name: str, entries: dict[int, dict[str, int | str]], notes: list[str]) -> bytes:
    if engine == "vllm" and any("USE_TMA" in entry for entry in entries.values()):
        notes.append(f"{name}: its USE_TMA left out: vllm's kernel does not take it")
        entries = {size: {k: v for k, v in entry.items() if k != "USE_TMA"} for size, entry in entries.items()}
    return f"{json.dumps(entries, indent=4)}\n".encode()


def _engines_own(engine: str, overlay: Path, target: Path, notes: list[str]) -> dict[str, bytes]:
    """The engine's own files as they are, but for `triton_version`, over which SGLang stumbles."""
    folders = {"": str(overlay)}
    if engine == "sglang":
        parent = str(overlay / "configs" if (overlay / "configs").is_dir() else overlay)
        folders = {"configs/triton_{}_{}_{}/".format(*v): path for v, path in version_folders(parent).items()}
    files = {}
    for folder, source in folders.items():
        if os.path.realpath(source) == os.path.realpath(target / folder):
            raise ValueError(f"overlay: expected another folder than the one written to, found {source}")
        for path in sorted(Path(source).glob("[!.]*.json")):
            try:
                text, pairs = read_json(str(path))
                if any(key == "triton_version" for key, _ in pairs):
                    kept = {key: value for key, value in json.loads(text).items() if key != "triton_version"}
                    text = f"{json.dumps(kept, indent=4)}\n"
                files[folder + path.name] = text.encode()
            except (ConfigError, RecursionError) as error:
                notes.append(f"{path}: left out: {getattr(error, 'reason', 'nested too deeply')}")
    if not files:
        raise ValueError(f"overlay: expected the configs folder of {engine}, found no tuned file in {overlay}")
    return files


def _write(destination: Path, engine: str, files: dict[str, bytes], notes: list[str]) -> list[Path]:
    """Replaces and removes only what the manifest says an export wrote, and only while it is unchanged."""
    written = []
    with _owned(destination, engine) as owned:
        for name in sorted({*files, *owned}):
            path, data = destination / name, files.get(name)
            wanted = data is not None and hashlib.sha256(data).hexdigest()
            # What has our bytes already is ours, whoever wrote it.
            if os.path.lexists(path) and _sha256(path) not in (owned.get(name), wanted):
                notes.append(f"{path}: left alone: another hand wrote or changed it")
            elif data is not None:
                _replace(path, data)
                written.append(path)
                owned[name] = str(wanted)
                continue
            else:
                path.unlink(missing_ok=True)
            owned.pop(name, None)
    return written


@contextmanager
def _owned(destination: Path, engine: str) -> Iterator[dict[str, str]]:
    """Name → SHA-256 of what exports for the engine wrote, while no other export writes to the folder."""
    path, lock, deadline = destination / MANIFEST, destination / LOCK, time.monotonic() + WAIT_S
    destination.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                fix = "Fix: try again, or remove the file if no export runs"
                raise TimeoutError(f"{lock}: expected no other export here, found one at work. {fix}") from None
            time.sleep(0.05)
    try:
        manifest = _manifest(path)
        try:
            yield manifest.setdefault(engine, {})
        finally:
            if any(manifest.values()) or path.exists():
                _replace(path, f"{json.dumps(manifest, indent=4)}\n".encode())
    finally:
        lock.unlink(missing_ok=True)


def _manifest(path: Path) -> dict[str, dict[str, str]]:
    try:
        document = read_json(str(path), max_bytes=2**26)[1] if os.path.lexists(path) else ()
        manifest = {engine: dict(names) for engine, names in document}
        if all(_WRITTEN.fullmatch(name) for names in manifest.values() for name in names):
            return manifest
        reason = "a name that no export writes"
    except (ValueError, TypeError) as error:
        reason = str(getattr(error, "reason", error))
    raise ConfigError(str(path), f"expected the list of exported files, found: {reason}. Fix: export to a new folder")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "no file"


def _replace(path: Path, data: bytes) -> None:
    """Whole or not at all: readers see the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".fused_moe_configs-{os.urandom(6).hex()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
