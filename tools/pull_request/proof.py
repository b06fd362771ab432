"""The validator's rules on files that lie nowhere yet: they are written to a temporary tree and proved there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tools.findings import Finding, Severity
from tools.registry.devices import DeviceRegistry
from tools.store.workload import Layout
from tools.text import shown, shown_path
from tools.validate import runner
from tools.validate.exceptions import Exceptions


def prove(files: Mapping[str, bytes], devices: DeviceRegistry, exceptions: Exceptions) -> list[Finding]:
    """Every error that the rules find in these files, by paths from the root of the repository.

    The paths have passed `path_refusals`: they are names of the grammar below configs/.
    """
    with tempfile.TemporaryDirectory(prefix="fused-moe-configs-") as folder:
        root = Path(folder).resolve()
        for path, data in files.items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if not files:
            return []
        report = runner.validate([root / "configs"], Layout.REPO, devices, exceptions)
        prefix = f"{shown_path(root)}/"
        return [
            replace(finding, path=shown(finding.path.removeprefix(prefix)), message=_short(finding.message, prefix))
            for finding in report.findings
            if finding.severity is Severity.ERROR
        ]


def _short(message: str, prefix: str) -> str:
    return shown(message.replace(prefix, ""), 500)
