"""One engine put to the question: export, ask its own code, ask the loader, compare."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import fused_moe_configs
from tools.canary import answers, process, questions
from tools.canary.answers import Answer, Failure
from tools.canary.child import stand_ins
from tools.canary.cut import Cut, CutError, cut
from tools.canary.engines import WANTED, EngineLookup
from tools.canary.package import Package
from tools.canary.process import ProcessError
from tools.canary.questions import NO_VERSION_FOLDER, Question
from tools.registry.devices import DeviceRegistry
from tools.store.workload import Layout, Workload


@dataclass(frozen=True)
class LoaderFiles:
    """What the loader reads: the workloads of its files, its devices, the Triton versions that have a tier."""

    workloads: tuple[Workload, ...]
    devices: DeviceRegistry
    reference_triton: str
    triton_versions: tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """where: which file, device and Triton; empty for the engine as a whole."""

    where: str
    message: str


@dataclass(frozen=True)
class EngineReport:
    """modules: where its code was cut from. files: exported, over all exports. asked: look-ups, each for every M."""

    engine: str
    version: str
    modules: tuple[str, ...]
    files: int
    asked: int
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class _Export:
    """triton_version: None for every tier that the engine's layout can hold. files: written, below folder."""

    folder: Path
    triton_version: str | None
    files: tuple[Path, ...]
    questions: tuple[Question, ...]


def check(engine: EngineLookup, package: Package, store: LoaderFiles, scratch: Path, timeout_s: float) -> EngineReport:
    """Everything that the engine reads otherwise than the loader. ConfigError: a file of the store is broken."""
    try:
        code = cut(package.read, engine.places, WANTED, stand_ins(engine.name, "", "", ""))
    except CutError as error:
        return EngineReport(engine.name, package.version, (), 0, 0, (Difference("", str(error)),))
    exports = [_export(engine, store, version, scratch) for version in (*store.triton_versions, None)]
    asked = [(export, setting) for export in exports for setting in process.settings(export.folder, export.questions)]
    try:
        documents = process.ask(engine, code, [setting for _, setting in asked], scratch / "child", timeout_s)
    except ProcessError as error:
        return _report(engine, package, code, exports, (Difference("", str(error)),))
    found: list[tuple[_Export, Question, Answer | Failure]] = [
        (export, question, answers.of_engine(document))
        for (export, setting), replies in zip(asked, documents, strict=True)
        for question, document in zip(setting.questions, replies, strict=True)
    ]
    apart = [difference for export, question, answer in found for difference in _compare(engine, question, answer)]
    return _report(engine, package, code, exports, (*apart, *_never_read(engine, exports, found)))


def _report(
    engine: EngineLookup, package: Package, code: Cut, exports: Sequence[_Export], apart: tuple[Difference, ...]
) -> EngineReport:
    files, asked = sum(len(export.files) for export in exports), sum(len(export.questions) for export in exports)
    return EngineReport(engine.name, package.version, code.modules, files, asked, tuple(dict.fromkeys(apart)))


def _export(engine: EngineLookup, store: LoaderFiles, triton_version: str | None, scratch: Path) -> _Export:
    folder = scratch / (triton_version or "every-tier")
    written = fused_moe_configs.export(folder, engine.name, triton_version=triton_version)
    files = tuple(path.relative_to(folder) for path in written)
    if engine.layout is Layout.SGLANG and triton_version is None:
        asked = questions.of_sglang_tree(files, store.reference_triton)  # type: ignore[arg-type]
    else:
        version = triton_version or NO_VERSION_FOLDER
        asked = questions.of_store(store.workloads, engine.layout, store.devices, version)
    # SGLang lists a folder that isn't there where nothing was exported.
    return _Export(folder, triton_version, files, asked if files else ())


def _compare(engine: EngineLookup, question: Question, found: Answer | Failure) -> Iterator[Difference]:
    name = found.file_name if isinstance(found, Answer) else question.workload.file_name(engine.layout)
    loader = answers.of_loader(question, engine.layout, name)
    version = "" if question.triton_version == NO_VERSION_FOLDER else f", Triton {question.triton_version}"
    for message in answers.differences(loader, found):
        yield Difference(f"{name}, device {question.driver_name}{version}", message)


def _never_read(
    engine: EngineLookup, exports: Iterable[_Export], found: Sequence[tuple[_Export, Question, Answer | Failure]]
) -> Iterator[Difference]:
    """Exported files that no workload of the store leads the engine to."""
    if any(isinstance(answer, Failure) for _, _, answer in found):
        return  # which file a failed look-up would have read nobody knows
    for export in exports:
        if engine.layout is Layout.SGLANG and export.triton_version is None:
            continue  # asked for by the names in it
        mine = [answer for other, _, answer in found if other is export and isinstance(answer, Answer)]
        names = {name for answer in mine for name in (answer.file_name, answer.down_file_name)}
        for file in export.files:
            if file.name not in names:
                yield Difference(
                    f"{file.name}, exported for Triton {export.triton_version or 'any'}", "the engine never asks for it"
                )
