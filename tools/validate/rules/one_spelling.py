"""Two names for one workload in one folder: one of them is never read, and nobody knows which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tools.store.config_file import Tree
from tools.validate.model import Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """No folder holds two files whose names stand for the same workload."""
    groups = defaultdict(list)
    for file in tree.configs:
        if file.workload is not None:
            groups[file.found.path.parent, file.workload].append(file)
    for (_, workload), files in groups.items():
        right = workload.file_name(context.layout)
        keep = next((file for file in files if file.found.path.name == right), files[0])
        for file in files:
            if file is not keep:
                yield Issue(
                    f"expected one file for this workload, found {keep.found.path.name!r} beside it",
                    context.removed(f"keep one, named {right!r}, and remove the other"),
                    path=file.found.path,
                )


RULE = TreeRule("one-spelling", "A workload has one file a folder.", check)
