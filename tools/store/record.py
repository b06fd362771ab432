"""Lines that a later bench adds to a record: `verified_with` and `engine_checked`. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.store.strict_json import Json


def with_line(record: Mapping[str, Json], key: str, line: Mapping[str, Json], same: Sequence[str]) -> dict[str, Json]:
    """The record with the line under `key`, instead of an older one that agrees in all of `same`.

    `verified` stays last, as in every record.
    """
    lines = record.get(key)
    known = [old for old in lines if isinstance(old, dict)] if isinstance(lines, list) else []
    kept: list[Json] = [old for old in known if any(old.get(name) != line[name] for name in same)]
    rest = {name: value for name, value in record.items() if name not in (key, "verified")}
    return {**rest, key: [*kept, dict(line)], "verified": record.get("verified")}
