"""One launch config: the entry that a tuned file holds for a batch size.

The key order is the canonical one, which `tools.store.files` writes. The allowed values are those that appear in 728
published files of vLLM and SGLang, plus the powers of two between them.
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
        "USE_TMA": "nvidia",
        "SPLIT_K": None,
    }
)
"""Every launch key in canonical order, with the only vendor whose compiler takes it (None: all)."""

_TYPES: Mapping[str, type] = MappingProxyType({"grf_mode": str, "USE_TMA": bool})

REQUIRED_KEYS = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages")


@dataclass(frozen=True)
class LaunchConfig:
    """The launch keys of one entry; None stands for a key that is not written."""

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
        """Reads an entry; raises ValueError naming the keys that are missing, unknown or of the wrong type."""
        missing = [key for key in REQUIRED_KEYS if key not in entry]
        unknown = [key for key in entry if key not in KEY_VENDOR]
        mistyped = [
            key for key, value in entry.items() if key in KEY_VENDOR and type(value) is not _TYPES.get(key, int)
        ]
        if missing or unknown or mistyped:
            raise ValueError(f"launch config: missing {missing}, unknown {unknown}, wrong type {mistyped}")
        return cls(**entry)  # type: ignore[arg-type]  # just checked

    def to_entry(self) -> dict[str, EntryValue]:
        """The entry as it is written: canonical key order, keys that are None left out."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {key: value for key, value in values if value is not None}
