"""What an engine and the loader are asked, what each finds, and where the two differ. Pure but for the loader."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import fused_moe_configs
from fused_moe_configs.lookup import up_of
from fused_moe_configs.naming import for_channels
from tools.registry.devices import DeviceRegistry
from tools.store.tiers import version_of_folder
from tools.store.workload import Layout, Workload, parse_file_name

LAST_TOKEN = 4096
"""Up to this number of tokens every M is asked for, and beyond it every batch size that a file names."""

NO_VERSION_FOLDER = "0.0.0"
"""A Triton for which no version folder counts: what an export holds that was made for none."""

Entry = Mapping[str, Any]
Rows = Mapping[int, Entry]


# Questions


@dataclass(frozen=True)
class Question:
    """Which entries serve the workload (device as the driver's name stands in a file name) under this Triton?"""

    workload: Workload
    triton_version: str

    @property
    def driver_name(self) -> str:
        """As the driver reports it: engines turn its spaces into underscores."""
        return self.workload.device_name.replace("_", " ")


def questions_of_store(
    workloads: Iterable[Workload], layout: Layout, devices: DeviceRegistry, triton_version: str
) -> tuple[Question, ...]:
    """Every workload that the engine ever asks for, under each name of its device, with scales per channel too.

    The down projection's own files are asked for together with the up file's.
    """
    up = {replace(workload, down=False) for workload in workloads}
    channels = (parse_file_name(for_channels(workload.file_name())).workload for workload in up)
    named = {
        replace(workload, device_name=name)
        for workload in up.union(filter(None, channels))
        if _is_asked_for(workload, layout)
        for name in _names(workload.device_name, devices)
    }
    return tuple(Question(workload, triton_version) for workload in sorted(named, key=Workload.file_name))


def questions_of_sglang_tree(exported: Iterable[PurePosixPath], reference_triton: str) -> tuple[Question, ...]:
    """Of an export with every version's folder, `configs/triton_X_Y_Z/NAME` each: a file is asked for under its
    folder's Triton, one of the legacy folder `triton_0_0_0` under the reference, where no other folder has the name.
    """
    by_name: dict[str, list[str]] = {}
    for path in exported:
        version = version_of_folder(path.parent.name)
        if version is not None:
            by_name.setdefault(up_of(path.name), []).append(".".join(map(str, version)))
    return tuple(
        Question(workload, version)
        for name, versions in sorted(by_name.items())
        if (workload := parse_file_name(name, Layout.SGLANG).workload) is not None
        for version in _askable(sorted(set(versions)), reference_triton)
    )


def _askable(versions: Sequence[str], reference_triton: str) -> Iterator[str]:
    newer = [version for version in versions if version != NO_VERSION_FOLDER]
    yield from newer or [reference_triton]


def _is_asked_for(workload: Workload, layout: Layout) -> bool:
    parsed = parse_file_name(workload.file_name(layout), layout)
    return parsed.workload == workload and not parsed.faults


def _names(device_name: str, devices: DeviceRegistry) -> tuple[str, ...]:
    device = devices.get(device_name)
    return device.names if device else (device_name,)


# Answers


@dataclass(frozen=True)
class Reading:
    """rows: batch size → entry, None where nothing is found. nearest: (M, entry) from each M on which the entry
    changes; None there: the engine's heuristic.
    """

    rows: Rows | None
    nearest: tuple[tuple[int, Entry | None], ...]


@dataclass(frozen=True)
class Answer:
    """file_name: what is looked for. down: of the down projection, None where the engine knows none of its own."""

    file_name: str
    up: Reading
    down_file_name: str | None = None
    down: Reading | None = None


@dataclass(frozen=True)
class Failure:
    """Why an engine's code gave no answer."""

    message: str


def answer_of_engine(document: Any) -> Answer | Failure:
    """The answer as the child process wrote it. Failure: it reports one, or it isn't of the child's form."""
    if not isinstance(document, Mapping) or "error" in document:
        return Failure(str(document.get("error")) if isinstance(document, Mapping) else "no answer")
    try:
        down = document["down_nearest"]
        if not isinstance(document["down_file_name"], str | None):
            raise TypeError("a name of the down file that is no text")
        return Answer(
            str(document["file_name"]),
            _reading(document["rows"], document["nearest"]),
            document["down_file_name"],
            None if down is None else _reading(document["down_rows"], down),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return Failure(f"its answer has another form than a table of entries ({type(error).__name__}: {error})")


def _reading(rows: Any, nearest: Any) -> Reading:
    table = None if rows is None else {int(key): dict(entry) for key, entry in rows.items()}
    return Reading(table, tuple((int(M), None if entry is None else dict(entry)) for M, entry in nearest))


def answer_of_loader(question: Question, layout: Layout, engine_file_name: str) -> Answer:
    """What the loader says. ConfigError: a file of the store is broken.

    An engine may ask under another name for the device than the driver's (vLLM: one for all H200): the loader is
    asked for that name first, as an export does.
    """
    asked = parse_file_name(engine_file_name, layout).workload
    own = question.workload.device_name
    device_name = own
    for name in dict.fromkeys((asked.device_name if asked else own, own)):
        if _rows(question, layout, name, down=False) is not None:
            device_name = name
            break
    rows, down_rows = (_rows(question, layout, device_name, down=down) for down in (False, True))
    has_down = layout is Layout.SGLANG
    tokens = [*range(1, LAST_TOKEN + 1)]
    tokens += sorted(key for key in {*(rows or ()), *((has_down and down_rows) or ())} if key > LAST_TOKEN)
    serve = _server(question, layout, device_name, down=False)
    serve_down = _server(question, layout, device_name, down=True)

    def down_at(M: int) -> Entry | None:
        up, down = serve(M), serve_down(M)
        # Both projections share one alignment of tokens, so SGLang gives down the M tile of up.
        return down if up is None or down is None else {**down, "BLOCK_SIZE_M": up["BLOCK_SIZE_M"]}

    name = question.workload.file_name(layout)
    up = Reading(rows, _runs(serve, tokens))
    return Answer(name, up, None, Reading(down_rows, _runs(down_at, tokens)) if has_down else None)


def _arguments(question: Question, device_name: str, down: bool) -> dict[str, Any]:
    workload = question.workload
    return {
        "E": workload.E,
        "N": workload.N,
        "dtype": workload.dtype,
        "block_shape": workload.block_shape,
        "per_channel_quant": workload.per_channel_quant,
        "down": down,
        "device_name": device_name,
        "triton_version": question.triton_version,
    }


def _rows(question: Question, layout: Layout, device_name: str, *, down: bool) -> Rows | None:
    found = fused_moe_configs.get_moe_configs(**_arguments(question, device_name, down))
    return None if found is None else {size: dict(_known_to(layout, entry)) for size, entry in found.items()}


def _server(question: Question, layout: Layout, device_name: str, *, down: bool) -> Callable[[int], Entry | None]:
    arguments = _arguments(question, device_name, down)

    def serve(M: int) -> Entry | None:
        found = fused_moe_configs.get_config(M, **arguments)
        return None if found is None else _known_to(layout, found)

    return serve


def _known_to(layout: Layout, entry: Entry) -> Entry:
    """vLLM's kernel takes no USE_TMA: an export for it leaves the key out."""
    if layout is Layout.SGLANG or "USE_TMA" not in entry:
        return entry
    return {key: value for key, value in entry.items() if key != "USE_TMA"}


def _runs(serve: Callable[[int], Entry | None], tokens: Iterable[int]) -> tuple[tuple[int, Entry | None], ...]:
    found: list[tuple[int, Entry | None]] = []
    for M in tokens:
        entry = serve(M)
        if not found or found[-1][1] != entry:
            found.append((M, entry))
    return tuple(found)


def differences(loader: Answer, engine: Answer | Failure) -> Iterator[str]:
    """What differs, a sentence each: none where the engine serves every M with the loader's entry."""
    if isinstance(engine, Failure):
        yield f"the engine's code fails: {engine.message}"
        return
    yield from _differences("", loader.up, engine.up)
    if loader.down is not None and engine.down is not None:
        yield from _differences("down projection: ", loader.down, engine.down)


def _differences(which: str, loader: Reading, engine: Reading) -> Iterator[str]:
    if loader.rows is None or engine.rows is None:
        if loader.rows is not engine.rows:
            sides = ("nothing", "a table") if loader.rows is None else ("a table", "nothing")
            yield f"{which}the loader finds {sides[0]}, the engine {sides[1]}"
        return
    sizes = sorted({*loader.rows, *engine.rows})
    rows = [(M, loader.rows.get(M), engine.rows.get(M)) for M in sizes]
    if apart := [row for row in rows if _text(row[1]) != _text(row[2])]:
        yield f"{which}{len(apart)} of {len(rows)} entries differ, first {_row(*apart[0])}"
        return
    edges = sorted({M for M, _ in (*loader.nearest, *engine.nearest)})
    for M in edges:
        ours, theirs = _at(loader, M), _at(engine, M)
        if _text(ours) != _text(theirs):
            yield f"{which}the nearest entry differs, first {_row(M, ours, theirs)}"
            return


def _at(reading: Reading, M: int) -> Entry | None:
    return next((entry for first, entry in reversed(reading.nearest) if first <= M), None)


def _row(M: int, ours: Entry | None, theirs: Entry | None) -> str:
    return f"at M={M}: the loader answers {_text(ours)}, the engine {_text(theirs)}"


def _text(entry: Entry | None) -> str:
    """Also distinguishes 1 from true, which compare as equal."""
    return "nothing" if entry is None else json.dumps(entry, sort_keys=True, default=repr)
