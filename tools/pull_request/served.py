"""Which file the loader serves from a git tree, by paths alone: what readers get today, and what an added file hides.

The order is the loader's own (`ordered_tiers`, `places`); no file is read for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from fused_moe_configs.lookup import down_of, ordered_tiers, places, up_of
from tools.checkout import reference_triton
from tools.git import Repository
from tools.pull_request.changes import Change, Version, tier_of
from tools.pull_request.commit_range import CommitRange, versions_at
from tools.registry.devices import DeviceRegistry
from tools.store.tiers import Role, version_of_folder
from tools.store.workload import parse_file_name

CONFIGS = PurePosixPath()
"""Paths here are below configs/."""


@dataclass(frozen=True)
class Shelf:
    """The tuned files of a tree, by their paths below configs/, and the devices whose names are other ones' aliases."""

    paths: frozenset[PurePosixPath]
    devices: DeviceRegistry

    @classmethod
    def of(cls, tree: Iterable[str], devices: DeviceRegistry) -> Shelf:
        """tree: every path from the repository's root."""
        found = (Change(path, None, None) for path in tree)
        return cls(frozenset(c.relative for c in found if c.relative is not None and c.role is Role.CONFIG), devices)

    @cached_property
    def folders(self) -> frozenset[PurePosixPath]:
        return frozenset(path.parent for path in self.paths)

    @cached_property
    def versions(self) -> Mapping[tuple[int, ...], PurePosixPath]:
        """Version folders by release."""
        return {version: folder for folder in self.folders if (version := version_of_folder(str(folder))) is not None}

    def served(self, name: str, triton: str, without: PurePosixPath | None = None) -> PurePosixPath | None:
        """What a reader gets that asks for `name` under this Triton, if `without` weren't there. None: no file."""
        workload = parse_file_name(name).workload
        if workload is None:
            return None
        for path, _ in places(name, _names(workload.device_name, self.devices), self._tiers(triton)):
            if path in self.paths and path != without:
                down = path.with_name(down_of(path.name))
                return down if workload.down and down in self.paths and down != without else path
        return None

    def instead_of(self, relative: PurePosixPath) -> PurePosixPath | None:
        """What those get, without the file `relative`, who would read it: they run its folder's Triton.

        A legacy file serves every Triton; the reference stands for them.
        """
        return self.served(relative.name, triton_of(relative), without=relative)

    def order(self, triton: str) -> tuple[PurePosixPath, ...]:
        """The folders that readers under this Triton go through: all that it decides of what they get."""
        return tuple(self._tiers(triton))

    def _tiers(self, triton: str) -> Mapping[PurePosixPath, str]:
        """Those in which anything lies."""
        if triton not in self._known_tiers:
            tiers = ordered_tiers(CONFIGS, self.versions, triton)
            self._known_tiers[triton] = {folder: tier for folder, tier in tiers.items() if folder in self.folders}
        return self._known_tiers[triton]

    @cached_property
    def _known_tiers(self) -> dict[str, Mapping[PurePosixPath, str]]:
        return {}


def triton_of(relative: PurePosixPath) -> str:
    """The Triton that a tuned file's readers run: its folder's, else the reference."""
    version = version_of_folder(tier_of(relative))
    return reference_triton() if version is None else ".".join(map(str, version))


def _names(own: str, devices: DeviceRegistry) -> tuple[str, ...]:
    """The device's own name, then the others of the same hardware, as the loader has them."""
    device = devices.get(own)
    return tuple(dict.fromkeys((own, *(device.names if device else ()))))


@dataclass(frozen=True, order=True)
class Hiding:
    """An added file, and one that serves readers of these releases of Triton no more, though it is still there."""

    by: PurePosixPath
    hidden: PurePosixPath
    releases: tuple[str, ...]


def hidings(before: Shelf, after: Shelf, releases: Sequence[str]) -> tuple[Hiding, ...]:
    """What the files that `after` has more hide from readers of `releases`, and of every folder's own release."""
    came = after.paths - before.paths
    asked = {name for path in came for name in _asked(path.name, after.devices)}
    own = {triton_of(path) for path in came}
    # A thousand names under each release would be minutes, and most releases have no folder of their own.
    alike: defaultdict[tuple[tuple[PurePosixPath, ...], ...], list[str]] = defaultdict(list)
    for triton in {*releases, *own}:
        alike[before.order(triton), after.order(triton)].append(triton)
    found: defaultdict[tuple[PurePosixPath, PurePosixPath], set[str]] = defaultdict(set)
    for name in asked:
        for tritons in alike.values():
            now = after.served(name, tritons[0])
            earlier = before.served(name, tritons[0]) if now in came else None
            if now is not None and earlier is not None and earlier in after.paths:
                found[now, earlier].update(tritons)
    return tuple(sorted(Hiding(*pair, tuple(sorted(tritons, key=_release))) for pair, tritons in found.items()))


def _asked(name: str, devices: DeviceRegistry) -> set[str]:
    """The names that readers may ask for and get a file of this name: by every alias, with scales per channel too."""
    workload = parse_file_name(name).workload
    if workload is None:
        return set()
    spelled = {up_of(name)}
    spelled |= {one.replace(".json", ",per_channel_quant=True.json") for one in spelled if "per_channel" not in one}
    device = f"device_name={workload.device_name}"
    return {
        one.replace(device, f"device_name={alias}")
        for one in spelled
        for alias in _names(workload.device_name, devices)
    }


def _release(triton: str) -> tuple[int, ...]:
    return tuple(map(int, triton.split(".")))


# The edge: what the changed files of a commit stand before, read from git.


@dataclass(frozen=True)
class Beside:
    """What a change does to files that it leaves alone.

    hidden: with main's version of the file that is hidden. standing: of each changed file, the versions that its
    readers get without it, on main and with the rest of the change.
    """

    hidden: tuple[tuple[Hiding, Version], ...]
    standing: Mapping[PurePosixPath, tuple[Version, ...]]


def look_beside(found: CommitRange, repository: Repository, devices: DeviceRegistry, releases: Sequence[str]) -> Beside:
    """CommitError: what lies there can't be read."""
    before, after = (Shelf.of(tree, devices) for tree in found.trees)
    hiding = hidings(before, after, releases)
    there = {of.relative: [shelf.instead_of(of.relative) for shelf in (before, after)] for _, of in found.versions}
    wanted = [{path for paths in there.values() if (path := paths[side]) is not None} for side in (0, 1)]
    wanted[0] |= {one.hidden for one in hiding}
    read = [versions_at(repository, tree, paths) for tree, paths in zip(found.trees, wanted, strict=True)]
    standing = {
        relative: tuple(read[side][path] for side, path in enumerate(paths) if path is not None)
        for relative, paths in there.items()
    }
    return Beside(tuple((one, read[0][one.hidden]) for one in hiding), standing)
