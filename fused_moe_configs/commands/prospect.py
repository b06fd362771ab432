"""doctor --model: for each engine what it runs, the file that it gets, how old that is, and what to do next."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fused_moe_configs import machine
from fused_moe_configs.api import where
from fused_moe_configs.gains import BesideShipped
from fused_moe_configs.index import IndexedFile, indexed
from fused_moe_configs.lookup import (
    Chain,
    ConfigError,
    Lookup,
    counted,
    down_of,
    exists,
    printable,
    read_config,
    version_folders,
)
from fused_moe_configs.naming import ENGINE_NAMES, parse
from fused_moe_configs.near import near_misses
from fused_moe_configs.next_step import next_step
from fused_moe_configs.registry import ServingError
from fused_moe_configs.serving import Serving, parallel_text

from .of_model import AskedModel, serving_here

HOPPER = "sm_90"
NO_NAME = "any"
"""Stands for the device where no GPU is named: names and backend are then Hopper's."""


@dataclass(frozen=True)
class Prospect:
    """What a model gets from one engine.

    serving None: the engine doesn't run it so, as refusal says. in_use: the file in the folder that the engine's
    variable names, whosever it is. lookup: this package's own answer; None: without a GPU, or where no tuned file has
    such a name. down: beside that file, the one for the down projection, which SGLang alone reads. entry: what is known
    of the file. near: what comes near where there is none. next_step: a line to be typed, or what is missing for one,
    or that there is nothing to do. fault: why what stands in that folder in place of in_use can't be used.
    """

    engine: str
    serving: Serving | None
    refusal: str = ""
    has_gpu: bool = True
    in_use: Path | None = None
    lookup: Lookup | None = None
    down: Path | None = None
    entry: IndexedFile | None = None
    near: tuple[str, ...] = ()
    next_step: str = ""
    fault: ConfigError | None = None

    @property
    def lacks_file(self) -> bool:
        """The engine reads tuned files, as far as is known, and has none to read: neither its folder nor this package
        has one, or the one in its folder is broken."""
        reads = self.serving is not None and self.serving.reads_tuned_files is not False
        has_none = self.lookup is not None and self.lookup.winner is None and self.in_use is None
        return reads and (has_none or self.fault is not None)

    def to_json(self) -> dict[str, Any]:
        winner = self.lookup.winner if self.lookup else None
        return {
            "engine": self.engine,
            "serving": self.serving and self.serving.to_json(),
            "refusal": self.refusal or None,
            "in_use": self.in_use and str(self.in_use),
            "fault": self.fault and str(self.fault),
            "here": winner and str(winner),
            "down": self.down and str(self.down),
            "reason": self.lookup.reason if self.lookup else None,
            "known": self.entry and self.entry.to_json(),
            "near": [*self.near],
            "next": self.next_step or None,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.serving is None:
            yield f"{self.engine}: {self.refusal}"
            return
        found = self.serving
        place = found.device_name if self.has_gpu else "Hopper, since no GPU is named"
        yield f"{found.engine} {found.version}: {found.model} {parallel_text(found.tp, found.ep)} on {place}"
        yield f"  on a rank: E={found.E}, N={found.N}, K={found.K}, top_k={found.top_k}, {found.kind}"
        yield f"  backend: {found.verdict}. {found.reason}"
        yield from (f"  note: {note}" for note in found.notes)
        if self.has_gpu:
            yield f"  file: {found.engine_file or f'none, since no tuned file has {found.kind} in its name'}"
        if self.in_use:
            yield f"  in use: {printable(self.in_use)}"
        if self.fault:
            yield f"  broken: {self.fault}"
        if self.lookup:
            winner = self.lookup.winner
            looked = f"{counted(len(self.lookup.tried), 'place')} looked at"
            yield f"  here: {printable(winner) if winner else 'none'} ({looked}). {self.lookup.reason}"
        if self.down and not self.in_use:
            yield f"  down: {printable(self.down)}. The gain over no file is told without it"
        if self.entry:
            known = self.entry
            yield (
                f"  how old: of {known.date or 'an unknown day'}, for Triton {known.triton or 'unknown'}; "
                f"{known.evidence or 'no record'}; over no file: {_gain(known, found)}"
            )
            beside, engine = _faster(known, found), ENGINE_NAMES[found.engine]
            if beside is not None:
                yield (
                    f"  note: it takes {beside.geomean:.2f} of the time of {engine}'s own file; an export over "
                    f"{engine}'s own files (--overlay) keeps that"
                )
        yield from (f"  near: {line}" for line in self.near)
        yield f"  next: {self.next_step}"


def look(
    asked: AskedModel, engines: Sequence[str], device_name: str | None, triton_version: str | None
) -> list[Prospect]:
    """ServingError: none of the engines runs it. ConfigError: a registry, or a file that would serve, is broken."""
    found, refused = list[Prospect](), list[ServingError]()
    for engine in engines:
        try:
            arch = HOPPER if device_name is None else None
            serving = serving_here(asked, engine, device_name or NO_NAME, arch)
        except ServingError as error:
            refused.append(error)
            found.append(Prospect(engine, None, str(error)))
        else:
            found.append(_prospect(asked, serving, device_name is not None, triton_version))
    if len(refused) == len(found):
        raise refused[0]
    return found


def _gain(known: IndexedFile, serving: Serving) -> str:
    """In this engine at the model's own shape; where it wasn't measured, of the whole file, and at which it was."""
    own = known.ratios_at((serving.K, serving.top_k, serving.ep, serving.fused_shared_experts)).get(serving.engine)
    if own:
        return own.gain
    shapes = "; ".join(map(str, known.shapes)) if serving.engine in known.ratios else ""
    return known.gain(serving.engine) + f" (at {shapes}; not measured at this model's)" * bool(shapes)


def _faster(known: IndexedFile | None, serving: Serving) -> BesideShipped | None:
    """How our file compares with the engine's own of this GPU, where that was measured to be faster."""
    beside = known.beside_shipped.get(serving.engine) if known is not None and known.name == serving.file else None
    return beside if beside is not None and beside.is_slower else None


def _prospect(asked: AskedModel, serving: Serving, has_gpu: bool, triton_version: str | None) -> Prospect:
    engine = serving.engine
    if not has_gpu or serving.file is None:
        step = "nothing: no tuned file can serve it" if has_gpu else _without_gpu(serving)
        return Prospect(engine, serving, has_gpu=has_gpu, next_step=step)
    chain = Chain(where())
    version = triton_version or machine.version_of("triton") or serving.triton
    lookup, ours = chain.look_up(serving.file, chain.tiers(version))
    entry = near = down = None
    if lookup.winner:
        down = _down_beside(lookup.winner, engine)
        path = lookup.winner.relative_to(where()).as_posix()
        entry = next((each for each in indexed(where()) if each.file == path), None)
    elif parsed := parse(serving.file):
        near = near_misses(parsed, where())
    fault = in_use = None
    try:
        in_use = _in_use(serving)
    except ConfigError as error:  # the user's own; the other engine reads another folder
        fault = error
    step = f"nothing: {ENGINE_NAMES[engine]} reads the file of {machine.VARIABLES[engine]}"
    is_slower = _faster(entry, serving) is not None
    if fault and serving.reads_tuned_files is not False:
        step = fault.said.partition(". Fix: ")[2]
    elif is_slower and not in_use:
        step = f"nothing: {ENGINE_NAMES[engine]}'s own file is faster, and it reads that without an export"
    elif not in_use or serving.reads_tuned_files is False or (is_slower and read_config(in_use, is_users=True) == ours):
        siblings_file = None if lookup.winner else chain.siblings_file(serving.file, chain.tiers(version))
        step = str(next_step(asked.flags, serving, lookup, siblings_file))
    return Prospect(engine, serving, "", True, in_use, lookup, down, entry, tuple(near or ()), step, fault)


def _in_use(serving: Serving) -> Path | None:
    """What the engine finds in the folder that its variable names, newest Triton first. ConfigError: it is broken."""
    folder = os.environ.get(machine.VARIABLES[serving.engine])
    if not folder:
        return None
    folders = [Path(folder)] if serving.engine == "vllm" else version_folders(Path(folder) / "configs").values()
    name = str(serving.engine_file)
    found = _first(folders, name)
    if found is not None and serving.engine == "sglang":  # which looks for each of the two by itself
        _first(folders, down_of(name))
    return found


def _first(folders: Iterable[Path], name: str) -> Path | None:
    """ConfigError: it is broken."""
    path = next((path for path in (each / name for each in folders) if exists(path)), None)
    if path is not None:
        read_config(path, is_users=True)
    return path


def _down_beside(path: Path, engine: str) -> Path | None:
    """The file for the down projection that is exported with this one. ConfigError: it is broken."""
    down = path.with_name(down_of(path.name))
    if engine != "sglang" or not exists(down):
        return None
    read_config(down)
    return down


def _without_gpu(serving: Serving) -> str:
    if serving.reads_tuned_files is False:
        return "nothing, on Hopper: tuned files change nothing there"
    return "add --device-name, as the driver of the GPU reports it; `fused-moe-configs list` names those with files"
