"""A tuned file as it is read: its place, its name, its content. Validation and compilation both start from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from kernels.launch_config import REQUIRED_KEYS, TRITON_DEFAULTS, LaunchConfig
from tools.store.files import RECORD, TUNED_FILE, Content, read_file, record_path
from tools.store.strict_json import Json
from tools.store.tiers import Found, Role
from tools.store.workload import Layout, ParsedName, Workload, parse_file_name

_BATCH_SIZE = re.compile(r"[1-9][0-9]{0,6}", re.ASCII)


def is_batch_size(key: str) -> bool:
    """Whether a file's key is one, as every reader puts it through int(): decimal, without leading zeros."""
    return _BATCH_SIZE.fullmatch(key) is not None


MAY_BE_SILENT: Mapping[str, int] = {key: TRITON_DEFAULTS[key] for key in REQUIRED_KEYS if key in TRITON_DEFAULTS}
"""The keys that a row in an engine's folder may leave out, with what Triton runs then. This store's rows have them."""


def filled_in(document: Mapping[str, Json], implied: Mapping[str, int] = MAY_BE_SILENT) -> dict[str, Json]:
    """The document with every key in its rows that an engine would run without being told."""
    return {key: {**implied, **entry} if isinstance(entry, dict) else entry for key, entry in document.items()}


def silent_rows(document: Mapping[str, Json], implied: Mapping[str, int] = MAY_BE_SILENT) -> dict[int, tuple[str, ...]]:
    """Batch size to the keys that its row leaves out of those; rows that leave out none are not in it."""
    rows = ((key, entry) for key, entry in document.items() if is_batch_size(key) and isinstance(entry, dict))
    found = ((int(key), tuple(name for name in implied if name not in entry)) for key, entry in rows)
    return {num_tokens: names for num_tokens, names in found if names}


@dataclass(frozen=True)
class ConfigFile:
    """One tuned file: where it lies, what its name says, what it holds.

    `launch_configs` holds only the well-formed entries: what is wrong with the others is the validator's to say.
    implied: the keys that a row may leave out where the file lies, and what runs then; none in this store.
    """

    found: Found
    name: ParsedName
    content: Content
    implied: Mapping[str, int] = field(default_factory=dict)

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
    def as_run(self) -> Mapping[str, Json] | None:
        """The document with what an engine runs where a row is silent."""
        return None if self.document is None else filled_in(self.document, self.implied)

    @cached_property
    def batch_sizes(self) -> tuple[int, ...]:
        """Every batch size that the file names, in its order, whether or not its entry can be read."""
        return tuple(int(key) for key in self.document or () if is_batch_size(key))

    @cached_property
    def launch_configs(self) -> Mapping[int, LaunchConfig]:
        """Batch size to launch config, well-formed entries only, in the file's order."""
        rows: dict[int, LaunchConfig] = {}
        for key, entry in (self.as_run or {}).items():
            if is_batch_size(key) and isinstance(entry, dict):
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
    implied = {} if layout is Layout.REPO else MAY_BE_SILENT
    configs = tuple(
        ConfigFile(file, parse_file_name(file.path.name, layout), read_file(file.path, TUNED_FILE), implied)
        for file in files
        if file.role is Role.CONFIG
    )
    return Tree(configs, tuple(file for file in files if file.role is not Role.CONFIG))
