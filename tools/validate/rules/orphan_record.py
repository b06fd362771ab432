"""A record whose file is gone is evidence of nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from tools.store.config_file import Tree
from tools.store.files import RECORD, TUNED_FILE, closed_folder, read_file, record_path, sha256
from tools.store.tiers import Found, Role
from tools.validate.model import REPO_ONLY, Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """Every record has its tuned file."""
    for found in tree.others:
        if found.role is Role.RECORD:
            config = PurePosixPath(*found.relative.parts[1:])
            closed = closed_folder(found.root / config)
            if closed is not None:
                yield Issue("the folder can't be read, so its records have no file", "make it readable", path=closed)
            elif not os.path.lexists(found.root / config):
                strayed = _strayed(found, tree)
                there = f"found it at {strayed}" if strayed else "found none"
                fix = "move that file back" if strayed else "remove the record"
                yield Issue(f"expected its tuned file at {config}, {there}", fix, path=found.path)


def _strayed(record: Found, tree: Tree) -> PurePosixPath | None:
    """Where the file lies that the record signs: under another name, or in another folder."""
    document = read_file(record.path, RECORD).document
    signed = document.get("config_sha256") if isinstance(document, dict) else None
    configs = [file.found for file in tree.configs]
    unproved = (found for found in configs if not os.path.lexists(record_path(found.root, found.relative)))
    foreign = (found for found in tree.others if found.role is Role.FOREIGN and found.path.name == record.path.name)
    for found in (*unproved, *foreign):
        data = read_file(found.path, TUNED_FILE).data
        if data is not None and sha256(data) == signed:
            return found.relative
    return None


RULE = TreeRule("orphan-record", "A record has its file.", check, layouts=REPO_ONLY)
