"""Which of an engine's files a survey measures, for which shapes, and what it compares them with. Needs no GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fused_moe_configs.lookup import Chain, ConfigError
from fused_moe_configs.naming import ENGINE_NAMES
from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tools.bench.candidates import Candidate, heuristic, of_file
from tools.checkout import CONFIGS
from tools.errors import UserError
from tools.launch.layer_config import LayerConfig
from tools.measure.layer import LayerShape
from tools.portfolio.shipped_files import EnginePackage, ShippedFile, shipped_files
from tools.portfolio.survey_board import LeftOut
from tools.registry.devices import Device, load_devices
from tools.registry.models import ModelRegistry, load_models
from tools.registry.shapes import engines_reading, quant_mode_of, registered_shapes, why_not_measured, without_gate
from tools.store.record import ShapeOfModels
from tools.store.workload import Workload
from tools.text import counted, printable

BATCH_SIZES = (1, 8, 32, 128, 512, 2048, 4096)
"""Decode and prefill. At 4096 stands the one row with USE_TMA that SGLang 0.5.23 ships for an H100."""


@dataclass(frozen=True)
class ShippedContest:
    """A shipped file, what runs without it, and ours, if there is one. shapes: those to measure, with their layers.

    ours_path: below the configs folder. unmeasured: how many more shapes are behind the name.
    """

    file: ShippedFile
    shapes: tuple[tuple[ShapeOfModels, LayerShape], ...]
    shipped: Candidate
    heuristic: Candidate
    ours: Candidate | None = None
    ours_path: str | None = None
    unmeasured: int = 0

    @property
    def workload(self) -> Workload:
        return self.file.workload

    def configs(self, num_tokens: int, flavour: Flavour) -> RowConfigs:
        """What the engine launches at a batch size."""
        shipped, heuristic = (c.layer(num_tokens, self.workload, flavour) for c in (self.shipped, self.heuristic))
        ours = None if self.ours is None else self.ours.layer(num_tokens, self.workload, flavour)
        return RowConfigs(shipped, heuristic, ours)


@dataclass(frozen=True)
class RowConfigs:
    """What is compared at one batch size."""

    shipped: LayerConfig
    heuristic: LayerConfig
    ours: LayerConfig | None

    @property
    def distinct(self) -> tuple[LayerConfig, ...]:
        return tuple(dict.fromkeys(c for c in (self.heuristic, self.shipped, self.ours) if c is not None))


@dataclass(frozen=True)
class SurveyPlan:
    """notes: a line each, of what is to be known."""

    contests: tuple[ShippedContest, ...]
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...] = ()


def plan(engine: EnginePackage, device_name: str, triton: str, most_shapes: int, configs: Path = CONFIGS) -> SurveyPlan:
    """device_name: as the driver reports it. configs: this project's. UserError: an unknown GPU, a broken registry."""
    device = load_devices().find(device_name)
    files, not_read = shipped_files(engine, device_name, triton)
    planner = _Planner(engine.flavour, device, triton, load_models(), most_shapes, Chain(configs))
    contests, left_out, notes = [], [LeftOut(each.name, each.reason) for each in not_read], []
    for file in files:
        try:
            contest, note = planner.contest(file)
        except UserError as error:
            left_out.append(LeftOut(file.name, str(error).removeprefix(f"{file.name}: ").rstrip(".")))
            continue
        contests.append(contest)
        notes += [f"{file.name}: {note}"] if note else []
    return SurveyPlan(tuple(contests), tuple(left_out), tuple(notes))


@dataclass(frozen=True)
class _Planner:
    """chain: the loader's, without the user's own folder: what this project has."""

    flavour: Flavour
    device: Device
    triton: str
    models: ModelRegistry
    most_shapes: int
    chain: Chain

    def contest(self, file: ShippedFile) -> tuple[ShippedContest, str]:
        """And a note. UserError: why the file isn't measured."""
        workload = file.workload
        quant = quant_mode_of(workload)
        if file.fault:
            raise UserError(file.fault)
        if quant is None:
            raise UserError(f"another kernel runs {workload.dtype}")
        if why_not_measured(workload, self.models):
            ungated = without_gate(workload, self.models)[0]
            raise UserError(f"only models without a gate have its sizes, such as {ungated}: another kind of layer")
        shapes = self._shapes(workload)
        if not shapes:
            raise UserError("no registered model reads it")
        shipped = of_file(file.name, file.up, file.down)
        no_file = heuristic(workload, BATCH_SIZES, self.device)
        ours, path, note = self._ours(workload)
        measured = tuple((each, LayerShape.of(workload, each.shape, quant)) for each in shapes[: self.most_shapes])
        unmeasured = len(shapes) - len(measured)
        return ShippedContest(file, measured, shipped, no_file, ours, path, unmeasured), note

    def _shapes(self, workload: Workload) -> tuple[ShapeOfModels, ...]:
        """Behind the name in this engine: as people run models there, else by arithmetic; the fewest ranks first."""
        for placed_on in (self.device, None):
            known = registered_shapes(workload, self.models, placed_on=placed_on)
            read = [each for each in known if self.flavour in engines_reading(workload, each.shape, self.models)]
            if read:
                return tuple(read)
        return ()

    def _ours(self, workload: Workload) -> tuple[Candidate | None, str | None, str]:
        """Our file through the loader's chain, its path, and a note where it can't be used."""
        tiers = self.chain.tiers(self.triton)
        try:
            up, entries = self.chain.look_up(workload.file_name(), tiers)
            if up.winner is None or entries is None:
                return None, None, ""
            down, of_down = self.chain.look_up(replace(workload, down=True).file_name(), tiers)
        except ConfigError as error:
            return None, None, f"ours isn't measured: {error}"
        own_down = _configs(of_down) if of_down is not None and down.winner != up.winner else {}
        ours = replace(Candidate.alike("ours", _configs(entries)), down=own_down)
        return ours, up.winner.relative_to(self.chain.configs).as_posix(), ""


def _configs(entries: Mapping[int, Mapping[str, Any]]) -> dict[int, LaunchConfig]:
    return {num_tokens: LaunchConfig.from_entry(entry) for num_tokens, entry in entries.items()}


def listed(engine: EnginePackage, found: SurveyPlan, device_name: str, triton: str) -> str:
    """What would be measured, for a person."""
    name = ENGINE_NAMES[engine.flavour]
    lines = [f"{name} {engine.package.version} on {device_name}, Triton {triton}: nothing is measured", ""]
    for contest in found.contests:
        shapes = "; ".join(str(each.shape) for each, _ in contest.shapes)
        more = f"; {contest.unmeasured} more" if contest.unmeasured else ""
        ours = f" ours: {contest.ours_path}" if contest.ours_path else ""
        lines.append(f"  {contest.file.name}: {shapes}{more}.{ours}")
    lines += ["", f"{counted(len(found.contests), 'file')} to measure, {len(found.left_out)} not:"]
    lines += [f"  {each.file}: {each.reason}" for each in found.left_out]
    return "\n".join(map(printable, lines)) + "\n"
