"""Writing the chain's answers out as an engine itself looks for them, since no engine walks the chain.

`layout` says which files an engine reads, under which names and with which bytes. `destination` is the folder written
to: the lock, the manifest of what exports wrote, and the writing. The package is not called export: once imported, it
would hide the published function of that name.
"""

from __future__ import annotations

import os
from pathlib import Path

from fused_moe_configs.lookup import Chain, device_part, printable, shown

from .destination import write
from .layout import chains_answers, engines_own, with_twins


def write_export(
    configs: Path, destination: str | os.PathLike[str], engine: str, triton_version: str | None,
    device_name: str | None, overlay: str | os.PathLike[str] | None,
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """The paths written; what was left out or left alone, and why. Nothing is written if any file is broken.

    OSError: the destination can't be written; whatever else is wrong is a ValueError or a RuntimeError.
    """
    if engine not in ("vllm", "sglang"):
        raise ValueError(f"engine: expected vllm or sglang, found {engine!r}")
    target, notes = _folder("destination", destination), list[str]()
    device = None if device_name is None else device_part(device_name)
    own = {} if overlay is None else _overlaid(engine, _folder("overlay", overlay), target, notes)
    files = chains_answers(Chain(configs), engine, triton_version, device, notes)
    if device_name is not None and not files:
        notes.append(f"no shipped file serves {device_name} in {engine}")
    files = own | files
    written = write(target, engine, with_twins(files), notes) if files else []
    return written, list(dict.fromkeys(notes))


def _overlaid(engine: str, overlay: Path, target: Path, notes: list[str]) -> dict[str, bytes]:
    try:
        return engines_own(engine, overlay, target, notes)
    except OSError as error:  # not to be taken for one of the folder written to
        found = f"{printable(overlay)}, which can't be read: {error.strerror}"
        raise ValueError(f"overlay: expected the configs folder of {engine}, found {found}") from error


def _folder(what: str, path: object) -> Path:
    if isinstance(path, (str, os.PathLike)) and os.fspath(path):
        return Path(path)
    raise ValueError(f"{what}: expected a folder, found {'an empty string' if path == '' else shown(path)}")
