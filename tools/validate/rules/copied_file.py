"""Two unrelated devices rarely have the same optimum: identical files are mostly one file and one copy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from tools.findings import Severity
from tools.store.config_file import ConfigFile, Tree
from tools.text import shown_path
from tools.validate.model import Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """No file of the same launch configs under an unrelated device, unless both were measured."""
    groups: defaultdict[str, list[ConfigFile]] = defaultdict(list)
    for file in tree.configs:
        if file.launch_configs and file.workload is not None and len(file.launch_configs) > 1:
            groups[repr(sorted(file.launch_configs.items()))].append(file)
    for group in groups.values():
        families = {_family(file, context) for file in group}
        if len(families) < 2 or all(map(_measured, group)):
            continue
        for file in group:
            other = next(o for o in group if _family(o, context) != _family(file, context))
            yield Issue(
                f"the same launch configs as {shown_path(other.found.path)!r}, a file of an unrelated device",
                "tune it on this device, or remove the copy",
                Severity.WARNING,
                path=file.found.path,
            )


def _family(file: ConfigFile, context: Context) -> str:
    device = context.device_of(file)
    name = file.workload.device_name if file.workload else ""
    return name if device is None else (device.family or device.name)


def _measured(file: ConfigFile) -> bool:
    document = file.record.document
    return isinstance(document, dict) and document.get("source") == "measured"


RULE = TreeRule("copied-file", "Unrelated devices do not share a file.", check)
