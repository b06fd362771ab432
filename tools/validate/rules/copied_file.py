"""Two unrelated workloads rarely have the same optimum in every row: identical files are mostly a file and its copy."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator

from tools.findings import Severity
from tools.store.config_file import ConfigFile, Tree
from tools.store.workload import Layout, Workload
from tools.text import shown_path
from tools.validate.model import Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """No file of the same launch configs for another workload or an unrelated device, unless both were measured."""
    groups: defaultdict[str, list[ConfigFile]] = defaultdict(list)
    for file in tree.configs:
        if file.workload is not None and len(file.launch_configs) > 1:
            groups[repr(sorted(file.launch_configs.items()))].append(file)
    for group in groups.values():
        what = {file.found: _what_it_is_for(file, context) for file in group}
        if len(set(what.values())) < 2:
            continue
        measured = {file.found: _is_measured(file) for file in group}
        for file in group:
            here = file.found
            others = [other for other in what if what[other] != what[here] and not (measured[other] and measured[here])]
            if others:
                kind = "an unrelated device" if what[others[0]][0] != what[here][0] else "another workload"
                yield Issue(
                    f"the same launch configs as {shown_path(others[0].path)!r}, a file of {kind}",
                    context.removed("tune both, since measured files may agree; or remove the one that is a copy"),
                    Severity.WARNING,
                    path=here.path,
                )


def _what_it_is_for(file: ConfigFile, context: Context) -> tuple[str, Workload]:
    """(the device's family, the workload without its device and projection): what files that may agree share.

    In an engine's folder, as exports write it, one for a scale for each tensor stands in for scales per channel.
    """
    assert file.workload is not None
    device = context.device_of(file)
    family = file.workload.device_name if device is None else (device.family or device.name)
    alike = dataclasses.replace(file.workload, device_name="", down=False)
    return family, alike if context.layout is Layout.REPO else dataclasses.replace(alike, per_channel_quant=False)


def _is_measured(file: ConfigFile) -> bool:
    document = file.record.document
    return isinstance(document, dict) and document.get("source") == "measured"


RULE = TreeRule("copied-file", "Unrelated workloads and devices do not share a file.", check)
