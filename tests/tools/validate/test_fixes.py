"""What a finding says to do, done to the letter, ends it and brings no other. For every rule, and most of its fixes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.builders import BATCH_SIZES, H100, NAME, Store, entry, signed, table, without_roots_rights
from tools.checkout import reference_triton
from tools.findings import Finding, Severity
from tools.store.files import canonical_config, canonical_record, version_folder
from tools.store.record import Record
from tools.store.workload import Layout, parse_file_name
from tools.validate import fixer
from tools.validate.rules import RULES

STEM = NAME.removesuffix(".json")
DOWN = f"{STEM}_down.json"
BLOCKS = f"{STEM},dtype=fp8_w8a8,block_shape=[128,128].json"
MI300 = "E=8,N=1024,device_name=AMD_Instinct_MI300X.json"
MI355 = "E=8,N=1024,device_name=AMD_Instinct_MI355X.json"
VERSION = "triton_3_6_0"


@dataclass(frozen=True)
class Case:
    """spoil: makes a store with a finding of the rule. says: what its fix says. do: does that."""

    rule: str
    spoil: Callable[[Store], object]
    says: str
    do: Callable[[Store], object]
    layout: Layout = Layout.REPO


# ---------------------------------------------------------------
# Doing what a fix says


def write(store: Store, document: Any = None, name: str = NAME, folder: str = "", data: bytes | None = None) -> Path:
    """A file by itself, as engines' folders have it, or with a record that no longer knows of the change."""
    return store.file(
        json.dumps(table() if document is None else document).encode() if data is None else data, name, folder=folder
    )


def edit(store: Store, old: str, new: str, name: str = NAME, folder: str = "") -> Path:
    """A change by hand."""
    path = store.root / folder / name
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    return path


def tune(store: Store, name: str = NAME, folder: str = "", **changes: Any) -> Path:
    """File and record, as the tuner writes them."""
    path = store.config(table(**changes), name, folder=folder, record=False)
    store.measured(path, triton=folder.removeprefix("triton_").replace("_", ".") or None)
    return path


def take_over(store: Store, document: Mapping[str, Any], name: str = NAME, folder: str = "") -> Path:
    """File and record, as `convert` writes them."""
    return store.config(document, name, folder=folder)


def remove(store: Store, name: str, folder: str = "") -> None:
    """The file, and its record where it has one."""
    path = store.root / folder / name
    path.unlink()
    store.record_of(path).unlink(missing_ok=True)


def rename(store: Store, name: str, to: str, folder: str = "") -> None:
    """The file; its record too, where it has one, and the workload in it."""
    path = store.root / folder / name
    record = store.record_of(path)
    path = path.rename(path.with_name(to))
    if record.exists():
        workload = parse_file_name(to).workload
        assert workload is not None
        document = {**json.loads(record.read_bytes()), "workload": workload.to_json()}
        record.with_name(to).write_bytes(Record.read(document).to_bytes())
        record.unlink()


def move(store: Store, folder: str, to: str) -> None:
    """A tier's file and its record, into another tier."""
    for root in (store.root, store.root / "records"):
        (root / to).mkdir(exist_ok=True)
        (root / folder / NAME).rename(root / to / NAME)
        (root / folder).rmdir()


def fix(store: Store) -> None:
    assert fixer.fix([store.root], Layout.REPO).failures == ()


def indent_record(store: Store, path: Path) -> None:
    """Another form of the very same record."""
    record = store.record_of(path)
    record.write_text(json.dumps(json.loads(record.read_bytes()), indent=1), "utf-8")


def change_record(store: Store, **changes: Any) -> None:
    record = store.record_of(store.root / NAME)
    record.write_bytes(canonical_record({**json.loads(record.read_bytes()), **changes}))


def both(*steps: Callable[[Store], object]) -> Callable[[Store], None]:
    """One after the other."""

    def all_of(store: Store) -> None:
        for step in steps:
            step(store)

    return all_of


# ---------------------------------------------------------------
# The rules, in the order of tools/validate/rules/__init__.py

SPACED = BLOCKS.replace("[128,128]", "[128, 128]")
WRONG_NAMES = [
    # name, what the fix says, the name that follows from it
    (f"{STEM},dtype=bf16.json", "leave ,dtype=bf16 out", NAME),
    (f"{STEM},dtype=float8.json", "use one of ", f"{STEM},dtype=fp8_w8a8.json"),
    (SPACED, "write block_shape=[128,128]", BLOCKS),
    (f"{STEM},block_shape=[128,128].json", "add the dtype that was tuned", BLOCKS),
    (f"{STEM},dtype=fp8_w8a8,per_channel_quant=True.json", "leave the part out", f"{STEM},dtype=fp8_w8a8.json"),
    (NAME.replace("E=8", "E=08"), "without sign, leading zeros or spaces", NAME),
    (f"{STEM},tp=2.json", "remove the part", NAME),
    ("config.json", "rename the file to the grammar", NAME),
]


def named(name: str, to: str, says: str, layout: Layout) -> Case:
    has_record = layout is Layout.REPO
    return Case(
        "file-name", lambda s: s.config(name=name, record=has_record), says, lambda s: rename(s, name, to), layout
    )


def in_vllm(rule: str, spoil: Callable[[Store], object], says: str, do: Callable[[Store], object]) -> Case:
    return Case(rule, spoil, says, do, Layout.VLLM)


def in_sglang(rule: str, spoil: Callable[[Store], object], says: str, do: Callable[[Store], object]) -> Case:
    return Case(rule, spoil, says, do, Layout.SGLANG)


def broken(old: str, new: str, says: str) -> Case:
    """A slip of the hand, which is taken back."""
    return Case(
        "strict-json",
        both(tune, lambda s: edit(s, old, new)),
        says,
        lambda s: edit(s, new, old),
    )


def holes(batch_sizes: list[int], says: str) -> Case:
    return Case("coverage", lambda s: take_over(s, table(batch_sizes)), says, tune)


def record_says(says: str, do: Callable[[Store], object] = tune, **changes: Any) -> Case:
    return Case("record", both(tune, lambda s: change_record(s, **changes)), says, do)


def spoilt_rows(store: Store) -> None:
    """A row that is slower than without the file."""
    path = tune(store)
    rows = json.loads(store.record_of(path).read_bytes())["rows"]
    slow = {**rows["64"]["latency_us"], "median": 1050.0}
    change_record(store, rows={**rows, "64": {**rows["64"], "latency_us": slow}})


CASES = [
    *(named(name, to, says, Layout.VLLM) for name, says, to in WRONG_NAMES),
    named(f"{STEM},dtype=bf16.json", NAME, "; rename its record too, and correct the workload in it", Layout.REPO),
    in_vllm("file-name", lambda s: write(s, name=DOWN), "remove the file", lambda s: remove(s, DOWN)),
    Case("canonical-record", lambda s: indent_record(s, tune(s)), "run with --fix", fix),
    Case(
        "device",
        lambda s: tune(s, "E=8,N=1024,device_name=NVIDIA_H100_80GB_HBM.json"),
        f"did you mean {H100}",
        lambda s: rename(s, "E=8,N=1024,device_name=NVIDIA_H100_80GB_HBM.json", NAME),
    ),
    Case(
        "device",
        lambda s: take_over(s, table(), MI300.replace("MI300X", "MI300X_OAM")),
        "rename it to device_name=AMD_Instinct_MI300X",
        lambda s: rename(s, MI300.replace("MI300X", "MI300X_OAM"), MI300),
    ),
    in_vllm(
        "device",
        lambda s: write(s, name="E=8,N=1024,device_name=NVIDIA_H200_NVL.json"),
        "rename it to device_name=NVIDIA_H200",
        lambda s: rename(s, "E=8,N=1024,device_name=NVIDIA_H200_NVL.json", "E=8,N=1024,device_name=NVIDIA_H200.json"),
    ),
    *(
        Case(
            "one-spelling",
            both(lambda s: s.config(name=BLOCKS), lambda s: s.config(name=SPACED)),
            f"keep one, named {BLOCKS!r}, and remove the other",
            lambda s: remove(s, SPACED),
            layout,
        )
        for layout in (Layout.REPO, Layout.VLLM)
    ),
    in_sglang(
        "version-folder",
        lambda s: write(s, folder="triton_3_6"),
        "name the folder by the three numbers of the Triton release",
        lambda s: (s.root / "triton_3_6").rename(s.root / VERSION),
    ),
    Case(
        "version-folder",
        lambda s: tune(s, folder=version_folder(reference_triton())),
        "move its files up into configs/, and their records up into records/",
        lambda s: move(s, version_folder(reference_triton()), ""),
    ),
    Case(
        "version-folder",
        both(lambda s: tune(s, folder=VERSION), lambda s: move(s, VERSION, "triton_3_99_0")),
        "move its files to the folder of the Triton that they were tuned with",
        lambda s: move(s, "triton_3_99_0", VERSION),
    ),
    broken('"num_stages": 3\n', '"num_stages": 3,\n', "remove the comma"),
    broken('"num_stages": 3\n', '"num_stages": NaN\n', "write a finite number"),
    broken('"num_warps": 4,\n', '"num_warps": 4\n', "write what is missing there"),
    broken('"num_warps"', "num_warps", "write the key in double quotes"),
    broken('    "1": {', '\ufeff    "1": {', "write the key in double quotes"),
    Case(
        "strict-json",
        both(tune, lambda s: write(s, data=b"\xef\xbb\xbf" + canonical_config(table()))),
        "save it without one",
        lambda s: write(s, data=canonical_config(table())),
    ),
    Case(
        "strict-json",
        both(tune, lambda s: write(s, data=b"")),
        "restore the file or remove it",
        lambda s: remove(s, NAME),
    ),
    in_vllm("strict-json", lambda s: write(s, []), "write {batch size: launch config}", lambda s: write(s)),
    in_vllm(
        "strict-json",
        lambda s: (s.root / NAME).mkdir(),
        "remove it",
        lambda s: (s.root / NAME).rmdir(),
    ),
    in_vllm(
        "strict-json",
        lambda s: (s.root / NAME).symlink_to("nothing"),
        "replace it by a file",
        lambda s: (remove(s, NAME), write(s)),
    ),
    in_sglang(
        "triton-version",
        lambda s: write(s, {"triton_version": "3.6.0", **table()}, folder=VERSION),
        "remove the key",
        lambda s: write(s, folder=VERSION),
    ),
    in_vllm(
        "schema",
        lambda s: write(s, table(num_warps=None)),
        "write num_warps 4 there, which changes nothing",
        lambda s: write(s, table(num_warps=4)),
    ),
    in_vllm(
        "schema",
        lambda s: write(s, table(BLOCK_SIZE_M=None)),
        "write each row as schema/README.md has it",
        lambda s: write(s, table(BLOCK_SIZE_M=16)),
    ),
    Case(
        "schema",
        lambda s: take_over(s, {**table(), "note": entry()}),
        "and no other key at the top",
        lambda s: take_over(s, table()),
    ),
    Case(
        "ascending-keys",
        lambda s: (write(s, dict(reversed(table().items()))), s.measured(s.root / NAME)),
        "sort the batch sizes",
        fix,
    ),
    holes([m for m in BATCH_SIZES if m > 1], "tune the missing batch sizes"),
    holes([m for m in BATCH_SIZES if m < 4096], "tune the missing batch sizes"),
    holes([m for m in BATCH_SIZES if not 4 < m < 64], "tune batch sizes between 4 and 64"),
    Case("values", lambda s: take_over(s, table(num_stages=9)), "tune these rows again", tune),
    Case(
        "values",
        lambda s: take_over(s, table(num_ctas=1), MI300),
        "remove the key: the launch would raise on it; then tune it, or take it over again",
        lambda s: take_over(s, table(), MI300),
    ),
    in_vllm("values", lambda s: write(s, table(USE_TMA=True)), "remove the key", write),
    Case(
        "values",
        lambda s: take_over(s, table(kpack=2), MI355),
        "write kpack 1, which is what runs; then tune it, or take it over again",
        lambda s: take_over(s, table(kpack=1), MI355),
    ),
    Case(
        "block-shape",
        lambda s: take_over(s, table(BLOCK_SIZE_K=256), BLOCKS),
        "tune these rows again with a BLOCK_SIZE_K that divides 128",
        lambda s: tune(s, BLOCKS, BLOCK_SIZE_K=128),
    ),
    Case(
        "shared-memory",
        lambda s: take_over(s, table(BLOCK_SIZE_M=128, BLOCK_SIZE_N=128, BLOCK_SIZE_K=128, num_stages=4)),
        "take fewer stages or a smaller tile: tune these rows again on this device",
        lambda s: tune(s, BLOCK_SIZE_M=128, BLOCK_SIZE_N=128, BLOCK_SIZE_K=128, num_stages=2),
    ),
    Case("down-twin", lambda s: tune(s, DOWN), "or remove this file, its record too", lambda s: remove(s, DOWN)),
    Case("down-twin", lambda s: tune(s, DOWN), "add it", tune),
    Case(
        "down-twin",
        both(tune, lambda s: take_over(s, table([*BATCH_SIZES, 8192]), DOWN)),
        "tune both files for the same batch sizes",
        both(tune, lambda s: tune(s, DOWN)),
    ),
    Case(
        "down-twin",
        both(tune, lambda s: tune(s, DOWN, BLOCK_SIZE_M=64)),
        "tune the down file with the up file's BLOCK_SIZE_M",
        lambda s: tune(s, DOWN),
    ),
    Case("record", lambda s: s.config(record=False), "tune it, which writes file and record", tune),
    Case(
        "record",
        lambda s: s.config(record=False),
        "move the file out of configs/ and take it over with `nox -s convert`",
        lambda s: ((s.root / NAME).unlink(), take_over(s, table())),
    ),
    Case(
        "record",
        both(tune, lambda s: edit(s, '"num_stages": 3', '"num_stages": 4')),
        "restore the file as it was recorded",
        lambda s: edit(s, '"num_stages": 4', '"num_stages": 3'),
    ),
    Case("record", both(tune, lambda s: edit(s, '"num_stages": 3', '"num_stages": 4')), "or tune it again", tune),
    Case(
        "record",
        both(lambda s: take_over(s, table()), lambda s: edit(s, '"num_stages": 3', '"num_stages": 4')),
        "or remove it and its record and take it over again",
        both(lambda s: remove(s, NAME), lambda s: take_over(s, table())),
    ),
    Case(
        "record",
        both(tune, lambda s: write(s, data=canonical_config({m: r for m, r in table().items() if m != "64"}))),
        "restore the file as it was recorded, or tune it again with the batch sizes that it should have",
        lambda s: write(s, data=canonical_config(table())),
    ),
    record_says(
        "restore this file's own, or tune it again",
        workload=parse_file_name(MI300).workload.to_json(),  # type: ignore[union-attr]
    ),
    record_says("see schema/record.schema.json; the tuner writes valid records", date="today"),
    Case("record", spoilt_rows, "tune it again", tune),
    Case(
        "verified",
        both(tune, lambda s: change_record(s, verified={**signed({})["verified"]})),
        "set verified to null",
        lambda s: change_record(s, verified=None),
    ),
    Case(
        "orphan-record",
        both(tune, lambda s: (s.root / NAME).rename(s.root / f"E=16,{NAME.partition(',')[2]}")),
        "move that file back",
        lambda s: (s.root / f"E=16,{NAME.partition(',')[2]}").rename(s.root / NAME),
    ),
    Case(
        "orphan-record",
        both(tune, lambda s: (s.root / NAME).unlink()),
        "remove the record",
        lambda s: s.record_of(s.root / NAME).unlink(),
    ),
    Case(
        "canonical-bytes",
        both(tune, lambda s: (s.root / NAME).write_bytes((s.root / NAME).read_bytes().replace(b"\n", b"\r\n"))),
        "run with --fix",
        fix,
    ),
    Case(
        "canonical-bytes",
        lambda s: (write(s), s.measured(s.root / NAME)),
        "run with --fix",
        fix,
    ),
    Case(
        "foreign-file",
        lambda s: (s.root / NAME).symlink_to("/dev/null"),
        "remove the link",
        lambda s: (s.root / NAME).unlink(),
    ),
    Case("foreign-file", lambda s: write(s, name="run.py"), "or remove it", lambda s: remove(s, "run.py")),
    Case(
        "foreign-file",
        lambda s: write(s, name=f"{STEM},backend=flydsl.json"),
        "remove it: that kernel doesn't look here",
        lambda s: remove(s, f"{STEM},backend=flydsl.json"),
    ),
    in_vllm(
        "skipped-file",
        lambda s: write(s, folder="deeper"),
        "move it into the flat folder",
        lambda s: (s.root / "deeper" / NAME).rename(s.root / NAME),
    ),
    in_sglang(
        "skipped-file",
        lambda s: (write(s, table(num_stages=2), f"{STEM},dtype=fp8_w8a8.json", VERSION), write(s)),
        "move it into a folder triton_X_Y_Z/",
        lambda s: (s.root / NAME).rename(s.root / VERSION / NAME),
    ),
    in_vllm(
        "skipped-file",
        lambda s: write(s, name=f"{NAME}.bak"),
        "rename it to E=…,N=…,device_name=….json",
        lambda s: (s.root / f"{NAME}.bak").rename(s.root / NAME),
    ),
    Case(
        "same-as-default",
        both(tune, lambda s: tune(s, folder=VERSION)),
        "remove it and its record",
        lambda s: remove(s, NAME, VERSION),
    ),
    Case(
        "hidden-down",
        both(tune, lambda s: tune(s, DOWN), lambda s: tune(s, folder=VERSION, num_stages=4)),
        "tune it with --separate-down under the Triton that it is for, or",
        both(
            lambda s: tune(s, folder=VERSION, num_stages=4), lambda s: tune(s, DOWN, VERSION, num_stages=4, num_warps=8)
        ),
    ),
    Case(
        "hidden-down",
        both(tune, lambda s: tune(s, DOWN), lambda s: tune(s, folder=VERSION, num_stages=4)),
        "or remove it, its record too",
        lambda s: remove(s, NAME, VERSION),
    ),
    Case(
        "copied-file",
        both(lambda s: take_over(s, table()), lambda s: take_over(s, table(), NAME.replace("E=8", "E=16"))),
        "or remove the one that is a copy, its record too",
        lambda s: remove(s, NAME.replace("E=8", "E=16")),
    ),
    Case(
        "copied-file",
        both(lambda s: take_over(s, table()), lambda s: take_over(s, table(), NAME.replace("E=8", "E=16"))),
        "tune both, since measured files may agree",
        both(tune, lambda s: tune(s, NAME.replace("E=8", "E=16"))),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.rule}: {case.says[:40]}")
def test_done_to_the_letter_it_ends_the_finding_and_brings_no_other(store: Store, case: Case) -> None:
    store.root.mkdir(exist_ok=True)
    case.spoil(store)
    before = store.findings(layout=case.layout)
    mine = of_rule(before, case.rule)
    assert mine, "the store is not spoilt"
    assert all(case.says in finding.fix for finding in mine)
    case.do(store)
    after = store.findings(layout=case.layout)
    assert of_rule(after, case.rule) == []
    assert set(after) <= set(before)


def of_rule(findings: list[Finding], rule: str) -> list[Finding]:
    """But infos, of which nothing needs to be mended."""
    return [finding for finding in findings if finding.rule == rule and finding.severity is not Severity.INFO]


# ---------------------------------------------------------------
# Those that need more than a store


def test_readable_folder() -> None:
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name))
        store.root.chmod(0o755)
        closed = store.config(folder="legacy_configs").parent
        closed.chmod(0)
        with without_roots_rights():
            (finding,) = of_rule(store.findings(), "readable-folder")
        assert finding.fix == "make it readable"
        closed.chmod(0o755)
        with without_roots_rights():
            assert store.findings() == []


def test_other_kernel(store: Store) -> None:
    """An info: there is nothing to mend, and a way not to be told."""
    write(store)
    write(store, name="NVIDIA_H200_SHRINK.json")
    (finding,) = store.findings(layout=Layout.VLLM)
    assert "name the tuned files alone (E=*.json), and it isn't listed" in finding.fix
    assert store.findings(layout=Layout.VLLM, paths=store.root.glob("E=*.json")) == []


@pytest.mark.parametrize("fault", ["sort them", "keep one", "see schema/devices.schema.json"])
def test_registry(store: Store, fault: str) -> None:
    def device(name: str, **changes: Any) -> dict[str, Any]:
        return {"name": name, "vendor": "nvidia", "arch": "sm_90", "family": "H100", "aliases": [], **changes}

    sound = [device("NVIDIA_A"), device("NVIDIA_B")]
    wrong = {
        "sort them": sound[::-1],
        "keep one": [sound[0], device("NVIDIA_B", aliases=["NVIDIA_A"])],
        "see schema/devices.schema.json": [sound[0], {"name": "NVIDIA_B"}],
    }

    def registry(devices: list[dict[str, Any]]) -> None:
        write(store, {"schema_version": 1, "devices": devices}, "devices.json", "registry")

    registry(sound)
    before = store.findings()
    assert of_rule(before, "registry") == []
    registry(wrong[fault])
    findings = of_rule(store.findings(), "registry")
    assert findings
    assert all(fault in finding.fix for finding in findings)
    registry(sound)
    assert store.findings() == before


def test_every_rule_has_its_fixes_tried() -> None:
    tried = {case.rule for case in CASES} | {"readable-folder", "other-kernel", "registry"}
    assert {rule.name for rule in RULES} <= tried
