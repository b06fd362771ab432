"""A record whose file is gone is evidence of nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from tools.store.config_file import Tree
from tools.store.files import closed_folder
from tools.store.tiers import Role
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
                yield Issue(f"expected its tuned file at {config}, found none", "remove the record", path=found.path)


RULE = TreeRule("orphan-record", "A record has its file.", check, layouts=REPO_ONLY)
