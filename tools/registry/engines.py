"""The registry of engines, configs/registry/engines.json: which backend a release runs, and what it reads.

schema/engines.schema.json says what each field means; `fused_moe_configs.backends` has the types and answers by them.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from fused_moe_configs.backends import BackendRule, EngineRelease
from tools.registry.reading import REGISTRY_FOLDER, RegistryError, check_order, check_unique, read_entries


def load_engines(path: Path = REGISTRY_FOLDER / "engines.json") -> tuple[EngineRelease, ...]:
    """Reads the registry of engines.

    RegistryError: it is missing, broken or unsorted, a release stands twice, or a rule can never answer because one
    before it covers it.
    """
    releases = tuple(map(EngineRelease.read, read_entries(path, "engines")))
    check_order(
        path, [f"{each.name} {'.'.join(part.zfill(4) for part in each.version.split('.'))}" for each in releases]
    )
    check_unique(path, [f"{each.name} {each.version}" for each in releases])
    for release in releases:
        _check_rules(path, release)
    return releases


def _check_rules(path: Path, release: EngineRelease) -> None:
    numbered = enumerate(release.rules, start=1)
    for (before, first), (number, second) in itertools.combinations(numbered, 2):
        if _covers(first, second):
            where = f"{release.name} {release.version} / rules / {number}"
            reason = f"{where}: expected a rule that can answer, found one that rule {before} covers wholly"
            raise RegistryError(reason, "move it before that one, or remove it", path)


def _covers(first: BackendRule, second: BackendRule) -> bool:
    """Whether whatever the second rule matches is matched by the first."""
    models = first.models is None or (second.models is not None and set(second.models) <= set(first.models))
    return (
        models
        and set(second.kinds) <= set(first.kinds)
        and set(second.archs) <= set(first.archs)
        and first.parallelism in (None, second.parallelism)
        and first.gated in (None, second.gated)
        and first.block_shape in (None, second.block_shape)
    )
