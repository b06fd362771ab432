"""The published functions: the chain, asked for this machine unless told otherwise, each answer read once."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

from .lookup import USER_FOLDER, Chain, ConfigEntry, ConfigError, Lookup, checked_size, get_config_file_name, printable

_inside = Path(__file__).absolute().parent / "configs"
_beside = _inside.parents[1] / "configs"  # in a checkout; beside an installed package it may be anything
CONFIGS = _beside if not _inside.is_dir() and (_beside / "registry" / "devices.json").is_file() else _inside


class _Answer(NamedTuple):
    configs: Mapping[int, ConfigEntry]
    last_tokens: list[int]  # the last M that each entry but the last one serves
    entries: list[ConfigEntry]


_lock = threading.RLock()
_chain: Chain | None = None
_answers: dict[object, _Answer | None] = {}


def get_moe_configs(
    E: int, N: int, dtype: str | None = None, block_shape: Sequence[int] | None = None, *,
    per_channel_quant: bool = False, down: bool = False,
    device_name: str | None = None, triton_version: str | None = None, siblings: bool = False,
) -> Mapping[int, ConfigEntry] | None:  # fmt: skip
    """Launch config by batch size, ascending and read-only; None where no file is found, which is logged once.

    Arguments as in `get_config_file_name`; device_name and triton_version are this machine's unless given.
    siblings: where the device has no file, that of one declared a sibling serves: the same architecture, number of
    multiprocessors and shared memory, and files that were measured to carry over. Raises
    ConfigError for a file that is there and broken, ValueError for what can name no file or version, RuntimeError
    where no GPU can be asked for its name, or where the configs folder is missing and the user's has no file.
    """
    options = (bool(per_channel_quant), bool(down), bool(siblings))
    found = _cached(E, N, block_shape, (dtype, device_name, triton_version, *options))
    return found and found.configs


def get_config(
    M: int, E: int, N: int, dtype: str | None = None, block_shape: Sequence[int] | None = None, *,
    per_channel_quant: bool = False, down: bool = False,
    device_name: str | None = None, triton_version: str | None = None, siblings: bool = False,
) -> ConfigEntry | None:  # fmt: skip
    """The launch config for M tokens, as a fresh dict: that of the nearest batch size, ties to the smaller.

    None and errors as in `get_moe_configs`.
    """
    checked_size("M", M)
    options = (bool(per_channel_quant), bool(down), bool(siblings))
    found = _cached(E, N, block_shape, (dtype, device_name, triton_version, *options))
    return found and found.entries[bisect_left(found.last_tokens, M)].copy()


def explain(
    E: int, N: int, dtype: str | None = None, block_shape: Sequence[int] | None = None, *,
    per_channel_quant: bool = False, down: bool = False,
    device_name: str | None = None, triton_version: str | None = None, siblings: bool = False,
) -> Lookup:  # fmt: skip
    """Every place where `get_moe_configs` looks for the workload, what is there, and why the winner wins.

    A sibling's file that exists is named too, whether or not siblings are asked for. Errors as in `get_moe_configs`.
    """
    chain, name, tiers = _question(E, N, block_shape, dtype, device_name, triton_version, per_channel_quant, down)
    lookup = _look_up(chain, name, tiers, siblings)[0]
    if lookup.winner is None:
        return lookup
    try:
        path = chain.siblings_file(name, tiers)
        also = f" A sibling has {printable(path)} too." if path and path not in dict(lookup.tried) else ""
    except ConfigError as error:  # of the registry, which the answer itself has no need of
        also = f" Whether a sibling has one too can't be said: {error}."
    return lookup._replace(reason=lookup.reason + also)


def where() -> Path:
    """The configs folder, in a wheel and in a checkout. RuntimeError: it is missing."""
    if CONFIGS.is_dir():
        return CONFIGS
    wish = "expected the folder of tuned files, found none, as in a zipped application or a frozen binary without data"
    fix = "Fix: install the package unzipped, or bundle its folder fused_moe_configs/configs as files"
    raise RuntimeError(f"{printable(CONFIGS)}: {wish}. {fix}")


def export(
    destination: str | os.PathLike[str], engine: str, *, triton_version: str | None = None,
    device_name: str | None = None, overlay: str | os.PathLike[str] | None = None, siblings: bool = False,
) -> list[Path]:  # fmt: skip
    """Writes the shipped files as the engine itself looks for them, and returns the paths of those written.

    destination: what the engine's variable is set to. engine: "vllm" or "sglang". triton_version: write the
    chain's answer for it; else every tier that the engine's layout can hold. device_name: only this device.
    overlay: the engine's own configs folder, copied first; "auto" finds that of the installed engine.
    siblings: GPUs without a file get that of a sibling, as `get_moe_configs` reads it. Only files that an export
    wrote are ever replaced or removed, and only while unchanged; where no file serves, none is. Exports to one folder
    take turns. What was left out is logged.
    """
    from .exporting import write_export  # hashing and locking: most processes only look up

    done = write_export(
        where(), destination, engine,
        triton_version=triton_version, device_name=device_name, overlay=overlay, siblings=siblings,
    )  # fmt: skip
    if done.notes:
        _warn("export to %s: %s", destination, "\n".join(done.notes))
    return done.written


def cache_clear() -> None:
    """Forgets every result, and the environment variable."""
    global _chain
    with _lock:
        _chain = None
        _answers.clear()


def _cached(E: int, N: int, block_shape: Any, rest: tuple[Any, ...]) -> _Answer | None:
    try:
        shape = tuple(block_shape) if type(block_shape) is list else block_shape
        workload = (E, N, shape, rest)
        # 64.0 and True equal sizes without being any.
        if type(E) is int and type(N) is int and (shape is None or {*map(type, shape)} == {int}):
            return _answers[workload]
    except (KeyError, TypeError):  # not known yet; or not hashable, which the look-up names
        pass
    with _lock:
        *question, siblings = rest
        lookup, entries = _look_up(*_question(E, N, block_shape, *question), siblings)
        if workload not in _answers:
            _answers[workload] = None if entries is None else _answer(entries)
            if entries is None:
                _warn("%s (E=%s, N=%s, dtype=%s)", lookup.reason, E, N, rest[0])
        return _answers[workload]


def _answer(entries: dict[int, ConfigEntry]) -> _Answer:
    # mypy knows no read-only TypedDict before Python 3.13.
    read_only = {size: cast("ConfigEntry", MappingProxyType(entry)) for size, entry in entries.items()}
    return _Answer(MappingProxyType(read_only), [sum(pair) // 2 for pair in pairwise(entries)], [*entries.values()])


def _question(
    E: int, N: int, block_shape: Any, dtype: Any, device_name: Any, version: Any, per_channel_quant: bool, down: bool
) -> tuple[Chain, str, dict[Path, str]]:
    """Where to look, for which name, through which tiers."""
    chain = _this_chain()
    if device_name is None or version is None:
        from . import machine  # reading package metadata takes longer than all the rest

        device_name = machine.device_name() if device_name is None else device_name
        version = machine.version_of("triton") if version is None else version
    options = {"per_channel_quant": per_channel_quant, "down": down}
    name = get_config_file_name(E, N, device_name, dtype, block_shape, **options)
    return chain, name, chain.tiers(version)


def _look_up(
    chain: Chain, name: str, tiers: dict[Path, str], siblings: bool
) -> tuple[Lookup, dict[int, ConfigEntry] | None]:
    lookup, entries = chain.look_up(name, tiers, siblings=siblings)
    if entries is None:
        where()  # without a configs folder nothing was looked at
    return lookup, entries


def _this_chain() -> Chain:
    global _chain
    with _lock:
        if _chain is None:
            user_folder = os.environ.get(USER_FOLDER)
            _chain = Chain(CONFIGS, Path(user_folder) if user_folder else None)
            if user_folder and not os.path.isdir(user_folder):  # noqa: PTH112 (never raises)
                wish = "%s: expected a folder, found none at %s. Fix: correct or unset it"
                _warn(wish, USER_FOLDER, printable(user_folder))
        return _chain


def _warn(message: str, *values: object) -> None:
    import logging  # a look-up that finds its file has nothing to say

    logging.getLogger(__package__).warning(message, *values)
