"""Reading strictly: a file is used whole, or refused with its path, the position and the reason."""
# pathlib takes longer to import than the whole loader may.
# ruff: noqa: PTH116, PTH123

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

Entries = dict[int, dict[str, "int | str"]]
REQUIRED = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages")
MAX_BYTES = 2**20


class ConfigError(ValueError):
    """A file that exists and cannot be used. line and column count from 1; None: the file as a whole."""

    def __init__(self, path: str, reason: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(path, reason, line, column)
        self.path, self.reason, self.line, self.column = path, reason, line, column

    def __str__(self) -> str:
        at = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{printable(self.path)}: {at}{self.reason}"


class Pairs(tuple):  # type: ignore[type-arg]
    """A JSON object as it stands in the file, duplicate keys included."""


def shown(value: object) -> str:
    """The value as a message may hold it: printable and short, whatever it is."""
    try:
        text = "an object" if isinstance(value, Pairs) else ascii(value)
    except ValueError:  # Python prints no integer of over 4300 digits
        text = f"{type(value).__name__} too large to print"
    return text if len(text) <= 90 else text[:87] + "..."


def printable(path: object) -> str:
    """The path on one line: quoted where a newline or the like is in it."""
    return text if (text := str(path)).isprintable() else ascii(text)


def size_fault(value: object) -> str:
    """What keeps the value from being a size; empty where nothing does."""
    good = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
    return "" if good else f"expected an integer from 1 to {2**31 - 1}, found {shown(value)}"


def read_json(path: str, max_bytes: int = MAX_BYTES) -> tuple[str, Any]:
    """Text and document of a regular UTF-8 file that holds one JSON object. Objects are `Pairs`."""
    import json
    import re

    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ConfigError(path, "expected a file, found a directory or a device. Fix: remove or rename it")
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise ConfigError(path, f"expected at most {max_bytes // 2**20} MiB, found more")
    before = ""
    try:
        text = data.decode()
        reason = "expected JSON, found a byte order mark. Fix: save the file without one"
        if not text.startswith("\ufeff"):
            document = json.loads(text, object_pairs_hook=Pairs)
            if isinstance(document, Pairs):
                return text, document
            reason = f"expected a JSON object, found {shown(document)}"
    except UnicodeDecodeError as error:
        reason, before = f"expected UTF-8, found byte {data[error.start]:#x}", data[: error.start].decode()
    except json.JSONDecodeError as error:
        reason, before = f"not JSON: {error.msg}", text[: error.pos]
    except (RecursionError, ValueError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
        before = re.split(r"\[|\{[^{}]*\{[^{}]*\{|[0-9]{4300}", text)[0]
    raise ConfigError(path, reason, *_end(before))


def read_config(path: str, accept_version: bool = False) -> Entries:
    """Entries by batch size, ascending. accept_version: drop a `triton_version` string, as vLLM does."""
    text, document = read_json(path)
    configs: dict[str, dict[str, int | str]] = {}
    key_count, fault = 0, ""
    for size, entry in document:
        at = key_count = key_count + 1
        if size in configs:
            fault = f"duplicate key {shown(size)}"
        elif accept_version and size == "triton_version" and isinstance(entry, str):
            entry = ()
        elif not (size.isascii() and size.isdigit() and size[0] != "0" and len(size) < 10):
            fault = f"expected a batch size (a positive decimal integer) as key, found {shown(size)}"
        elif not isinstance(entry, Pairs):
            fault = f"expected an object of launch keys at {size}, found {shown(entry)}"
        elif missing := set(REQUIRED) - {key for key, _ in entry}:
            fault = f"expected {', '.join(sorted(missing))} at {size}, found nothing"
        config = configs[size] = {}
        for key, value in entry if not fault else ():
            at = key_count = key_count + 1
            if key in config:
                fault = f"duplicate key {shown(key)}"
            elif key in REQUIRED and (wrong := size_fault(value)):
                fault = f"{shown(key)}: {wrong}"
            elif not isinstance(value, (int, str)):
                fault = f"{shown(key)}: expected integer, true, false or string, found {shown(value)}"
            if fault:
                break
            config[key] = value
        if fault:
            import re

            strings = re.finditer(r'"(?:[^"\\]|\\.)*"(\s*:)?', text)
            before = text[: [string.start() for string in strings if string[1]][at - 1]]
            raise ConfigError(path, fault, *_end(before))
    configs.pop("triton_version", None)
    if not configs:
        raise ConfigError(path, "expected at least one batch size, found none", 1, 1)
    return {size: configs[str(size)] for size in sorted(map(int, configs))}


def _end(text: str) -> tuple[int, int]:
    return text.count("\n") + 1, len(text) - text.rfind("\n")
