"""A tuned file without its evidence is a rumour: the record says who measured what, where and against what."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from tools.checkout import reference_triton
from tools.findings import Severity
from tools.launch.kernel_hash import kernel_sha256
from tools.registry.devices import Device
from tools.store import schemas
from tools.store.config_file import ConfigFile
from tools.store.files import closed_folder, read_file, record_path, sha256, version_folder
from tools.store.strict_json import Json
from tools.store.workload import Workload
from tools.validate.model import REPO_ONLY, Context, FileRule, Issue


def check(file: ConfigFile, context: Context) -> Iterator[Issue]:
    """The record exists, is valid, and speaks of exactly this file."""
    path = record_path(file.found.root, file.found.relative)
    if (closed := closed_folder(path)) is not None:
        yield Issue("the folder can't be read, so its files have no record", "make it readable", path=closed)
        return
    if not os.path.lexists(path):
        yield Issue(
            f"expected a record at records/{file.found.relative}, found none",
            "a measured file comes with its record; for figures from elsewhere `nox -s convert` writes it",
        )
        return
    content = read_file(path)
    for fault in content.faults:
        yield Issue(str(fault), fault.fix, path=path)
    if content.faults:
        return
    faults = schemas.faults("record", content.document)
    for schema_fault in faults:
        fix = "see schema/record.schema.json; the tuner writes valid records"
        yield Issue(f"{schema_fault.where}: {schema_fault.message}", fix, path=path)
    if not faults:
        yield from _mismatches(content.document, path, file)
        if content.document["source"] == "measured":
            yield from _measured_mismatches(content.document, path, file)
            yield from _elsewhere(content.document["environment"], path, context.device_of(file), context)


def _mismatches(record: Mapping[str, Json], path: Path, file: ConfigFile) -> Iterator[Issue]:
    if file.workload is not None:
        expected, found = _described(file.workload), _described(_workload(record["workload"]))
        for key in expected:
            if expected[key] != found[key]:
                yield Issue(
                    f"workload.{key}: expected {expected[key]!r} as in the name, found {found[key]!r}",
                    "the record is of another file: tune again, or restore its own",
                    path=path,
                )
    if file.content.data is not None and record["config_sha256"] != sha256(file.content.data):
        yield Issue(
            f"config_sha256: expected {sha256(file.content.data)}, the hash of the file's bytes, "
            f"found {record['config_sha256']}",
            "the file was changed after it was recorded: tune again, or restore the bytes",
            path=path,
        )


def _measured_mismatches(record: Mapping[str, Json], path: Path, file: ConfigFile) -> Iterator[Issue]:
    rows, keys = list(record["rows"]), [str(num_tokens) for num_tokens in file.launch_configs]
    if file.document is not None and set(rows) != set(keys):
        missing, extra = sorted(set(keys) - set(rows), key=int), sorted(set(rows) - set(keys), key=int)
        yield Issue(
            f"rows: expected the file's batch sizes, missing {missing or 'none'}, not in the file {extra or 'none'}",
            "tune the missing batch sizes",
            path=path,
        )
    if file.workload is not None and not file.workload.down:
        yield from _slower_rows(record["rows"], path)
    triton = record["environment"]["triton"]
    folder = file.found.folder
    if folder.startswith("triton_") and version_folder(triton) != folder:
        yield Issue(
            f"environment.triton: expected the version of {folder}, found {triton}",
            "move the file to its version's folder, or tune with that version",
            path=path,
        )
    held = {version_folder(entry["triton"]) for entry in record.get("verified_with", [])}
    if folder == "" and version_folder(reference_triton()) not in held | {version_folder(triton)}:
        yield Issue(
            f"environment.triton: measured with {triton}, the reference is {reference_triton()}",
            "bench the file with the reference Triton",
            Severity.WARNING,
            path=path,
        )
    if record["kernel_sha256"] != kernel_sha256():
        yield Issue(
            "measured on an older kernel",
            "nothing to do until the bench shows a difference",
            Severity.INFO,
            path=path,
        )


def _slower_rows(rows: Mapping[str, Json], path: Path) -> Iterator[Issue]:
    """Of a whole row. A `_down` file's entry is half of one, and may lose there what the other half gains."""
    for key, row in rows.items():
        found, heuristic = row["latency_us"]["median"], row["baseline_us"]["median"]
        if found > heuristic:
            yield Issue(
                f"rows.{key}: expected at most the heuristic's {heuristic} µs, found {found} µs",
                "an engine is faster without the file: tune it again, which writes the heuristic's own entry there",
                path=path,
            )


def _elsewhere(environment: Mapping[str, Json], path: Path, device: Device | None, context: Context) -> Iterator[Issue]:
    """Figures of another GPU say nothing of the one that the name promises."""
    if device is None:
        return
    expected = [("device_name", device.name, context.devices.get(environment["device_name"]) == device)]
    if device.arch is not None:
        capability = _capability(device.arch)
        expected.append(("compute_capability", capability, environment["compute_capability"] == capability))
    for key, wanted, agrees in expected:
        if not agrees:
            yield Issue(
                f"environment.{key}: expected {wanted} as of the name's device, found {environment[key]}",
                "tune it on that device, or name the file by the one that was measured",
                path=path,
            )


def _capability(arch: str) -> str:
    """As a driver tells it: sm_90 is 9.0, sm_120 is 12.0; AMD's architectures have no other name."""
    digits = arch.removeprefix("sm_")
    return f"{digits[:-1]}.{digits[-1]}" if digits != arch else arch


def _workload(document: Mapping[str, Json]) -> Workload:
    block_shape = document["block_shape"]
    return Workload(**{**document, "block_shape": block_shape and tuple(block_shape)})


def _described(workload: Workload) -> dict[str, object]:
    return asdict(workload)


RULE = FileRule("record", "The file's record exists, is valid and matches.", check, layouts=REPO_ONLY)
