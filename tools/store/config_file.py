"""A tuned file as it is read: its place, its name, its content. Validation and compilation both start from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from kernels.launch_config import LaunchConfig
from tools.store.files import RECORD, TUNED_FILE, Content, read_file, record_path
from tools.store.strict_json import Json
from tools.store.tiers import Found, Role
from tools.store.workload import Layout, ParsedName, Workload, parse_file_name

_BATCH_SIZE = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)


@dataclass(frozen=True)
class ConfigFile:
    """One tuned file: where it lies, what its name says, what it holds.

    `launch_configs` holds only the well-formed entries: what is wrong with the others is the validator's to say.
    """

    found: Found
    name: ParsedName
    content: Content

    @property
    def workload(self) -> Workload | None:
        """What the name says, None where it can't be read."""
        return self.name.workload

    @cached_property
    def document(self) -> Mapping[str, Json] | None:
        """The top-level object without the string `triton_version` that vLLM's files carry."""
        if not isinstance(self.content.document, dict):
            return None
        items = self.content.document.items()
        return {key: value for key, value in items if key != "triton_version" or not isinstance(value, str)}

    @cached_property
    def record(self) -> Content:
        """The record beside it on disk, read once."""
        return read_file(record_path(self.found.root, self.found.relative), RECORD)

    @cached_property
    def launch_configs(self) -> Mapping[int, LaunchConfig]:
        """Batch size to launch config, well-formed entries only, in the file's order."""
        rows: dict[int, LaunchConfig] = {}
        for key, entry in (self.document or {}).items():
            if _BATCH_SIZE.fullmatch(key) and isinstance(entry, dict):
                try:
                    rows[int(key)] = LaunchConfig.from_entry(entry)
                except ValueError:
                    continue
        return rows


def nearest_batch_size(batch_sizes: Iterable[int], num_tokens: int) -> int:
    """Whose entry serves num_tokens, as engines choose: the nearest, ties to the smaller. ValueError: there is none."""
    return min(batch_sizes, key=lambda size: (abs(size - num_tokens), size))


@dataclass(frozen=True)
class Tree:
    """All files of a run, the tuned ones read, the others found."""

    configs: tuple[ConfigFile, ...]
    others: tuple[Found, ...]


def load(found: Iterable[Found], layout: Layout) -> Tree:
    """Reads every tuned file once."""
    files = list(found)
    configs = tuple(
        ConfigFile(file, parse_file_name(file.path.name, layout), read_file(file.path, TUNED_FILE))
        for file in files
        if file.role is Role.CONFIG
    )
    return Tree(configs, tuple(file for file in files if file.role is not Role.CONFIG))
