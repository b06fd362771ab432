"""The registries decide what is a known device and a known shape, so they are proved like the files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tools.registry.devices import load_devices
from tools.registry.engines import load_engines
from tools.registry.models import load_models
from tools.registry.reading import REGISTRY_FOLDER, RegistryError, faults_by_name
from tools.store.config_file import Tree
from tools.store.files import read_file
from tools.store.tiers import REGISTRIES, REGISTRY, Role
from tools.validate.model import REPO_ONLY, Context, Issue, TreeRule

_LOADERS: Mapping[str, Callable[[Path], object]] = {
    "devices": load_devices,
    "engines": load_engines,
    "models": load_models,
}


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """Each is strict, valid and sorted, with no name twice, and this checkout has all of them."""
    for name in REGISTRIES:
        if not os.path.lexists(REGISTRY_FOLDER / name):
            yield Issue("expected this registry in the checkout, found none", "restore it", path=REGISTRY_FOLDER / name)
    for found in tree.others:
        if found.role is not Role.KNOWN or found.relative.parts[0] != REGISTRY:
            continue
        content = read_file(found.path)
        kind = found.path.stem
        for fault in content.faults:
            yield Issue(str(fault), fault.fix, path=found.path)
        faults = [] if content.faults else list(faults_by_name(kind, content.document))
        for where, message in faults:
            yield Issue(f"{where}: {message}", f"see schema/{kind}.schema.json", path=found.path)
        if not content.faults and not faults:
            try:
                _LOADERS[kind](found.path)
            except RegistryError as error:
                yield Issue(error.reason, error.fix, path=found.path)


RULE = TreeRule("registry", "The registries are valid and name nothing twice.", check, layouts=REPO_ONLY)
