"""Which file does a server read? Every answer of a model at its sizes on every GPU, as loader and `doctor` give it.

The functions are the loader's own. Nothing is asked of the machine, and no answer depends on it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fused_moe_configs.backends import EngineRelease
from fused_moe_configs.lookup import Chain, ConfigError, Lookup, renamed
from fused_moe_configs.naming import spelled
from fused_moe_configs.next_step import NextStep, model_flags, next_step
from fused_moe_configs.registry import ServingError
from fused_moe_configs.serving import Serving, driver_name, serve
from tools.registry.devices import Device, DeviceRegistry
from tools.registry.models import Model
from tools.site.files import TunedFile
from tools.site.surveys import Surveyed
from tools.store.record import EngineChecked
from tools.store.workload import Shape

SIZES = (1, 2, 4, 8, 16)
"""Tensor parallel sizes that are asked about, alone and with as many expert parallel ranks."""

UNPLACED_SIZES = (1, 2, 4, 8)
"""Those of a model whose placements the registry doesn't know, where one line each is shown."""


class State(enum.StrEnum):
    """What a server finds. The order is from best to least."""

    VERIFIED = "verified"
    """A file whose figures the main branch measured again."""
    CLAIMED = "claimed"
    """A file with its author's figures."""
    OTHER_SHAPE = "other-shape"
    """A file whose figures are of another hidden size, top_k, placement or engine: none is of what it gains here."""
    PUBLISHED = "published"
    """A file taken over from another project, without figures of ours."""
    UNRECORDED = "unrecorded"
    """A file that no record speaks of."""
    BROKEN = "broken"
    """A file that can't be used."""
    SHIPPED = "shipped"
    """None here; the engine ships one, as a survey found. Surveys may end before they measure it."""
    NONE = "none"
    """No file anywhere that is known of."""
    UNNAMED = "unnamed"
    """No tuned file can have such a name."""
    NOT_READ = "not-read"
    """The engine's default backend reads no tuned files for it."""

    @property
    def words(self) -> str:
        """As a cell has them."""
        return {"none": "none", "unrecorded": "no record", "unnamed": "no name", "shipped": "engine's own"}.get(
            self.value, self.value.replace("-", " ")
        )


MEASURED = (State.VERIFIED, State.CLAIMED)
"""A file's figures are of the very shape."""


@dataclass(frozen=True)
class Looked:
    """What a name leads to on one device under one Triton.

    name, engine_name: in this project's and in the engine's spelling. lookup None: a file that can't be used stands in
    the way, as fault says. file: the one that serves. siblings_file: a sibling's, where there is none. surveyed: the
    engine's own, where it was surveyed. walk: as `explain` prints it, the store's folder called configs.
    """

    name: str
    engine_name: str
    lookup: Lookup | None
    walk: str
    file: TunedFile | None = None
    siblings_file: Path | None = None
    surveyed: Surveyed | None = None
    fault: str = ""


@dataclass(frozen=True)
class DeviceAnswer:
    """For one GPU. looked None: no tuned file has a name for it."""

    device: Device
    of_arch: Serving
    looked: Looked | None

    @property
    def serving(self) -> Serving:
        """What the engine runs there."""
        return _on(self.device.name, self.of_arch)

    @property
    def file(self) -> TunedFile | None:
        return self.looked.file if self.looked else None

    @property
    def state(self) -> State:
        if self.of_arch.reads_tuned_files is False:
            return State.NOT_READ
        looked = self.looked
        if looked is None:
            return State.UNNAMED
        if looked.lookup is None:
            return State.BROKEN
        if looked.file is not None:
            state = State(looked.file.known.evidence) if looked.file.known.evidence else State.UNRECORDED
            return State.OTHER_SHAPE if state in MEASURED and self.ratio is None else state
        return State.NONE if looked.surveyed is None else State.SHIPPED

    @property
    def shape(self) -> Shape:
        """What the file's name doesn't say."""
        serving = self.of_arch
        return Shape(serving.K, serving.top_k, serving.ep, serving.fused_shared_experts)

    @property
    def ratio(self) -> float | None:
        """The file's time over that without it; None: it wasn't measured for this shape, or there is no file."""
        file = self.file
        return file.ratio(self.of_arch.engine, self.shape) if file else None

    @property
    def behind(self) -> EngineChecked | None:
        """The bench that found the engine's own file faster than the one that serves here."""
        lines = self.file.behind if self.file else ()
        return next((line for line in lines if line.engine == self.of_arch.engine), None)

    @property
    def step(self) -> NextStep:
        serving, looked = self.of_arch, self.looked
        if looked is None:
            return NextStep("", "nothing: no tuned file can serve it")
        if looked.lookup is None:
            return NextStep("", looked.fault)
        flags = model_flags(serving.model, serving.tp, serving.ep)
        return next_step(flags, serving, looked.lookup, looked.siblings_file)


@dataclass(frozen=True)
class Row:
    """A model at its parallel sizes under an engine's release. is_placed: people run it so, by the registry.

    refusal: why the engine doesn't run it; then there are no answers. answers: by device, in the registry's order.
    """

    model: Model
    release: EngineRelease
    tp: int
    ep: int
    is_placed: bool
    answers: Mapping[str, DeviceAnswer] = field(default_factory=dict)
    refusal: str = ""


class Questions:
    """Answers from one store. configs: its folder. releases: the engines'. surveys: of what they ship."""

    def __init__(
        self, configs: Path, devices: DeviceRegistry, releases: Sequence[EngineRelease], files: Sequence[TunedFile],
        surveys: Sequence[Surveyed] = (),
    ) -> None:  # fmt: skip
        self.devices, self.releases = devices, tuple(releases)
        self._configs, self._chain = configs, Chain(configs)
        self._files = {file.path: file for file in files}
        self._surveys = {(each.engine, each.name): each for each in surveys}
        self._looked: dict[tuple[str, str], Mapping[str, Looked]] = {}
        self._by_name: dict[tuple[str, str], Looked] = {}
        self._tiers: dict[str, Mapping[Path, str]] = {}

    def rows(self, model: Model) -> Iterator[Row]:
        """Every size that is asked about, engine by engine, also those that the engine refuses."""
        placed = {(placement.tp, placement.ep, placement.engine) for placement in model.placements}
        for release in self.releases:
            own = {(tp, ep) for tp, ep, engine in placed if engine in (None, release.name)}
            for tp, ep in sorted(own | {(size, ep) for size in SIZES for ep in (1, size)}):
                yield self._row(model, release, tp, ep, (tp, ep) in own)

    def _row(self, model: Model, release: EngineRelease, tp: int, ep: int, is_placed: bool) -> Row:
        by_arch = dict[str | None, Serving]()
        try:
            for device in self.devices:
                if device.arch not in by_arch:
                    by_arch[device.arch] = serve(model.checkpoint, release, tp, ep, device.name, device.arch)
        except ServingError as error:
            return Row(model, release, tp, ep, is_placed, refusal=str(error))
        looked: Mapping[str, Looked] = {}
        if (any_device := next(iter(by_arch.values()), None)) is not None and any_device.file is not None:
            looked = self._on_every_device(any_device, any_device.file)
        answers = {
            device.name: DeviceAnswer(device, by_arch[device.arch], looked.get(device.name)) for device in self.devices
        }
        return Row(model, release, tp, ep, is_placed, answers)

    def _on_every_device(self, serving: Serving, file: str) -> Mapping[str, Looked]:
        """By device. Many models share a name, and names differ in the device alone."""
        key = serving.engine, file
        if key not in self._looked:
            self._looked[key] = {
                device.name: self._named(serving, renamed(file, driver_name(serving.engine, device.name)), device)
                for device in self.devices
            }
        return self._looked[key]

    def _named(self, serving: Serving, name: str, device: Device) -> Looked:
        found = self._look_up(name, serving.triton, device)
        engine_name, surveyed = spelled(name, serving.engine), self._surveys.get((serving.engine, name))
        if engine_name == name and surveyed is None:
            return found
        return replace(found, engine_name=engine_name, surveyed=surveyed)

    def _look_up(self, name: str, triton: str, device: Device) -> Looked:
        """Without what is one engine's."""
        if (name, triton) in self._by_name:
            return self._by_name[name, triton]
        if triton not in self._tiers:
            self._tiers[triton] = self._chain.tiers(triton)
        tiers = self._tiers[triton]
        try:
            lookup, _ = self._chain.look_up(name, tiers)
        except ConfigError as error:
            fault = self._shown(error)
            looked = Looked(name, name, None, fault, fault=fault)
        else:
            file = self._files.get(lookup.winner.relative_to(self._configs).as_posix()) if lookup.winner else None
            asks_siblings = lookup.winner is None and device.siblings
            siblings_file = self._chain.siblings_file(name, tiers) if asks_siblings else None
            looked = Looked(name, name, lookup, self._shown(lookup), file, siblings_file)
        self._by_name[name, triton] = looked
        return looked

    def _shown(self, what: object) -> str:
        return str(what).replace(str(self._configs), "configs")


def _on(device_name: str, serving: Serving) -> Serving:
    """The same on another device of the architecture: names differ, and nothing else does."""
    device = driver_name(serving.engine, device_name)
    if device == serving.device_name:
        return serving
    file, later = (name and renamed(name, device) for name in (serving.file, serving.file_later))
    notes = serving.notes
    if later and serving.file_later:
        notes = tuple(note.replace(serving.file_later, later) for note in notes)
    engine_file = file and spelled(file, serving.engine)
    return replace(serving, device_name=device, file=file, engine_file=engine_file, file_later=later, notes=notes)
