"""Which heuristic figures were measured against: an engine's own default function, by its hash, or our table of it.

`tools.launch.heuristics` is what the tuner and the bench time. It follows one release of each engine, and is worth what
that release's own function says: the canary runs both and compares them.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from fused_moe_configs.naming import ENGINE_NAMES
from tools.errors import UserError
from tools.launch import heuristics
from tools.launch.engine_package import LOOK_UP_MODULES, Package, installed_package
from tools.launch.source_cut import Cut, CutError, Read, cut
from tools.launch.syntax_hash import sha256_of_code
from tools.store.record import HeuristicVersion, Record
from tools.text import printable

FOLLOWED: Mapping[str, HeuristicVersion] = MappingProxyType(
    {
        "vllm": HeuristicVersion("0.33.0", "5e21b44658c6fad80bc7ef8bbadc6b8529b514cfc65e45ada26bb7bc24cf1cbc"),
        "sglang": HeuristicVersion("0.5.23", "eb7603d7b5e51df892744e01c9e11df9a53293bd262f4074df6ab033bf59a4ac"),
    }
)
"""The release of each engine that our table follows, and the hash of that release's default function.

After a newer release the canary names both anew. Whoever changes them has compared that function with our table.
"""

DEFAULT_FUNCTION = "get_default_config"

STAND_INS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "vllm": frozenset({"current_platform", "envs"}),
        "sglang": frozenset({"get_exec", "is_hip", "torch"}),
    }
)
"""Where the cut of a default function ends: the engine's settings, and what it asks the machine."""

_TABLE_STAND_INS = frozenset({"LaunchConfig", "TRITON_DEFAULTS"})


def default_function(read: Read, engine: str) -> Cut:
    """The engine's default function with all that it needs. CutError: it isn't there, or needs what isn't known."""
    return cut(read, LOOK_UP_MODULES[engine], [DEFAULT_FUNCTION], STAND_INS[engine])


def sha256_of_cut(code: Cut) -> str:
    """The same for the same code: comments, docstrings, annotations, formatting and its place don't count."""
    return sha256_of_code(ast.parse(code.text).body)


@functools.cache
def table_sha256(engine: str) -> str:
    """Of our own table of the engine's heuristic."""
    place = Path(heuristics.__file__)
    source = place.read_text("utf-8")
    return sha256_of_cut(cut(lambda _: source, [place.name], [heuristics.TABLES[engine]], _TABLE_STAND_INS))


def is_current(engine: str, sha256: str) -> bool:
    """Whether it names what is measured against today: our table as it is, or the function that it follows."""
    return sha256 in (table_sha256(engine), FOLLOWED[engine].sha256)


def outdated(record: Record) -> tuple[str, ...]:
    """The engines, as people write them, against another heuristic of which the record's figures were measured."""
    said = record.heuristics or {}
    return tuple(ENGINE_NAMES[engine] for engine, each in said.items() if not is_current(engine, each.sha256))


@dataclass(frozen=True)
class MeasuredHeuristics:
    """By engine. notes: a line for each engine that is here with another heuristic than the one that is timed."""

    versions: Mapping[str, HeuristicVersion]
    notes: tuple[str, ...] = ()


def measured_heuristics(find: Callable[[str], Package | None] = installed_package) -> MeasuredHeuristics:
    """What is timed here as the engines' heuristics, which is always our table.

    An installed engine's own release and hash, where its function is the one that our table follows. Else the release
    that our table follows, with the table's hash. find: the package of an engine, None where there is none.
    """
    versions, notes = {}, []
    for engine, followed in FOLLOWED.items():
        package = find(engine)
        why = "" if package is None else _why_another(package, followed)
        if package is not None and not why:
            known = _VERSION.fullmatch(package.version)
            versions[engine] = replace(followed, version=package.version) if known else followed
            continue
        versions[engine] = HeuristicVersion(followed.version, table_sha256(engine))
        if package is not None:
            notes.append(f"{ENGINE_NAMES[engine]} {printable(package.version)} is installed; {why}")
    return MeasuredHeuristics(versions, tuple(notes))


_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,59}", re.ASCII)
"""As a record can hold it."""


def _why_another(package: Package, followed: HeuristicVersion) -> str:
    """Why what was timed isn't known to be the package's own. Empty: it is."""
    timed = f"the heuristic that was timed, that of {followed.version}"
    try:
        is_followed = sha256_of_cut(default_function(package.read, package.name)) == followed.sha256
    except (CutError, OSError, UserError) as error:
        return f"whether it runs {timed}, can't be told: {printable(str(error))}"
    return "" if is_followed else f"what it runs without a file isn't {timed}"
