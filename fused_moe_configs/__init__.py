"""Tuned launch configs of the fused MoE Triton kernel, for any engine.

    get_config(64, E=8, N=3584)  # for 64 tokens on this machine's GPU; None: no file, use your own heuristic

Standard library only. What takes long to import is imported where it is first needed.
"""
# pathlib takes longer to import than the whole loader may.
# ruff: noqa: PTH100, PTH112, PTH118, PTH120

from __future__ import annotations

import os
from _thread import RLock

from ._chain import USER_FOLDER, Chain, Lookup, get_config_file_name, positive
from ._read import ConfigError, Entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

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
_results: dict[object, Mapping[int, Mapping[str, int | str]] | None] = {}
_nearest: dict[object, dict[str, int | str]] = {}


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
    shape = tuple(block_shape) if isinstance(block_shape, list) else block_shape
    workload = (E, N, dtype, shape, per_channel_quant, down, device_name, triton_version)
    if (known := _results.get(workload, ...)) is not ...:
        return known
    with _lock:
        lookup, entries = _look_up(*workload)
        if workload not in _results:
            _results[workload] = _read_only(entries)
            if entries is None:
                import logging

                logging.getLogger(__name__).warning("%s (E=%s, N=%s, dtype=%s)", lookup.reason, E, N, dtype)
        return _results[workload]


def get_config(
    M: int, E: int, N: int, dtype: str | None = None, block_shape: Sequence[int] | None = None, *,
    per_channel_quant: bool = False, down: bool = False,
    device_name: str | None = None, triton_version: str | None = None,
) -> dict[str, int | str] | None:  # fmt: skip
    """The launch config for M tokens, as a fresh dict: that of the nearest batch size, ties to the smaller.

    None and errors as in `get_moe_configs`.
    """
    shape = tuple(block_shape) if isinstance(block_shape, list) else block_shape
    workload = (M, E, N, dtype, shape, per_channel_quant, down, device_name, triton_version)
    if (known := _nearest.get(workload)) is not None:
        return known.copy()
    positive("M", M)
    options = {"device_name": device_name, "triton_version": triton_version}
    with _lock:
        configs = get_moe_configs(E, N, dtype, shape, per_channel_quant=per_channel_quant, down=down, **options)
        if configs is None:
            return None
        if len(_nearest) >= 10_000:
            _nearest.clear()
        _nearest[workload] = dict(configs[min(configs, key=lambda size: abs(size - M))])
        return _nearest[workload].copy()


def explain(
    E: int, N: int, dtype: str | None = None, block_shape: Sequence[int] | None = None, *,
    per_channel_quant: bool = False, down: bool = False,
    device_name: str | None = None, triton_version: str | None = None,
) -> Lookup:  # fmt: skip
    """Every place where `get_moe_configs` looks for the workload, what is there, and why the winner wins."""
    return _look_up(E, N, dtype, block_shape, per_channel_quant, down, device_name, triton_version)[0]


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
    overlay: the engine's own configs folder, copied first. Only files that an export wrote are ever replaced or
    removed, and only while unchanged. What was left out is logged.
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
        _nearest.clear()


def _look_up(
    E: int, N: int, dtype: str | None, block_shape: Sequence[int] | None, per_channel_quant: bool, down: bool,
    device_name: str | None, triton_version: str | None,
) -> tuple[Lookup, Entries | None]:  # fmt: skip
    global _chain
    with _lock:
        _chain = chain = _chain or Chain(_configs, os.environ.get(USER_FOLDER))
    if device_name is None or triton_version is None:
        from . import _environment

        device_name = _environment.device_name() if device_name is None else device_name
        triton_version = _environment.version_of("triton") if triton_version is None else triton_version
    options = {"per_channel_quant": per_channel_quant, "down": down}
    name = get_config_file_name(E, N, device_name, dtype, block_shape, **options)
    return chain.look_up(chain.tiers(triton_version), name)


def _read_only(entries: Entries | None) -> Mapping[int, Mapping[str, int | str]] | None:
    from types import MappingProxyType

    return entries and MappingProxyType({size: MappingProxyType(entry) for size, entry in entries.items()})
