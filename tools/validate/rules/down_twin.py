"""SGLang aligns tokens once for both projections, so a `_down` file is bound to its up file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from tools.store.config_file import ConfigFile, is_batch_size
from tools.store.files import TUNED_FILE, read_file
from tools.store.rows import rows_text
from tools.validate.model import Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """A `_down` file has an up file with the same batch sizes and the same BLOCK_SIZE_M at each."""
    if file.workload is None:
        return
    twin = dataclasses.replace(file.workload, down=not file.workload.down)
    twin_path = file.found.path.with_name(twin.file_name(context.layout))
    if file.workload.down:
        if not os.path.lexists(twin_path):
            yield Issue(
                f"expected the up file {twin_path.name!r} beside it, found none",
                context.removed("add it, or remove this file"),
            )
        else:
            yield from _compare(up=_tiles(twin_path), down=_tiles(file.found.path), down_path=file.found.path)
    elif os.path.lexists(twin_path):
        yield from _compare(up=_tiles(file.found.path), down=_tiles(twin_path), down_path=twin_path)


def _tiles(path: Path) -> dict[int, object]:
    """BLOCK_SIZE_M of each row; empty where the file can't be read, which is another rule's finding."""
    document = read_file(path, TUNED_FILE).document
    rows = document.items() if isinstance(document, dict) else ()
    return {int(key): row.get("BLOCK_SIZE_M") for key, row in rows if is_batch_size(key) and isinstance(row, dict)}


def _compare(up: dict[int, object], down: dict[int, object], down_path: Path) -> Iterator[Issue]:
    if not up or not down:
        return
    if up.keys() != down.keys():
        only = {"only there": up.keys() - down.keys(), "only here": down.keys() - up.keys()}
        told = [f"{', '.join(map(str, sorted(keys)))} {where}" for where, keys in only.items() if keys]
        yield Issue(
            f"expected the batch sizes of the up file, found {' and '.join(told)}",
            "tune both files for the same batch sizes",
            path=down_path,
        )
    different = [key for key in up if key in down and up[key] != down[key]]
    if different:
        first = different[0]
        yield Issue(
            f"{rows_text(different, down)}: expected the up file's BLOCK_SIZE_M ({up[first]} at {first}), "
            f"found {down[first]}: SGLang overrides it with the up file's",
            "tune the down file with the up file's BLOCK_SIZE_M",
            path=down_path,
        )


RULE = FileRule("down-twin", "A _down file matches its up file.", check)
