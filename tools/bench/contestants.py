"""Who is measured against whom: a tuned file, another file of the same workload, a git revision, the heuristics."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from kernels.launch_config import LaunchConfig
from tools.errors import reason_of
from tools.launch.heuristics import UnknownHeuristicError, sglang_heuristic, vllm_heuristic
from tools.registry.devices import Device
from tools.store.config_file import ConfigFile, nearest_batch_size
from tools.store.files import Content, discover, read_file
from tools.store.strict_json import parse
from tools.store.workload import Layout, Workload, parse_file_name
from tools.text import printable

HEURISTIC = "heuristic"
THIS_FILE = "this file"
NO_FILE = "vLLM's heuristic"
SGLANG_NO_FILE = "SGLang's heuristic"


class ContestantError(ValueError):
    """A contestant that can't take part. One line for a person."""


@dataclass(frozen=True)
class Contestant:
    """entries: by batch size; where one is asked for that isn't there, the nearest serves it, as in both engines."""

    name: str
    entries: Mapping[int, LaunchConfig]

    def entry(self, num_tokens: int) -> LaunchConfig:
        return self.entries[nearest_batch_size(self.entries, num_tokens)]


def of_file(name: str, file: ConfigFile) -> Contestant:
    """ContestantError: no launch config can be read from it, or not all of them."""
    if file.workload is None:
        fault = file.name.faults[0]
        raise ContestantError(f"{name}: {fault.message}. Fix: {fault.fix}.")
    if file.content.faults or not file.launch_configs:
        faults = [fault.message for fault in file.content.faults] or ["no launch config in it"]
        raise ContestantError(f"{name}: expected a tuned file, found {faults[0]}.")
    unread = [key for key in file.document or {} if key not in map(str, file.launch_configs)]
    if unread:
        raise ContestantError(
            f"{name}: expected a launch config at every batch size, found none at {printable(unread[0])!r}. "
            "Fix: mend the entry; nox -s validate says more."
        )
    return Contestant(name, file.launch_configs)


def heuristics(workload: Workload, batch_sizes: tuple[int, ...], device: Device) -> tuple[Contestant, Contestant]:
    """vLLM's and SGLang's. ContestantError: neither is known for the dtype."""
    is_rocm = device.vendor == "amd"
    smem_bytes = device.smem_bytes_per_block
    try:
        vllm = {m: vllm_heuristic(workload, m, is_rocm=is_rocm) for m in batch_sizes}
        sglang = {m: sglang_heuristic(workload, m, is_rocm=is_rocm, smem_bytes=smem_bytes) for m in batch_sizes}
    except UnknownHeuristicError as error:
        raise ContestantError(str(error)) from error
    return Contestant(NO_FILE, vllm), Contestant(SGLANG_NO_FILE, sglang)


def against(what: str, file: ConfigFile) -> Contestant:
    """The contestant that `--against` names: a path that exists, else a git revision of the file's own path.

    ContestantError: another workload, no such file or revision.
    """
    path = Path(what)
    if os.path.isfile(what):  # noqa: PTH113 (never raises)
        other = read(path)
        if _essence(other.workload) != _essence(file.workload):
            found = printable(path.name)
            raise ContestantError(f"--against: expected a file of {file.found.path.name}'s workload, found {found}.")
        # The folder says whose file it is; its name is the workload's.
        return of_file(printable(path.absolute().parent.name), other)
    data = at_revision(what, file.found.path)
    document, faults = parse(data)
    content = Content(data, document, tuple(faults))
    return of_file(printable(what), replace(file, content=content))


def told_apart(rivals: Mapping[str, tuple[Contestant, ...]]) -> tuple[Contestant, ...]:
    """All rivals, by what `--against` named; those of one name, or of the file's own, under what named them."""
    names = Counter([THIS_FILE, *(contestant.name for named in rivals.values() for contestant in named)])
    return tuple(
        contestant if names[contestant.name] == 1 else replace(contestant, name=printable(what))
        for what, named in rivals.items()
        for contestant in named
    )


def read(path: Path) -> ConfigFile:
    """A tuned file of any layout."""
    found = discover([path], Layout.VLLM)[0]
    return ConfigFile(found, parse_file_name(path.name, layout_of(path.name)), read_file(path))


def layout_of(name: str) -> Layout:
    """SGLang writes a space into block_shape, and spellings of its own; vLLM's names are canonical."""
    return Layout.SGLANG if ", " in name else Layout.REPO


def at_revision(revision: str, path: Path) -> bytes:
    """The file's bytes at a git revision, read as data. ContestantError: git knows neither."""
    shown = printable(revision)
    if not revision or revision.startswith("-") or ":" in revision:
        raise ContestantError(f"--against: expected heuristic, a file or a git revision, found {shown!r}.")
    # Not `git show`: it takes a range for an answer without a line in it.
    command = ["git", "-C", str(path.parent), "cat-file", "blob", f"{revision}:./{path.name}"]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ContestantError(
            f"--against {shown}: expected git to run, found: {reason_of(error)}. Fix: install git."
        ) from error
    if answer.returncode:
        reason = printable(answer.stderr.decode("utf-8", "replace").strip().split("\n")[0])
        raise ContestantError(
            f"--against: expected heuristic, an existing file or a git revision with {path.name}, found {shown!r} "
            f"({reason})."
        )
    return answer.stdout


def _essence(workload: Workload | None) -> Workload | None:
    """What two names must share to be compared: engines spell channel scales differently."""
    return workload and replace(workload, per_channel_quant=False, down=False)
