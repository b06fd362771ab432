"""SGLang splits folder names at `_` and puts the parts through int(): one odd folder breaks every look-up."""

from __future__ import annotations

from collections.abc import Iterator

from tools.store.config_file import Tree
from tools.store.tiers import version_of_folder
from tools.store.workload import Layout
from tools.validate.model import Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """Tuned files lie in folders named triton_X_Y_Z."""
    folders = {file.found.path.parent: file.found.folder for file in tree.configs}
    for path, folder in sorted(folders.items()):
        if version_of_folder(folder) is None:
            yield Issue(
                f"expected a folder named triton_X_Y_Z, found {folder!r}, which names no Triton release to SGLang",
                "name the folder by the three numbers of the Triton release",
                path=path,
            )


RULE = TreeRule("version-folder", "Folders are named triton_X_Y_Z.", check, layouts=frozenset({Layout.SGLANG}))
