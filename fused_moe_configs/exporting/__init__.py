"""Writing the tuned files where an engine looks for them. An engine knows nothing of the chain, so this walks it.

`layout` says which files an engine reads, under which names and with which bytes; `overlay` which of its own go along.
`destination` is the folder written to: the lock, the manifest of what exports wrote, and the writing. `report` says for
whom that was. The package is not called export: once imported, it would hide the published function of that name.
"""

from __future__ import annotations

import os
from pathlib import Path

from fused_moe_configs.index import indexed
from fused_moe_configs.lookup import Chain, device_part, shown
from fused_moe_configs.naming import ENGINE_NAMES, ENGINES
from fused_moe_configs.near import likely_devices
from fused_moe_configs.spelling import question

from .destination import Written, check, write
from .layout import chains_answers, laid_over, only_with_a_version, tuned_for_another, with_twins
from .notes import Notes
from .overlay import AUTO, EnginesFile, engines_own, find, missing
from .report import Export, summary

__all__ = ["Export", "summary", "write_export"]


def write_export(
    configs: Path, destination: str | os.PathLike[str], engine: str, *, triton_version: str | None = None,
    device_name: str | None = None, overlay: str | os.PathLike[str] | None = None, siblings: bool = False,
) -> Export:  # fmt: skip
    """Nothing is written if any file, record or the index is broken. overlay: a folder, or "auto" for that of the
    installed engine.

    OSError: the destination can't be written; whatever else is wrong is a ValueError or a RuntimeError.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: expected {' or '.join(ENGINES)}, found {engine!r}")
    target, notes, kept = _folder("destination", destination), Notes(), {"the loader's own files": configs}
    check(target, (), kept)
    device = None if device_name is None else device_part(device_name)
    own = dict[str, EnginesFile]()
    if overlay is not None:
        beneath = find(engine) if overlay == AUTO else _folder("overlay", overlay)
        kept |= {f"{ENGINE_NAMES[engine]}'s own files": beneath}
        try:
            own = engines_own(engine, beneath, notes)
        except OSError as error:
            raise missing(engine, beneath, error) from error
    chain, known = Chain(configs), {configs / entry.file: entry for entry in indexed(configs)}
    served = chains_answers(chain, engine, triton_version, device, siblings, notes)
    if device_name is not None and not served:
        meant = likely_devices(device_name, configs)
        notes.lose(f"no shipped file serves {device_name} in {engine}{f': {question(meant)}' if meant else ''}")
    beside = {path: entry.beside_shipped[engine] for path, entry in known.items() if engine in entry.beside_shipped}
    served = laid_over(own, served, beside, notes)
    if triton_version is None:
        of_triton = only_with_a_version(chain, engine, device, siblings)
    else:
        of_triton = tuned_for_another(chain, triton_version, served)
    files = with_twins(
        {name: each.data for name, each in own.items()} | {name: each.data for name, each in served.items()}
    )
    check(target, files, kept)
    written, alike = write(target, engine, files, notes) if files else Written([], [])
    notes.say(*of_triton)  # last, where people look
    there = {*written, *alike}
    ours = {name: each for name, each in served.items() if target / name in there}
    engines = sum(target / name in there for name in own if name not in served)
    is_whole = bool(there) and not notes.is_loss
    models = {each.source: known[each.source].models for each in ours.values() if each.source in known}
    return Export(engine, target, written, alike, ours, models, engines, notes.lines, is_whole)


def _folder(what: str, path: object) -> Path:
    if isinstance(path, (str, os.PathLike)) and os.fspath(path):
        return Path(path)
    raise ValueError(f"{what}: expected a folder, found {'an empty string' if path == '' else shown(path)}")
