"""vLLM's tuner writes a top-level `triton_version`, which SGLang's reader puts through int() and dies on."""

from __future__ import annotations

from collections.abc import Iterator

from tools.store.config_file import ConfigFile
from tools.store.workload import Layout
from tools.validate.model import Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """No top-level `triton_version`: the folder and the record say it."""
    document = file.content.document
    if isinstance(document, dict) and isinstance(document.get("triton_version"), str):
        yield Issue(
            "triton_version at the top level: SGLang puts every key through int() and raises",
            "remove the key; the folder and the record name the Triton version",
        )


RULE = FileRule("triton-version", "No triton_version key.", check, layouts=frozenset({Layout.REPO, Layout.SGLANG}))
