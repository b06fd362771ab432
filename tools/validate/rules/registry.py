"""The registries decide what is a known device and a known shape, so they are proved like the files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fused_moe_configs.spelling import like, question
from tools.findings import Severity
from tools.registry.devices import DeviceRegistry, load_devices
from tools.registry.engines import load_engines
from tools.registry.models import ModelRegistry, load_models, unknown_device_classes
from tools.registry.reading import REGISTRY_FOLDER, RegistryError, faults_by_name
from tools.registry.shapes import contradictions
from tools.store.config_file import Tree
from tools.store.files import read_file
from tools.store.tiers import REGISTRIES, REGISTRY, Role
from tools.validate.model import REPO_ONLY, Context, Issue, TreeRule


def check(tree: Tree, context: Context) -> Iterator[Issue]:
    """Each is strict, valid and sorted, with no name twice, and this checkout has all of them.

    The models' placements speak of device classes that devices.json has, and those that read one name on one of them
    have one kind of layer, which a file can be tuned for.
    """
    devices: DeviceRegistry | None = None
    models: tuple[Path, ModelRegistry] | None = None
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
                if kind == "devices":
                    devices = load_devices(found.path)
                elif kind == "models":
                    models = found.path, load_models(found.path)
                else:
                    load_engines(found.path)
            except RegistryError as error:
                yield Issue(error.reason, error.fix, path=found.path)
    if devices is not None and models is not None:
        path, registry = models
        for model_id, name in unknown_device_classes(registry, {device.family for device in devices}):
            message = f"{model_id} / placements: expected a family of devices.json, found {name!r}"
            yield Issue(message, _fix_of_device_class(name, devices), path=path)
        for workload, said in contradictions(registry, devices):
            message = f"{workload.file_name().removesuffix('.json')}: {said}; a file can be tuned for the first alone"
            yield Issue(message, _CONTRADICTED, Severity.WARNING, path)


def _fix_of_device_class(name: str, devices: DeviceRegistry) -> str:
    """Mostly it is a device that is written there."""
    if (device := devices.get(name)) is not None:
        return f"write that device's family, {device.family}"
    add = "add a device of that family to devices.json"
    return f"{question(meant)} Else {add}" if (meant := like(name, (each.family for each in devices))) else add


_CONTRADICTED = (
    "correct the placement, or the model's gated, dtype or scales; where all of it is right, keep the placements of "
    "one kind of layer"
)

RULE = TreeRule("registry", "The registries are valid and name nothing twice.", check, layouts=REPO_ONLY)
