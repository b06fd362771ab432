"""Workflow files, parsed: jobs, steps, and the commands and expressions in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tools.checkout import CHECKOUT

FOLDER = CHECKOUT / ".github" / "workflows"
ACTIONS = CHECKOUT / ".github" / "actions"


@dataclass(frozen=True)
class Workflow:
    """One file. name: without its extension."""

    name: str
    text: str

    @property
    def tree(self) -> Mapping[str, Any]:
        # YAML 1.2, as GitHub reads it: in 1.1 the key `on` would be true
        return YAML(typ="safe", pure=True).load(self.text)  # type: ignore[no-any-return]

    @property
    def triggers(self) -> Mapping[str, Any]:
        return self.tree["on"]  # type: ignore[no-any-return]

    @property
    def jobs(self) -> Mapping[str, Any]:
        return self.tree["jobs"]  # type: ignore[no-any-return]


def workflows() -> list[Workflow]:
    return [read(path) for path in sorted(FOLDER.glob("*.yml"))]


def read(path: Path) -> Workflow:
    return Workflow(path.stem, path.read_text("utf-8"))


def workflow(name: str) -> Workflow:
    return read(FOLDER / f"{name}.yml")


def steps(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return job.get("steps", [])  # type: ignore[no-any-return]


def runs_on_gpu(job: Mapping[str, Any]) -> bool:
    return "self-hosted" in str(job.get("runs-on", ""))


def environment(job: Mapping[str, Any]) -> str | None:
    value = job.get("environment")
    return value["name"] if isinstance(value, Mapping) else value


def strings(node: object) -> Iterator[str]:
    """Every text below a node, keys left out."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)
    elif isinstance(node, str):
        yield node
