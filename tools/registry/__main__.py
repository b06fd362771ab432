"""`python -m tools.registry`: which model explains each (E, N) of a folder's files; what an engine runs for one model;
whether the lines that engines.json cites still stand.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tools.checkout import CONFIGS
from tools.cli import block_shape_argument, command, engine_path, one_of, path_argument, run
from tools.findings import emit
from tools.registry.citations import Check, check_citations, open_wheel
from tools.registry.devices import load_devices
from tools.registry.engines import load_engines
from tools.registry.models import OTHER_KERNELS, SIXTEEN_BIT, Asked, ModelRegistry, another_kernel, load_models
from tools.registry.reading import RegistryError
from tools.registry.shapes import readers
from tools.registry.sharding import Engine, Explanation, explain_pair, shard
from tools.store.files import walk
from tools.store.tiers import RECORDS, REGISTRY
from tools.store.workload import LOOKED_UP_DTYPES, Layout, Workload, parse_file_name
from tools.text import counted, shown_path

SHOWN = 3
"""Explanations shown in a line of text; JSON has all."""

_PAIR = re.compile(r"E=([1-9][0-9]{0,9}),N=([1-9][0-9]{0,9}),.*\.json", re.ASCII | re.DOTALL)


@dataclass(frozen=True)
class SizesRow:
    """One (E, N) as files name it, how many files have it, and which models read them (none: unexplained).

    otherwise_stored: of an unexplained one, the models with these sizes whose dtype or scales give them other names.
    """

    E: int
    N: int
    files: int
    explanations: tuple[Explanation, ...]
    otherwise_stored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Names of tuned files below a folder; what looks like one and isn't counted; folders that can't be read."""

    names: tuple[str, ...]
    unread: tuple[Path, ...]
    closed: tuple[Path, ...]


def report(names: Iterable[str], models: ModelRegistry, layout: Layout = Layout.REPO) -> list[SizesRow]:
    """A row for each (E, N) of the file names, ascending. Names without one are the validator's business."""
    by_pair: dict[tuple[int, int], list[Workload | None]] = {}
    for name in names:
        match = _PAIR.fullmatch(name)
        if match is not None:
            by_pair.setdefault((int(match[1]), int(match[2])), []).append(parse_file_name(name, layout).workload)
    return [_row(E, N, workloads, models) for (E, N), workloads in sorted(by_pair.items())]


def _row(E: int, N: int, workloads: Sequence[Workload | None], models: ModelRegistry) -> SizesRow:
    read = {replace(workload, device_name="") for workload in workloads if workload is not None}
    explanations = {reader.found for workload in read for reader in readers(workload, models)}
    sizes = {(workload.E, workload.N) for workload in read} or {(E, N)}
    otherwise = () if explanations else {found.model_id for size in sizes for found in explain_pair(*size, models)}
    return SizesRow(E, N, len(workloads), tuple(sorted(explanations)), tuple(sorted(otherwise)))


@command("registry")
def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 after a report, 1 if folders in it can't be read or a citation moved, 2 for bad use."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.citations:
        return _check_citations(options)
    if options.model is not None:
        emit(_shard_text(options))
        return 0
    listing = list_names(options.folder)
    text = _report_text(listing.names, options)
    for path in listing.unread:
        sys.stderr.write(f"not counted, since its name has no E=…,N=… or it is no file: {shown_path(path)}\n")
    for path in listing.closed:
        sys.stderr.write(f"not counted, since the folder can't be read: {shown_path(path)}\n")
    emit(text)
    return 1 if listing.closed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.registry", description=__doc__)
    add = parser.add_argument
    add("folder", nargs="?", type=path_argument, default=CONFIGS, help="files to explain (configs/)")
    add("--layout", type=one_of(Layout), default=Layout.REPO, metavar="{repo,vllm,sglang}", help="whose int4 names")
    add("--format", choices=["text", "json"], default="text")
    one = parser.add_argument_group("one model's shard, instead of the report")
    one.add_argument("--model", metavar="NAME", help="Hugging Face id")
    one.add_argument("--engine", type=one_of(Engine), default=Engine.VLLM, metavar="{vllm,sglang}")
    one.add_argument("--tp", type=int, default=1, help="tensor parallel size")
    one.add_argument("--ep", type=int, default=1, help="expert parallel size, a divisor of tp")
    one.add_argument("--dtype", help="instead of the checkpoint's own; then with the scales that the next two say")
    one.add_argument("--block-shape", type=block_shape_argument, metavar="n,k", help="block of the weights' scales")
    one.add_argument("--per-channel-quant", action="store_true", help="channel scales")
    one.add_argument("--device-name", default="NVIDIA_H100_80GB_HBM3", help="as the driver or a file name says")
    engines = parser.add_argument_group("the lines that configs/registry/engines.json cites, instead of the report")
    engines.add_argument(
        "--citations", action="extend", nargs="+", metavar="ENGINE=PATH", help="a wheel, or the folder it lies in"
    )
    return parser


def _check_citations(options: argparse.Namespace) -> int:
    releases = load_engines()
    ends = dict.fromkeys(map(str, Engine), "")
    named = [engine_path("--citations", text, ends) for text in options.citations]
    checks = [check_citations(open_wheel(name, path), releases) for name, path in named]
    if options.format == "json":
        rows = [
            {"engine": each.release.name, "version": each.release.version, "checked": len(each.release.citations)}
            | {"note": each.note, "moved": [{**asdict(moved), "message": str(moved)} for moved in each.moved]}
            for each in checks
        ]
        emit(json.dumps({"engines": rows}, indent=4))
    else:
        emit("\n".join(line for each in checks for line in _citation_lines(each)))
    return 1 if any(each.moved for each in checks) else 0


def _citation_lines(check: Check) -> Iterator[str]:
    release = check.release
    if check.note:
        yield check.note
    yield from map(str, check.moved)
    stand = len(release.citations) - len(check.moved)
    yield f"{release.name} {release.version}: {counted(len(release.citations), 'citation')}, {stand} stand"


def _shard_text(options: argparse.Namespace) -> str:
    device = load_devices().find(options.device_name)
    model = load_models().find(options.model)
    quantisation = Asked(options.dtype, options.block_shape, options.per_channel_quant).of(model.quantisation)
    if quantisation.dtype not in {*SIXTEEN_BIT, *LOOKED_UP_DTYPES[Layout.REPO]} and quantisation.dtype in OTHER_KERNELS:
        raise RegistryError(another_kernel(model.id, quantisation.dtype))
    found = shard(
        model,
        options.engine,
        device_name=options.device_name,
        arch=device.arch,
        tp=options.tp,
        ep=options.ep,
        quantisation=quantisation,
    )
    if options.format == "json":
        parts = {"workload": asdict(found.workload), "shape": asdict(found.shape), "serving": found.serving.to_json()}
        return json.dumps(parts, indent=4)
    name = found.workload.file_name(Layout(options.engine.value))
    lines = [name, f"K={found.shape.K}, top_k={found.shape.top_k}"]
    lines.append(f"{found.serving.engine} {found.serving.version}: {found.serving.verdict}. {found.serving.reason}")
    return "\n".join([*lines, *found.serving.notes])


def list_names(folder: Path) -> Listing:
    """What lies below a folder, at any depth, records and registries left out. RegistryError: no tuned file does."""
    if not os.path.isdir(folder):  # noqa: PTH112 (never raises)
        raise RegistryError("expected a folder of tuned files that can be read", "name one that exists", folder)
    names, unread, closed = [], [], []
    for path in sorted(walk(folder)):
        is_folder = os.path.isdir(path) and not path.is_symlink()  # noqa: PTH112
        if {RECORDS, REGISTRY} & set(path.relative_to(folder).parts[:-1]):
            continue
        if is_folder and path.suffix != ".json":
            closed.append(path)
        elif _PAIR.fullmatch(path.name) and not is_folder:
            names.append(path.name)
        elif path.suffix.lower() == ".json":
            unread.append(path)
    if not names and not closed:
        raise RegistryError("expected tuned files, found none", "name a folder that holds some", folder)
    return Listing(tuple(names), tuple(unread), tuple(closed))


def _report_text(names: Iterable[str], options: argparse.Namespace) -> str:
    rows = report(names, load_models(), options.layout)
    unexplained = sum(not row.explanations for row in rows)
    if options.format == "json":
        return json.dumps({"pairs": [asdict(row) for row in rows], "unexplained": unexplained}, indent=4)
    lines = [f"E={row.E},N={row.N}  ({counted(row.files, 'file')})  {_shown(row)}" for row in rows]
    summary = f"{counted(len(rows), 'pair')}, {len(rows) - unexplained} explained, {unexplained} unexplained"
    return "\n".join([*lines, summary])


def _shown(row: SizesRow) -> str:
    if not row.explanations:
        stored = f" (sizes of models stored otherwise: {_listed(row.otherwise_stored)})" if row.otherwise_stored else ""
        return f"UNEXPLAINED{stored}"
    return _listed(row.explanations)


def _listed(items: Sequence[object]) -> str:
    more = f"; and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return "; ".join(map(str, items[:SHOWN])) + more


if __name__ == "__main__":
    run(main, "registry")
