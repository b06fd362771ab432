"""The boards: most wanted files, largest gains, what loses, what engines ship; and what was seen under which Triton."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fused_moe_configs.lookup import REFERENCE_TRITON
from fused_moe_configs.naming import ENGINE_NAMES
from fused_moe_configs.next_step import model_flags, tune_command
from tools.portfolio.wanted import Wanted, WantedList
from tools.registry.devices import Device
from tools.site.coverage import HOLES, States, anchor_of, sizes_of
from tools.site.files import TunedFile
from tools.site.questions import State
from tools.site.surveys import Surveyed, Whole
from tools.store.record import VerifiedWith

MOST_WANTED = 25
MOST_GAINS = 20


@dataclass(frozen=True)
class Hole:
    """A file that people's models ask for and that isn't here.

    askers: each model that asks for it, with its sizes and engines in words, and slug and anchor of its page.
    surveyed_ratio: of the file that an engine ships, over that engine's heuristic, the worst; None: not known.
    shipped: what surveys say where there is no ratio.
    """

    name: str
    device: Device
    score: float
    askers: tuple[tuple[str, str, str, str], ...]
    command: str
    surveyed_ratio: float | None
    shipped: str = "not surveyed"

    @property
    def models(self) -> int:
        return len({model for model, *_ in self.askers})


def holes(
    wanted: Iterable[WantedList], states: States, slugs: Mapping[str, str], surveys: Iterable[Surveyed],
    whole: Iterable[Whole] = (),
) -> list[Hole]:  # fmt: skip
    """Most wanted first, as portfolio ranks them over all GPUs. slugs: of models' pages. surveys, whole: of all."""
    ratios, ships = dict[str, float](), dict[str, str]()
    for surveyed in surveys:
        if surveyed.ratio is not None:
            ratios[surveyed.name] = max(surveyed.ratio, ratios.get(surveyed.name, 0.0))
        elif ships.get(surveyed.name) != "fails":
            ships[surveyed.name] = "fails" if surveyed.failures else "not measured"
    known = {(each.engine, each.device_name) for each in whole}
    found = []
    for of_device in wanted:
        for each in of_device.names:
            if states.least(each, of_device.device) in HOLES:
                askers = tuple(_askers(each, slugs))
                asked = {(use.engine.value, name) for use in each.uses for name in of_device.device.names}
                is_known = {engine for engine, _ in asked} == {engine for engine, _ in asked & known}
                shipped = ships.get(each.name, "none" if is_known else "not surveyed")
                ratio = ratios.get(each.name)
                found.append(Hole(each.name, of_device.device, each.score, askers, _command(each), ratio, shipped))
    return sorted(found, key=lambda each: (-each.score, each.name))


def _command(wanted: Wanted) -> str:
    """For the model on the fewest ranks, as vLLM asks for it where it does; with the other shapes behind the name."""
    use = min(wanted.uses, key=lambda use: (use.tp, use.ep, use.model, list(ENGINE_NAMES).index(use.engine)))
    return tune_command(model_flags(use.model, use.tp, use.ep), use.engine) + " --all-shapes" * (len(wanted.shapes) > 1)


def _askers(wanted: Wanted, slugs: Mapping[str, str]) -> Iterator[tuple[str, str, str, str]]:
    by_place: dict[tuple[str, int, int], list[str]] = {}
    for use in wanted.uses:
        by_place.setdefault((use.model, use.tp, use.ep), []).append(ENGINE_NAMES[use.engine])
    for (model, tp, ep), engines in by_place.items():
        who = "both" if len(engines) == len(ENGINE_NAMES) else " and ".join(engines)
        yield model, f"{sizes_of(tp, ep)}, {who}", slugs[model], anchor_of(tp, ep)


def largest_gains(files: Iterable[TunedFile]) -> list[TunedFile]:
    """Of what was measured, the largest first: over vLLM's heuristic, then what SGLang alone reads over SGLang's.

    Without files for down alone, whose gain is of one projection, and without those for another Triton, whose workload
    stands here already.
    """

    def place(file: TunedFile) -> tuple[bool, float]:
        engine, ratios = next(iter(file.known.ratios.items()))
        return engine != "vllm", ratios.geomean

    layers = (file for file in files if file.is_measured and not file.is_down)
    return sorted((file for file in layers if file.known.triton in (None, REFERENCE_TRITON)), key=place)


def what_engines_ship(whole: Iterable[Whole], surveyed: Sequence[Surveyed]) -> list[tuple[Whole, tuple[Surveyed, ...]]]:
    """Each survey with what was measured of that engine on that GPU. surveyed: the worst first."""
    return [
        (each, tuple(file for file in surveyed if file.is_measured
                     and (file.engine, file.device_name) == (each.engine, each.device_name)))
        for each in whole
    ]  # fmt: skip


@dataclass(frozen=True)
class Negative:
    """Something that a file doesn't gain, or loses, said by its own figures."""

    file: TunedFile
    what: str


def negatives(files: Iterable[TunedFile]) -> list[Negative]:
    """Engines' files that are faster, the most so first; then what gains hardly anything, and rows beyond the bound."""
    found, losing = list[Negative](), list[tuple[float, Negative]]()
    for file in files:
        for line in file.behind:
            ratio = line.shipped.geomean_ratio if line.shipped else 1.0
            rival = f"{ENGINE_NAMES[line.engine]} {line.version}'s own file"
            losing.append((ratio, Negative(file, f"takes {(ratio - 1) * 100:.1f} % more time than {rival}")))
        if file.unbounded:
            sizes = ", ".join(map(str, file.unbounded))
            found.append(Negative(file, f"may be more than 2 % slower than a heuristic at M = {sizes}"))
        over = [(f"{ENGINE_NAMES[engine]}'s heuristic", ratios.geomean) for engine, ratios in file.known.ratios.items()]
        over += [
            (f"{ENGINE_NAMES[line.engine]} {line.version}'s file", line.shipped.geomean_ratio)
            for line in file.beside_shipped
            if line.shipped and line not in file.behind
        ]
        for rival, ratio in over:
            if ratio > 0.99:
                found.append(Negative(file, f"gains {(1 - ratio) * 100:.1f} % over {rival}: hardly anything"))
    losing.sort(key=lambda each: -each[0])
    return [*(negative for _, negative in losing), *found]


@dataclass(frozen=True)
class Fresh:
    """A file under each Triton: None: not seen there. own: the one that it was measured with."""

    file: TunedFile
    own: str | None
    measured: str | None
    verified: str | None
    seen: Mapping[str, VerifiedWith]


def freshness(files: Iterable[TunedFile]) -> tuple[list[str], list[Fresh]]:
    """The Tritons of all records, newest first, and a line a file, that of the oldest figures first."""
    found = []
    for file in files:
        record = file.record
        own = record.environment.triton if record and record.environment else None
        verified = record.verified.date if record and record.verified and file.known.evidence == "verified" else None
        seen = {line.triton: line for line in (record.verified_with or () if record else ())}
        found.append(Fresh(file, own, record.date if record and record.is_measured else None, verified, seen))
    versions = {version for each in found for version in (each.own, *each.seen) if version}
    newest = sorted(versions, key=_release, reverse=True)
    return newest, sorted(found, key=lambda each: (each.measured or "", each.file.path))


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("+")[0].split("."))


@dataclass(frozen=True)
class Tally:
    """Of the names that placements ask for on a GPU: how many are here, by state.

    verified, claimed: measured for every model that asks, in each engine. in_part: not for every one.
    """

    device: Device
    verified: int
    claimed: int
    in_part: int
    published: int
    missing: int

    @property
    def wanted(self) -> int:
        return self.verified + self.claimed + self.in_part + self.published + self.missing


def tally(wanted: Iterable[WantedList], states: States) -> list[Tally]:
    """Each name once a GPU; of GPUs on which no placement asks for one there is no tally."""
    found = []
    for of_device in wanted:
        counts = Counter(states.least(each, of_device.device) for each in of_device.names)
        here = (
            counts[State.VERIFIED],
            counts[State.CLAIMED],
            counts[State.OTHER_SHAPE],
            counts[State.PUBLISHED] + counts[State.UNRECORDED],
        )
        found.append(Tally(of_device.device, *here, len(of_device.names) - sum(here)))
    return [each for each in found if each.wanted]
