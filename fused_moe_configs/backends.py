"""Which backend a release of an engine runs for a kind of weights, and whether it reads tuned files: engines.json."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from .lookup import printable, shown
from .registry import Checkpoint, ServingError, read_registry, with_tuples
from .spelling import did_you_mean


@dataclass(frozen=True)
class Citation:
    """A line of an engine's wheel, counted from 1, and a name that stands on it."""

    file: str
    line: int
    symbol: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class BackendRule:
    """What a release runs where all conditions hold; a condition that is None always does.

    reads_tuned_files None: it depends on what no rule says. Fields as in schema/engines.schema.json.
    """

    kinds: tuple[str, ...]
    archs: tuple[str, ...]
    backend: str
    reads_tuned_files: bool | None
    reason: str
    source: tuple[Citation, ...]
    parallelism: str | None = None
    gated: bool | None = None
    block_shape: tuple[int, int] | None = None
    models: tuple[str, ...] | None = None

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> BackendRule:
        """A rule of engines.json."""
        return cls(**{**with_tuples(entry), "source": _citations(entry["source"])})

    def matches(self, checkpoint: Checkpoint, arch: str, ep: int, block_shape: tuple[int, int] | None) -> bool:
        """block_shape: as it is on the rank."""
        return (
            checkpoint.kind in self.kinds
            and arch in self.archs
            and self.parallelism in (None, "tp" if ep == 1 else "ep")
            and self.gated in (None, checkpoint.gated)
            and self.block_shape in (None, block_shape)
            and (self.models is None or _fits(checkpoint.ids, self.models))
        )


@dataclass(frozen=True)
class EngineRelease:
    """One release of an engine, as engines.json has it. The first rule that matches answers."""

    name: str
    version: str
    torch: str
    triton: str
    fuses_shared_experts: bool
    source: tuple[Citation, ...]
    rules: tuple[BackendRule, ...]

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> EngineRelease:
        """An entry of engines.json."""
        rules = tuple(map(BackendRule.read, entry["rules"]))
        return cls(**{**entry, "rules": rules, "source": _citations(entry["source"])})

    @property
    def citations(self) -> tuple[Citation, ...]:
        """Every line that this release's answers rest on, each once, in order."""
        of_rules = (citation for rule in self.rules for citation in rule.source)
        return tuple(dict.fromkeys([*self.source, *of_rules]))


class BackendChoice(NamedTuple):
    """What runs, why, and where that stands. backend, reads_tuned_files None: not known. str(): in a few words."""

    backend: str | None
    reads_tuned_files: bool | None
    reason: str
    source: tuple[Citation, ...] = ()

    def __str__(self) -> str:
        if self.backend is None:
            return "not known which backend runs"
        reads = {True: "reads tuned files", False: "reads no tuned files", None: "may read tuned files"}
        return f"{self.backend}, {reads[self.reads_tuned_files]}"


def read_engines(configs: Path) -> tuple[EngineRelease, ...]:
    """The releases of the configs folder's engines.json, in its order. ConfigError: it is missing or broken."""
    return read_registry("engines", EngineRelease.read, configs)


def choose_release(
    releases: Iterable[EngineRelease], engine: str, version: str | None = None
) -> tuple[EngineRelease, str | None]:
    """The release whose rules hold for a version, and what to say where it is another one.

    None: the newest. A version that isn't known: the nearest below it. ServingError: no such engine, no version, or
    one older than all that are known.
    """
    releases = tuple(releases)
    of_engine = {_numbers(each.version): each for each in releases if each.name == engine}
    if not of_engine:
        names = sorted({each.name for each in releases})
        wish = f"engine: expected one of {', '.join(names)}, found {shown(engine)}"
        raise ServingError(f"{wish}. {did_you_mean(engine, names)}Fix: name one of them.")
    newest = of_engine[max(of_engine)]
    if version is None:
        return newest, None
    below = [known for known in of_engine if known <= _numbers(version)]
    if not below:
        oldest = of_engine[min(of_engine)].version
        raise ServingError(
            f"version: expected {engine} {oldest} or newer, found {shown(version)}. "
            f"Fix: leave the version out for what {newest.version} does."
        )
    release = of_engine[max(below)]
    if version.partition("+")[0] == release.version:
        return release, None
    note = f"{engine} {printable(version)} is not known here: {release.version} answers, the nearest release below it."
    return release, note


def choose_backend(
    checkpoint: Checkpoint, release: EngineRelease, ep: int, block_shape: tuple[int, int] | None, arch: str | None
) -> BackendChoice:
    """What a release runs. ep: expert parallel size. block_shape: as it is on the rank. arch None: not known."""
    if checkpoint.kind == "fp8_tensor":
        either = [replace(checkpoint, activation_scales=scales) for scales in ("static", "dynamic")]
        static, dynamic = (choose_backend(each, release, ep, block_shape, arch) for each in either)
        if static == dynamic or static.backend is None:
            return static
        reason = (
            "It isn't known whether the scales of its activations are static or dynamic: "
            f"with static ones {static}; with dynamic ones {dynamic}."
        )
        return BackendChoice(None, None, reason, (*static.source, *dynamic.source))
    if arch is None:
        return BackendChoice(None, None, "configs/registry/devices.json doesn't have the device's architecture.")
    for rule in release.rules:
        if rule.matches(checkpoint, arch, ep, block_shape):
            return BackendChoice(rule.backend, rule.reads_tuned_files, rule.reason, rule.source)
    sharing = "with" if ep > 1 else "without"
    found = f"{checkpoint.kind} {sharing} expert parallelism on {arch}"
    return BackendChoice(None, None, f"configs/registry/engines.json has no rule for {found}.")


def usual_backends(release: EngineRelease, arch: str) -> dict[str, str]:
    """What a release runs on an architecture: a few words for each kind of weights, for a gated model of no name."""
    words = {}
    for dtype, block_shape, per_channel_quant, scales in _STORED:
        checkpoint = Checkpoint("any/model", 1, 1, 1, 1, dtype, block_shape, per_channel_quant, scales)
        alone, spread = (str(choose_backend(checkpoint, release, ep, block_shape, arch)) for ep in (1, 2))
        words[checkpoint.kind] = alone if alone == spread else f"{alone}; with expert parallelism {spread}"
    return words


_STORED: tuple[tuple[str, tuple[int, int] | None, bool, str | None], ...] = (
    ("bf16", None, False, None),
    ("fp8_w8a8", (128, 128), False, None),
    ("fp8_w8a8", None, False, "dynamic"),
    ("fp8_w8a8", None, False, "static"),
    ("fp8_w8a8", None, True, None),
    ("int8_w8a8", None, False, None),
    ("int8_w8a8", (128, 128), False, None),
    *((dtype, None, False, None) for dtype in ("int8_w8a16", "int4_w4a16", "nvfp4", "mxfp4", "mxfp8")),
)
"""dtype, block_shape, per_channel_quant and activation_scales of each kind of weights."""


def _citations(entries: Iterable[Mapping[str, Any]]) -> tuple[Citation, ...]:
    return tuple(Citation(**entry) for entry in entries)


def _fits(ids: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(each.casefold(), pattern.casefold()) for each in ids for pattern in patterns)


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"([0-9]{1,9})\.([0-9]{1,9})(?:\.([0-9]{1,9}))?(?!\.?[0-9])", version)
    if match is None:
        raise ServingError(f"version: expected a release such as 0.33.0, found {shown(version)}. Fix: write one.")
    return tuple(int(part or 0) for part in match.groups())
