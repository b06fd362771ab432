"""One engine's check: export, ask its own code in a child process, ask the loader, compare."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fused_moe_configs
from fused_moe_configs.lookup import packed_size
from tools.canary import answers, defaults
from tools.canary.answers import LAST_TOKEN, NO_VERSION_FOLDER, Answer, Failure, Question
from tools.canary.child import stand_ins
from tools.canary.engines import WANTED, EngineLookup
from tools.child_process import ended
from tools.launch.engine_package import Package
from tools.launch.heuristic_version import DEFAULT_FUNCTION, FOLLOWED, default_function, sha256_of_cut
from tools.launch.source_cut import Cut, CutError, cut
from tools.registry.devices import DeviceRegistry
from tools.store.record import HeuristicVersion
from tools.store.strict_json import Json
from tools.store.workload import Layout, Workload
from tools.with_parent import bound

MOST_TOLD = 25
"""Differences of an engine that are handed on: an issue takes `tools.text.MAX_BODY` characters."""

LONGEST_TEXT = 600
"""Characters of one text that the engine's code may have written."""


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

    def to_json(self) -> dict[str, Json]:
        """Cut to what its schema takes."""
        return {"where": self.where[:LONGEST_TEXT], "message": self.message[:LONGEST_TEXT]}


@dataclass(frozen=True)
class EngineReport:
    """modules: where its code was cut from. files: exported, over all exports. asked: look-ups, each for every M.

    defaults: workloads that were asked for without a file, on each kind of machine. default_sha256: of the function
    that answers there, None where it can't be cut out.
    untold: how many differences there are beside those that are listed.
    """

    engine: str
    version: str
    modules: tuple[str, ...]
    files: int
    asked: int
    differences: tuple[Difference, ...]
    untold: int = 0
    defaults: int = 0
    default_sha256: str | None = None

    @property
    def num_differences(self) -> int:
        return len(self.differences) + self.untold

    @classmethod
    def read(cls, document: Mapping[str, Json]) -> EngineReport:
        """A report of a document that is valid by schema/canary.schema.json."""
        differences = tuple(Difference(**difference) for difference in document["differences"])
        return cls(**{**document, "modules": tuple(document["modules"]), "differences": differences})

    def to_json(self) -> dict[str, Json]:
        """As it is handed on: with the first of its differences, whatever the engine's code made of them."""
        told = self.differences[:MOST_TOLD]
        return {
            "engine": self.engine,
            "version": self.version,
            "modules": [module[:LONGEST_TEXT] for module in self.modules[:MOST_TOLD]],
            "files": self.files,
            "asked": self.asked,
            "defaults": self.defaults,
            "default_sha256": self.default_sha256,
            "differences": [difference.to_json() for difference in told],
            "untold": self.num_differences - len(told),
        }


@dataclass(frozen=True)
class _Export:
    """triton_version: None for every tier that the engine's layout can hold. files: written, below folder."""

    folder: Path
    triton_version: str | None
    files: tuple[Path, ...]
    questions: tuple[Question, ...]


def check(engine: EngineLookup, package: Package, store: LoaderFiles, scratch: Path, timeout_s: float) -> EngineReport:
    """Everything that the engine reads otherwise than the loader, or runs otherwise than our table of its heuristic.

    ConfigError: a file of the store is broken.
    """
    found = check_look_ups(engine, package, store, scratch, timeout_s)
    without_a_file = check_defaults(engine.name, package, FOLLOWED[engine.name], scratch / "defaults", timeout_s)
    modules = {*found.modules, *without_a_file.modules}
    return replace(
        found,
        modules=tuple(sorted(modules)),
        defaults=without_a_file.asked,
        default_sha256=without_a_file.sha256,
        differences=(*without_a_file.differences, *found.differences),
    )


@dataclass(frozen=True)
class DefaultsChecked:
    """What the engine's default function answers: where it was cut from, its hash, workloads asked, what differs."""

    modules: tuple[str, ...]
    sha256: str | None
    asked: int
    differences: tuple[Difference, ...]


def check_defaults(
    engine: str, package: Package, followed: HeuristicVersion, scratch: Path, timeout_s: float
) -> DefaultsChecked:
    """Runs the engine's default function on the grid beside our table. followed: what our table is of.

    The first difference says that the function has moved.
    """
    try:
        code = default_function(package.read, engine)
    except CutError as error:
        return DefaultsChecked((), None, 0, (Difference(DEFAULT_FUNCTION, str(error)),))
    asked, machines = defaults.questions(), defaults.MACHINES[engine]
    document = {
        "engine": engine,
        "source": code.text,
        "machines": [
            {**vars(machine), "questions": [defaults.to_json(engine, question) for question in asked]}
            for machine in machines
        ],
    }
    apart: list[Difference] = []
    num_different: int | None = None
    try:
        answers = _replies(document, [len(asked)] * len(machines), scratch, timeout_s)
    except ProcessError as error:
        apart.append(Difference(DEFAULT_FUNCTION, str(error)))
    else:
        for machine, found in zip(machines, answers, strict=True):
            apart += [Difference(*each) for each in defaults.differences(engine, machine, asked, found)]
        num_different = len(apart)
    sha256 = sha256_of_cut(code)
    if line := defaults.moved(engine, package.version, sha256, followed, num_different):
        apart.insert(0, Difference(DEFAULT_FUNCTION, line))
    return DefaultsChecked(code.modules, sha256, len(asked) * len(machines), tuple(apart))


def check_look_ups(
    engine: EngineLookup, package: Package, store: LoaderFiles, scratch: Path, timeout_s: float
) -> EngineReport:
    """Everything that the engine reads otherwise than the loader. ConfigError: a file of the store is broken."""
    try:
        code = cut(package.read, engine.places, WANTED, stand_ins(engine.name, "", "", ""))
    except CutError as error:
        return EngineReport(engine.name, package.version, (), 0, 0, (Difference("", str(error)),))
    exports = [_export(engine, store, version, scratch) for version in (*store.triton_versions, None)]
    asked = [(export, setting) for export in exports for setting in settings(export.folder, export.questions)]
    try:
        documents = ask(engine, code, [setting for _, setting in asked], scratch / "child", timeout_s)
    except ProcessError as error:
        return _report(engine, package, code, exports, (Difference("", str(error)),))
    found: list[tuple[_Export, Question, Answer | Failure]] = [
        (export, question, answers.answer_of_engine(document))
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
        asked = answers.questions_of_sglang_tree(files, store.reference_triton)  # type: ignore[arg-type]
    else:
        version = triton_version or NO_VERSION_FOLDER
        asked = answers.questions_of_store(store.workloads, engine.layout, store.devices, version)
    # SGLang lists a folder that isn't there where nothing was exported.
    return _Export(folder, triton_version, files, asked if files else ())


def _compare(engine: EngineLookup, question: Question, found: Answer | Failure) -> Iterator[Difference]:
    name = found.file_name if isinstance(found, Answer) else question.workload.file_name(engine.layout)
    loader = answers.answer_of_loader(question, engine.layout, name)
    version = "" if question.triton_version == NO_VERSION_FOLDER else f", Triton {question.triton_version}"
    for message in answers.differences(loader, found):
        yield Difference(f"{name}, device {question.driver_name}{version}", message)


def _never_read(
    engine: EngineLookup, exports: Iterable[_Export], found: Sequence[tuple[_Export, Question, Answer | Failure]]
) -> Iterator[Difference]:
    """Exported files that no workload of the store leads the engine to."""
    if any(isinstance(answer, Failure) for _, _, answer in found):
        return  # a failed look-up doesn't say which file it would have read
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


# The child process that runs an engine's code: a time limit, an environment without secrets, no output.

CHILD = Path(__file__).with_name("child.py")


class ProcessError(RuntimeError):
    """The child gave no answers. One line that says how it ended."""


@dataclass(frozen=True)
class EngineSetting:
    """Questions that share what the engine sees around it: its folder, Triton and GPU."""

    folder: Path
    triton_version: str
    driver_name: str
    questions: tuple[Question, ...]


def settings(folder: Path, questions: Sequence[Question]) -> list[EngineSetting]:
    """The questions to one exported folder, grouped."""
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.triton_version, question.driver_name), []).append(question)
    return [EngineSetting(folder, version, driver, tuple(group)) for (version, driver), group in groups.items()]


def ask(
    engine: EngineLookup, code: Cut, asked: Sequence[EngineSetting], scratch: Path, timeout_s: float
) -> list[list[Any]]:
    """The answers as the child wrote them, a list for each setting. ProcessError: none, or not in time."""
    document = {
        "engine": engine.name,
        "source": code.text,
        "last_token": LAST_TOKEN,
        "settings": [_setting(engine, setting) for setting in asked],
    }
    return _replies(document, [len(setting.questions) for setting in asked], scratch, timeout_s)


def _replies(document: Mapping[str, Any], expected: Sequence[int], scratch: Path, timeout_s: float) -> list[list[Any]]:
    """What a child process answers to the request: lists of these lengths. ProcessError: none, or not in time."""
    scratch.mkdir(parents=True, exist_ok=True)
    request, replies = scratch / "request.json", scratch / "answers.json"
    request.write_text(json.dumps(document), "utf-8")
    _run([sys.executable, "-I", str(CHILD), str(request), str(replies)], scratch, timeout_s)
    try:
        found = json.loads(replies.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ProcessError(f"expected answers of the engine's code, found none that can be read ({error})") from error
    if not isinstance(found, list) or [len(each) if isinstance(each, list) else -1 for each in found] != [*expected]:
        raise ProcessError("expected an answer of the engine's code to each question, found another number of them")
    return found


def _setting(engine: EngineLookup, setting: EngineSetting) -> Mapping[str, Any]:
    return {
        "folder": str(setting.folder),
        "triton_version": setting.triton_version,
        "driver_name": setting.driver_name,
        "questions": [_question(engine, question) for question in setting.questions],
    }


def _question(engine: EngineLookup, question: Question) -> Mapping[str, Any]:
    workload = question.workload
    w2_N = packed_size(workload.N, workload.dtype)
    return {
        "E": workload.E,
        "N": w2_N if engine.layout is Layout.SGLANG else workload.N,
        "w2_N": w2_N,
        "dtype": workload.dtype,
        "block_shape": workload.block_shape,
        "per_channel_quant": workload.per_channel_quant,
    }


def _run(command: Sequence[str], folder: Path, timeout_s: float) -> None:
    # PATH alone: the engine's code has no business with the rest, least of all with a token.
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    log = folder / "output.txt"
    with log.open("wb") as output:
        child = subprocess.Popen(
            bound(command),
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ProcessError(
                f"expected answers within {timeout_s:g} s, found the engine's code still running"
            ) from error
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)  # with all that it started
            child.wait()
    if code:
        with log.open("rb") as output:
            output.seek(max(0, log.stat().st_size - 300))
            last = output.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise ProcessError(f"expected answers of the engine's code, found its process ended ({ended(code)}): {last}")
