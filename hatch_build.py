"""The build hook: `configs/index.json` for wheel and sdist, which leave the records at home.

It runs where a user builds a wheel, with hatchling and the standard library alone, on every Python that the wheel
claims. What the index says is the loader's own answer (fused_moe_configs/index.py). Nothing is written to the checkout.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class IndexHook(BuildHookInterface):
    """Adds the index to what is built; where an sdist brought one along, that one is taken."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """ConfigError: a record can't be used. RuntimeError: neither records nor an index are there."""
        configs = Path(self.root) / "configs"
        if version == "editable":  # the loader reads the checkout's records
            return
        if not (configs / "records").is_dir():
            if (configs / "index.json").is_file():
                return
            wish = "expected records, as a checkout has them, or index.json, as an sdist has it, found neither"
            raise RuntimeError(f"{configs}: {wish}. Fix: build from a whole checkout or sdist")
        sys.path.insert(0, self.root)
        try:
            from fused_moe_configs import index

            content = index.to_bytes(index.build(configs))
        finally:
            sys.path.remove(self.root)
        folder = "fused_moe_configs/configs" if self.target_name == "wheel" else "configs"
        self._folder = tempfile.TemporaryDirectory()
        written = Path(self._folder.name) / "index.json"
        written.write_bytes(content)
        build_data["force_include"][str(written)] = f"{folder}/index.json"

    def finalize(self, _version: str, _build_data: dict[str, Any], _artifact_path: str) -> None:
        """The file has been taken into the artifact."""
        if folder := getattr(self, "_folder", None):
            folder.cleanup()
