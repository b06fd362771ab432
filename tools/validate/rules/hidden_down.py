"""The first file that a look-up finds serves both projections where no `_down` file lies beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fused_moe_configs.lookup import down_of
from tools.findings import Severity
from tools.store.config_file import ConfigFile
from tools.store.files import RECORD, read_file, record_path
from tools.store.tiers import LEGACY, version_of_folder
from tools.validate.model import REPO_ONLY, Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """A file without a `_down` file hides that of a tier behind it only where it was tuned with up and down apart."""
    found = file.found
    if file.workload is None or file.workload.down or found.folder == LEGACY:
        return
    behind = ("", LEGACY) if version_of_folder(found.folder) is not None else (LEGACY,)
    down = down_of(found.path.name)
    hidden = next((path for folder in behind if (path := found.root / folder / down).exists()), None)
    if hidden is None or found.path.with_name(down).exists() or _was_tuned_apart(file):
        return
    yield Issue(
        f"expected a _down file beside it, or a record that says up and down were tried apart, found neither: it hides "
        f"{hidden.relative_to(found.root)} from SGLang",
        context.removed("tune it with --separate-down under the Triton that it is for, or remove it"),
        Severity.WARNING,
    )


def _was_tuned_apart(file: ConfigFile) -> bool:
    document: object = read_file(record_path(file.found.root, file.found.relative), RECORD).document
    for key in ("tuner", "settings", "separate_down"):
        document = document.get(key) if isinstance(document, Mapping) else None
    return document is True


RULE = FileRule("hidden-down", "A file hides no _down file of a tier behind it.", check, layouts=REPO_ONLY)
