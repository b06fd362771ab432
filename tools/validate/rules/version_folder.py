"""A version folder decides whose launch configs it hides, so only a release that exists has one.

SGLang also splits folder names at `_` and puts the parts through int(): one odd folder breaks every look-up.
"""

from __future__ import annotations

from collections.abc import Iterator

from tools.checkout import reference_triton, triton_releases
from tools.store.config_file import Tree
from tools.store.files import version_folder
from tools.store.tiers import version_of_folder
from tools.store.workload import Layout
from tools.validate.model import Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """Tuned files lie in folders named triton_X_Y_Z; in this store, of a known release that isn't the reference."""
    folders = {file.found.path.parent: file.found.folder for file in tree.configs}
    for path, folder in sorted(folders.items()):
        found = why_no_folder(folder) if context.layout is Layout.REPO else _why_unread(folder)
        if found is not None:
            yield Issue(*found, path=path)


def why_no_folder(folder: str) -> tuple[str, str] | None:
    """What is wrong with a version folder of this store, and the way out. None: nothing, or it is another tier's."""
    version = version_of_folder(folder)
    if version is None:
        return None
    release, known = ".".join(map(str, version)), triton_releases()
    if folder == version_folder(reference_triton()):
        return (
            f"{folder}/: expected the folder of another Triton than the reference, whose files are the default tier, "
            f"found the reference's, {release}",
            "move its files up into configs/, and their records up into records/",
        )
    if folder not in map(version_folder, known):
        return (
            f"{folder}/: expected the folder of one of Triton's releases {known[0]} to {known[-1]}, found {release}",
            "move its files to the folder of the Triton that they were tuned with; if it is a new release, add it to "
            "triton-releases in pyproject.toml, in a pull request of its own that goes first",
        )
    return None


def _why_unread(folder: str) -> tuple[str, str] | None:
    if version_of_folder(folder) is not None:
        return None
    message = f"expected a folder named triton_X_Y_Z, found {folder!r}, which names no Triton release to SGLang"
    return message, "name the folder by the three numbers of the Triton release"


RULE = TreeRule(
    "version-folder",
    "Folders are named triton_X_Y_Z, by releases that exist.",
    check,
    layouts=frozenset({Layout.REPO, Layout.SGLANG}),
)
