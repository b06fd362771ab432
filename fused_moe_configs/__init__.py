"""Tuned launch configs of the fused MoE Triton kernel, for any engine.

    get_config(64, E=8, N=3584)  # for 64 tokens on this machine's GPU; None: no file, use your own heuristic

Standard library only. What takes long to import is imported where it is first needed.
"""
# pathlib takes longer to import than the whole loader may.
# ruff: noqa: PTH100, PTH112, PTH118, PTH120

from __future__ import annotations

import os
from _thread import RLock
from bisect import bisect_left

from ._chain import USER_FOLDER, Chain, Lookup, get_config_file_name, positive
from ._read import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    Found = tuple[Mapping[int, Mapping[str, int | str]], list[int], list[dict[str, int | str]]] | None

__all__ = [
    "ConfigError", "Lookup", "__version__", "cache_clear", "explain", "export", "get_config",
    "get_config_file_name", "get_moe_configs", "where",
]  # fmt: skip
__version__ = "2026.11.22"

_here = os.path.dirname(os.path.abspath(__file__))
_beside = os.path.join(os.path.dirname(_here), "configs")  # in a checkout; a wheel has it inside
_configs = _beside if os.path.isdir(_beside) and not os.path.isdir(_here + "/configs") else _here + "/configs"
_lock = RLock()
_chain: Chain | None = None
_results: dict[object, Found] = {}


def get_moe_configs(
    E: int, N: int, dtype: str | None = None, block_shape: Sequence[int] | None = None, *,
    per_channel_quant: bool = False, down: bool = False,
    device_name: str | None = None, triton_version: str | None = None,
) -> Mapping[int, Mapping[str, int | str]] | None:  # fmt: skip
    """Launch config by batch size, ascending and read-only; None where no file is found, which is logged once.

    Arguments as in `get_config_file_name`; device_name and triton_version are this machine's unless given. Raises
    ConfigError for a file that is there and broken, ValueError for what can name no file or version, RuntimeError
    where no GPU can be asked for its name.
    """
    found = _cached(E, N, block_shape, (dtype, bool(per_channel_quant), bool(down), device_name, triton_version))
    return found and found[0]


def get_config(
    M: int, E: int, N: int, dtype: str | None = None, block_shape: Sequence[int] | None = None, *,
    per_channel_quant: bool = False, down: bool = False,
    device_name: str | None = None, triton_version: str | None = None,
) -> dict[str, int | str] | None:  # fmt: skip
    """The launch config for M tokens, as a fresh dict: that of the nearest batch size, ties to the smaller.

    None and errors as in `get_moe_configs`.
    """
    if type(M) is not int or not 0 < M < 2**31:
        positive("M", M)
    found = _cached(E, N, block_shape, (dtype, bool(per_channel_quant), bool(down), device_name, triton_version))
    return found and found[2][bisect_left(found[1], M)].copy()


def explain(
    E: int, N: int, dtype: str | None = None, block_shape: Sequence[int] | None = None, *,
    per_channel_quant: bool = False, down: bool = False,
    device_name: str | None = None, triton_version: str | None = None,
) -> Lookup:  # fmt: skip
    """Every place where `get_moe_configs` looks for the workload, what is there, and why the winner wins."""
    return _look_up(E, N, block_shape, dtype, per_channel_quant, down, device_name, triton_version)[0]


def where() -> Path:
    """The configs folder, in a wheel and in a checkout."""
    from pathlib import Path

    return Path(_configs)


def export(
    destination: str | os.PathLike[str], engine: str, *, triton_version: str | None = None,
    device_name: str | None = None, overlay: str | os.PathLike[str] | None = None,
) -> list[Path]:  # fmt: skip
    """Writes the shipped files as the engine itself looks for them, and returns the paths of those written.

    destination: what the engine's variable is set to. engine: "vllm" or "sglang". triton_version: write the
    chain's answer for it; else every tier that the engine's layout can hold. device_name: only this device.
    overlay: the engine's own configs folder, copied first. Only files that an export wrote, or would write
    alike, are ever replaced or removed, and only while unchanged; where no file serves, none is. Exports to one
    folder take turns. What was left out is logged.
    """
    from ._export import write_export

    written, notes = write_export(_configs, destination, engine, triton_version, device_name, overlay)
    if notes:
        import logging

        logging.getLogger(__name__).warning("export to %s: %s", destination, "\n".join(notes))
    return written


def cache_clear() -> None:
    """Forgets every result, and the environment variable."""
    global _chain
    with _lock:
        _chain = None
        _results.clear()


def _cached(E: int, N: int, block_shape: Any, rest: tuple[Any, ...]) -> Found:
    """The entries by batch size, the last M that each but the last one serves, and the entries in order; or None."""
    try:
        shape = tuple(block_shape) if type(block_shape) is list else block_shape
        workload = (E, N, shape, rest)
        # 64.0 and True equal sizes without being any.
        if type(E) is int and type(N) is int and (shape is None or {*map(type, shape)} == {int}):
            return _results[workload]
    except (KeyError, TypeError):  # not known yet; or not hashable, which the look-up names
        pass
    with _lock:
        lookup, entries = _look_up(E, N, block_shape, *rest)
        if workload not in _results and entries is None:
            import logging

            logging.getLogger(__name__).warning("%s (E=%s, N=%s, dtype=%s)", lookup.reason, E, N, rest[0])
            _results[workload] = None
        elif workload not in _results:
            from itertools import pairwise
            from types import MappingProxyType

            frozen = MappingProxyType({size: MappingProxyType(entry) for size, entry in entries.items()})
            _results[workload] = (frozen, [sum(pair) // 2 for pair in pairwise(entries)], [*entries.values()])
        return _results[workload]


def _look_up(
    E: int, N: int, block_shape: Any, dtype: Any, per_channel_quant: bool, down: bool, device_name: Any, version: Any
) -> tuple[Lookup, Any]:
    global _chain
    with _lock:
        _chain = chain = _chain or Chain(_configs, os.environ.get(USER_FOLDER))
    if device_name is None or version is None:
        from . import machine

        device_name = machine.device_name() if device_name is None else device_name
        version = machine.version_of("triton") if version is None else version
    options = {"per_channel_quant": per_channel_quant, "down": down}
    name = get_config_file_name(E, N, device_name, dtype, block_shape, **options)
    return chain.look_up(chain.tiers(version), name)
