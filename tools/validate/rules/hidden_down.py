"""The first file that a look-up finds serves both projections where no `_down` file lies beside it."""

from __future__ import annotations

from collections.abc import Iterator

from tools.findings import Severity
from tools.launch.engine_package import KERNEL_FILES
from tools.store.config_file import ConfigFile
from tools.store.existing import Place, has_descriptors, untried_down
from tools.validate.model import REPO_ONLY, Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """A file hides the `_down` file of a tier behind it only where up and down were tried apart for it."""
    if file.workload is None or file.workload.down:
        return
    hidden = untried_down(Place(file.found.root, file.found.relative))
    if hidden is None:
        return
    flags = "--separate-down"
    if has_descriptors(hidden):
        flags += f" and --kernel sglang=PATH/{KERNEL_FILES['sglang']}"
    yield Issue(
        "expected a _down file beside it, or a record that says up and down were tried apart, found neither: it hides "
        f"{hidden.relative} from SGLang",
        context.removed(f"tune it with {flags} under the Triton that it is for, or remove it"),
        Severity.WARNING,
    )


RULE = FileRule("hidden-down", "A file hides no _down file of a tier behind it.", check, layouts=REPO_ONLY)
