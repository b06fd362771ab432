"""One launch config: the entry that a tuned file holds for a batch size. Imports neither torch nor triton.

The key order is the canonical one, in which files are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

EntryValue = int | bool | str


KEY_VENDOR: Mapping[str, str | None] = MappingProxyType(
    {
        "BLOCK_SIZE_M": None,
        "BLOCK_SIZE_N": None,
        "BLOCK_SIZE_K": None,
        "GROUP_SIZE_M": None,
        "num_warps": None,
        "num_stages": None,
        "num_ctas": "nvidia",
        "waves_per_eu": "amd",
        "matrix_instr_nonkdim": "amd",
        "kpack": "amd",
        "grf_mode": "intel",
        "USE_TMA": None,
        "SPLIT_K": None,
    }
)
"""Every launch key in canonical order, with the only vendor whose compiler takes it (None: all)."""

_TYPES: Mapping[str, type] = MappingProxyType({"grf_mode": str, "USE_TMA": bool})

TILE_KEYS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M")
REQUIRED_KEYS = (*TILE_KEYS, "num_warps", "num_stages")
AMD_KEYS = tuple(key for key, vendor in KEY_VENDOR.items() if vendor == "amd")
OPTION_KEYS = ("num_warps", "num_stages", "num_ctas", *AMD_KEYS)
"""The compiler's; the tile's keys are the kernel's own arguments."""

TRITON_DEFAULTS: Mapping[str, int] = MappingProxyType({"num_warps": 4, "num_stages": 3, "num_ctas": 1})
"""What Triton takes where an entry is silent."""


@dataclass(frozen=True)
class LaunchConfig:
    """The launch keys of one entry; None stands for a key that is not written.

    Any values of the right type: which of them a kernel can run, `kernels.problem` says.
    """

    BLOCK_SIZE_M: int
    BLOCK_SIZE_N: int
    BLOCK_SIZE_K: int
    GROUP_SIZE_M: int
    num_warps: int
    num_stages: int
    num_ctas: int | None = None
    waves_per_eu: int | None = None
    matrix_instr_nonkdim: int | None = None
    kpack: int | None = None
    grf_mode: str | None = None
    USE_TMA: bool | None = None
    SPLIT_K: int | None = None

    @classmethod
    def from_entry(cls, entry: Mapping[str, EntryValue]) -> LaunchConfig:
        """Reads an entry. ValueError names the keys that are missing or unknown, or a value of another type."""
        if unknown := [key for key in entry if key not in KEY_VENDOR]:
            raise ValueError(f"launch config: expected keys out of {tuple(KEY_VENDOR)}, found {unknown}")
        if missing := [key for key in REQUIRED_KEYS if key not in entry]:
            raise ValueError(f"launch config: expected {REQUIRED_KEYS}, found no {missing}")
        for key, value in entry.items():
            expected = _TYPES.get(key, int)
            if type(value) is not expected:
                raise ValueError(f"launch config, {key}: expected {expected.__name__}, found {value!r}")
        return cls(**entry)  # type: ignore[arg-type]  # just checked

    def to_entry(self) -> dict[str, EntryValue]:
        """The entry as it is written: canonical key order, keys that are None left out."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {key: value for key, value in values if value is not None}

    @property
    def options(self) -> tuple[tuple[str, int], ...]:
        """The compiler's options as (key, value) in alphabetical order: as written, else Triton's defaults."""
        written = {key: value for key in OPTION_KEYS if (value := getattr(self, key)) is not None}
        return tuple(sorted({**TRITON_DEFAULTS, **written}.items()))
