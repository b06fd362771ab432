"""Tuned files and records from bytes that lie nowhere: read with the same core as files on disk. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from kernels.launch_config import LaunchConfig
from tools.store.config_file import ConfigFile
from tools.store.files import Content
from tools.store.strict_json import Json, parse
from tools.store.tiers import Found, Role
from tools.store.workload import Workload, parse_file_name

DEFAULT = "default"
"""The default tier's name, whose files lie in no folder of their own."""

_LARGEST = 1e300
"""A record may hold an integer that no float can."""

_BATCH_SIZE = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)


@dataclass(frozen=True)
class Version:
    """A tuned file and its record as one side of a change has them. data None: there is no file."""

    relative: PurePosixPath
    data: bytes | None
    record_data: bytes | None

    @cached_property
    def file(self) -> ConfigFile:
        """The file, read; without bytes it has no entries."""
        document, faults = (None, ()) if self.data is None else parse(self.data)
        found = Found(Path(self.relative), Path(), self.relative, Role.CONFIG)
        return ConfigFile(found, parse_file_name(self.relative.name), Content(self.data, document, tuple(faults)))

    @property
    def exists(self) -> bool:
        return self.data is not None

    @property
    def workload(self) -> Workload | None:
        return self.file.workload

    @property
    def entries(self) -> Mapping[int, LaunchConfig]:
        return self.file.launch_configs

    @property
    def tier(self) -> str:
        return tier_of(self.relative)

    @cached_property
    def record(self) -> Mapping[str, Json]:
        """The record's fields; empty where there is none that can be read."""
        document = None if self.record_data is None else parse(self.record_data)[0]
        return document if isinstance(document, dict) else {}

    @property
    def rows(self) -> Mapping[int, Mapping[str, Json]]:
        """The record's rows by batch size, as far as they are rows of batch sizes."""
        rows = self.record.get("rows")
        found = rows.items() if isinstance(rows, dict) else ()
        return {int(key): row for key, row in found if _BATCH_SIZE.fullmatch(key) and isinstance(row, dict)}

    def medians_us(self, figure: str = "latency_us") -> Mapping[int, float]:
        """Median of one of the record's figures by batch size, where it has that figure."""
        medians = {num_tokens: _median_us(row.get(figure)) for num_tokens, row in self.rows.items()}
        return {num_tokens: median for num_tokens, median in medians.items() if median is not None}


def tier_of(relative: PurePosixPath) -> str:
    """`default`, `legacy_configs` or `triton_X_Y_Z`."""
    return DEFAULT if len(relative.parts) == 1 else relative.parts[0]


def _median_us(latency: Json) -> float | None:
    median = latency.get("median") if isinstance(latency, dict) else None
    if not isinstance(median, int | float) or isinstance(median, bool) or median <= 0:
        return None
    return float(min(median, _LARGEST))
