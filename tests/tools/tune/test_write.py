"""Where a tuned file goes, what is refused before anything is measured, and that a file is whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

import fused_moe_configs
from kernels.launch_config import LaunchConfig
from tests.tools.tune.decided import (
    COUNTS,
    ENTRY,
    ENVIRONMENT,
    HEURISTICS,
    NAME,
    RUN,
    put_file,
    record_of,
    row,
    with_down,
)
from tools.errors import UserError
from tools.launch.heuristic_version import MeasuredHeuristics
from tools.launch.kernel_hash import kernel_sha256
from tools.store import schemas
from tools.store.files import canonical_entries, canonical_record
from tools.store.record import EngineChecked, HeuristicVersion, Record, ShapeOfModels, VerifiedWith
from tools.store.workload import Shape, Workload
from tools.tune import write
from tools.tune.protocol import Subject
from tools.tune.report import TuneSummary
from tools.tune.request import DEFAULT_BATCH_SIZES, TuneRequest, parse
from tools.tune.search import Measurements
from tools.tune.tuner import RowResult, TuneResult
from tools.tune.write import (
    Existing,
    MeasuredRun,
    Origin,
    OutputError,
    Place,
    deliver,
    find_destination,
    place_of,
    served_today,
    write_pair,
)

DOWN = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3_down.json"
ENTRIES = dict.fromkeys(DEFAULT_BATCH_SIZES, LaunchConfig(16, 64, 128, 1, 4, 4))

Find = Callable[..., tuple[Path, Path | None]]


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configs/."""
    monkeypatch.setattr(write, "CONFIGS", tmp_path / "configs")
    return tmp_path / "configs"


@pytest.fixture
def find(subject: Subject, configs: Path) -> Find:
    """(where the file goes, what an engine would read today) for these flags."""

    def find(*flags: str, output: Path | None = None, triton: str = "3.8.0") -> tuple[Path, Path | None]:
        to = () if output is None else ("--output", str(output))
        what = () if "--replay" in flags else ("--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2")
        request = parse([*what, *flags, *to])
        place, existing = find_destination(request, subject, Origin(triton, RUN.kernel_sha256))
        return place.path, existing.place.path if existing else None

    return find


Put = Callable[..., Path]


@pytest.fixture
def put(subject: Subject) -> Put:
    """A tuned file; rows: those that its record holds, None: it has no record; changes: of the record."""

    def put(folder: Path, name: str = NAME, rows: tuple[int, ...] | None = None, **changes: Any) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(canonical_entries(ENTRIES))
        if rows is not None:
            record = folder / "records" / name
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_bytes(record_of(subject, rows, **changes).to_bytes())
        return path

    return put


def test_a_whole_file_goes_into_configs(find: Find, configs: Path) -> None:
    assert find() == (configs / NAME, None)


def test_another_triton_has_a_folder_of_its_own_and_starts_from_the_default_file(
    put: Put, find: Find, configs: Path
) -> None:
    default = put(configs)
    assert find(triton="3.6.0") == (configs / "triton_3_6_0" / NAME, default)


def test_a_version_folder_can_be_named_itself(find: Find, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "triton_3_6_0"
    assert find(output=folder, triton="3.6.0") == (folder / NAME, None)


@pytest.mark.parametrize("triton", ["3.8.0", "3.6.0"])
def test_the_references_own_folder_is_refused_since_no_look_up_reads_it(
    find: Find, tmp_path: Path, triton: str
) -> None:
    with pytest.raises(UserError, match=r"found .*/triton_3_8_0\. Fix: name the folder above it\.$"):
        find(output=tmp_path / "triton_3_8_0", triton=triton)
    find(output=tmp_path, triton=triton)


def test_the_folder_of_another_triton_is_refused(find: Find, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"--output: expected a folder that holds tiers, .*\(3\.8\.0\), found .*/triton_3_6_0\. Fix"
    ):
        find(output=tmp_path / "triton_3_6_0")
    with pytest.raises(
        UserError, match=r"--output: expected triton_3_7_0/, .*\(3\.7\.0\), found .*/triton_3_6_0\. Fix"
    ):
        find(output=tmp_path / "triton_3_6_0", triton="3.7.0")


@pytest.mark.parametrize(
    "name",
    [
        "legacy_configs",
        "records",
        "registry",
        "records/foo",
        "new",
        "triton_3_8_0/sub",
        "legacy_configs/sub",
        "../up/triton_3_8_0/x",
    ],
)
def test_what_holds_no_tiers_is_refused(name: str, find: Find, configs: Path) -> None:
    with pytest.raises(UserError, match="--output: expected a folder that holds tiers, found "):
        find(output=configs / name)


def test_a_file_is_no_folder(find: Find, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match=r"--output: expected a folder that holds tiers, found .*/out"):
        find(output=tmp_path / "out")


def test_a_broken_file_in_the_chain_is_refused(put: Put, find: Find, configs: Path) -> None:
    put(configs / "legacy_configs").write_text("{")
    with pytest.raises(OutputError, match="expected a tuned file to start from"):
        find()


# ---------------------------------------------------------------
# Some rows only


def test_rows_of_a_measured_file_are_replaced_where_it_stands(put: Put, find: Find, configs: Path) -> None:
    path = put(configs, rows=DEFAULT_BATCH_SIZES)
    assert find("--num-tokens", "1", "64") == (path, path)


def test_rows_alone_make_no_file_of_configs(put: Put, find: Find, configs: Path) -> None:
    put(configs / "legacy_configs")
    with pytest.raises(UserError, match=r"--num-tokens: expected an existing .* Fix: tune all .* outside configs/"):
        find("--num-tokens", "1", "64")


@pytest.mark.parametrize("spelling", ["configs/../configs", "link", "link/triton_3_6_0"])
def test_configs_is_configs_however_it_is_spelled(
    spelling: str, put: Put, find: Find, configs: Path, tmp_path: Path
) -> None:
    put(configs / "legacy_configs")
    (tmp_path / "link").symlink_to(configs)
    with pytest.raises(UserError, match=r"--num-tokens: expected an existing .* outside configs/"):
        find("--num-tokens", "1", output=tmp_path / spelling, triton="3.6.0" if "triton" in spelling else "3.8.0")


@pytest.mark.parametrize(("tier", "triton"), [("legacy_configs", "3.8.0"), (".", "3.6.0"), ("triton_3_8_1", "3.8.0")])
def test_rows_alone_must_not_hide_the_others_of_a_file_in_another_tier(
    tier: str, triton: str, put: Put, find: Find, tmp_path: Path
) -> None:
    put(tmp_path / "out" / tier)
    with pytest.raises(
        UserError, match=r"--num-tokens: .* found .*, which a file of these rows alone would hide\. Fix"
    ):
        find("--num-tokens", "1", "64", output=tmp_path / "out", triton=triton)


def test_a_file_whose_rows_are_all_tuned_again_loses_none(put: Put, find: Find, tmp_path: Path) -> None:
    legacy = put(tmp_path / "legacy_configs")
    legacy.write_bytes(canonical_entries({1: ENTRIES[1]}))
    assert find("--num-tokens", "1", output=tmp_path) == (tmp_path / NAME, legacy)


OLDER = {**HEURISTICS, "vllm": HeuristicVersion("0.1.0", "0" * 64)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"shapes": (ShapeOfModels(Shape(2048, 4)),)},
            "this run's shapes, K=4096, top_k=2, found K=2048, top_k=4",
        ),
        ({"environment": replace(ENVIRONMENT, triton="3.6.0")}, r"Triton, 3\.8\.0, found 3\.6\.0"),
        ({"kernel_sha256": "cd" * 32}, "kernel_sha256, abab.*, found cdcd"),
        ({"heuristics": OLDER}, "measured against this run's heuristic of vLLM, found an older one"),
    ],
    ids=["shapes", "Triton", "kernel", "heuristic"],
)
@pytest.mark.parametrize("name", [NAME, DOWN])
def test_rows_that_stay_are_of_the_same_origin(
    name: str, changes: dict[str, Any], told: str, put: Put, find: Find, tmp_path: Path
) -> None:
    put(tmp_path), put(tmp_path, DOWN)
    put(tmp_path, name, DEFAULT_BATCH_SIZES, **changes)
    with pytest.raises(UserError, match=rf"--num-tokens: expected the rows that stay, .*{told}.* Fix: tune all"):
        find("--num-tokens", "1", "--separate-down", output=tmp_path)
    # Where none stays all may differ.
    assert find("--separate-down", output=tmp_path) == (tmp_path / NAME, tmp_path / NAME)


def test_rows_alone_are_fine_elsewhere(find: Find, tmp_path: Path) -> None:
    assert find("--num-tokens", "1", output=tmp_path / "out") == (tmp_path / "out" / NAME, None)


@pytest.mark.parametrize("rows", [None, (1, 2)], ids=["no record", "a record without them"])
def test_rows_that_stay_need_their_evidence(rows: tuple[int, ...] | None, put: Put, find: Find, configs: Path) -> None:
    """A file of another project has none: its other rows would pass as measured here."""
    put(configs, rows=rows)
    with pytest.raises(UserError, match=r"--num-tokens: expected measured rows in .*, found none for .*96.*would stay"):
        find("--num-tokens", "1", "64")


# ---------------------------------------------------------------
# A file for down beside it


def test_a_down_file_must_not_be_left_behind(put: Put, find: Find, configs: Path) -> None:
    put(configs), put(configs, DOWN)
    with pytest.raises(UserError, match=rf"{DOWN}: expected --separate-down, .* Fix: give --separate-down, or remove"):
        find()
    assert find("--separate-down")[0] == configs / NAME


def test_rows_alone_make_no_down_file(put: Put, find: Find, configs: Path) -> None:
    put(configs, rows=DEFAULT_BATCH_SIZES)
    with pytest.raises(UserError, match=r"--separate-down: expected an existing .*_down\.json to replace rows of"):
        find("--separate-down", "--num-tokens", "1")
    put(configs, DOWN)
    assert find("--separate-down", "--num-tokens", "1")[0] == configs / NAME


def test_a_folder_that_cannot_be_written_is_refused(
    find: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by permissions: whoever is root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(UserError, match="--output: expected a folder that can be written, found"):
        find(output=tmp_path / "not" / "there")


@pytest.mark.parametrize(
    ("blocked", "told"),
    [
        ("records", "a folder that can be written, found .*/records"),
        (f"records/{NAME}/x", "a file or none at .*, found a folder"),
        (f"{NAME}/x", "a file or none at .*, found a folder"),
    ],
)
def test_the_records_place_is_checked_too(blocked: str, told: str, find: Find, tmp_path: Path) -> None:
    path = tmp_path / "out" / blocked
    path.parent.mkdir(parents=True)
    path.write_text("")
    with pytest.raises(UserError, match=f"--output: expected {told}"):
        find(output=tmp_path / "out")


def test_links_in_a_circle_are_no_folder(find: Find, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="--output: expected a folder, found: "):
        find(output=tmp_path / "a")


@pytest.mark.parametrize(("below", "triton"), [(".", "3.8.0"), ("triton_3_6_0", "3.6.0")])
def test_what_is_replayed_is_no_evidence_of_today(below: str, triton: str, find: Find, configs: Path) -> None:
    with pytest.raises(UserError, match=r"--replay: expected --output outside .*/configs, found "):
        find("--replay", "a.jsonl", output=configs / below, triton=triton)


WORKLOAD = Workload(8, 7168, "NVIDIA_H100_80GB_HBM3")
SMALL, LARGE = LaunchConfig(16, 64, 128, 1, 4, 4), LaunchConfig(128, 128, 64, 16, 8, 3)
CONFIG = canonical_entries({1: SMALL, 64: LARGE})


def put_bytes(path: Path, data: bytes = CONFIG) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# ---------------------------------------------------------------
# Where


@pytest.mark.parametrize(
    ("triton", "relative"),
    [
        ("3.8.0", NAME),
        ("3.8.0+git1234", NAME),
        ("3.8.1", f"triton_3_8_1/{NAME}"),
        ("3.6.0", f"triton_3_6_0/{NAME}"),
    ],
)
def test_the_reference_tunes_the_default_tier_and_others_their_own(triton: str, relative: str, tmp_path: Path) -> None:
    place = place_of(tmp_path, WORKLOAD, triton, "3.8.0")
    assert place.path == tmp_path / relative
    assert place.record_path == tmp_path / "records" / relative


def test_the_down_file_stands_beside(tmp_path: Path) -> None:
    down = Place(tmp_path, PurePosixPath("triton_3_6_0", NAME)).down
    assert down.path == tmp_path / "triton_3_6_0" / "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3_down.json"


# ---------------------------------------------------------------
# What stands there


@pytest.mark.parametrize("there", [["", "legacy_configs"], ["", "triton_3_8_1"], ["triton_3_8_1", "legacy_configs"]])
def test_the_first_that_exists_wins(there: list[str], tmp_path: Path) -> None:
    for tier in there:
        put_bytes(tmp_path / tier / NAME)
    existing = served_today(tmp_path, WORKLOAD, "3.8.0")
    assert existing is not None
    assert existing.place.path == tmp_path / there[0] / NAME
    assert existing.entries == {1: SMALL, 64: LARGE}
    assert existing.record is None
    assert existing.rows == {}


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert served_today(tmp_path / "not there", WORKLOAD, "3.8.0") is None


def test_at_another_patch_of_triton_it_is_the_loaders_file_not_the_default_one(tmp_path: Path) -> None:
    """The tuner took the default file for what an engine reads, where the loader takes triton_3_6_0/."""
    put_bytes(tmp_path / NAME, canonical_entries({1: LARGE}))
    put_bytes(tmp_path / "triton_3_6_0" / NAME)
    existing = served_today(tmp_path, WORKLOAD, "3.6.1")
    assert existing is not None
    assert existing.place == Place(tmp_path, PurePosixPath("triton_3_6_0", NAME))
    assert existing.entries == {1: SMALL, 64: LARGE}


ALIAS = replace(WORKLOAD, device_name="NVIDIA_H100_SXM").file_name()
PER_CHANNEL = replace(WORKLOAD, dtype="fp8_w8a8", per_channel_quant=True)


@pytest.fixture
def aliases(tmp_path: Path) -> Path:
    """The registry of a configs folder in which the H100 has a second name."""
    devices = [{"name": "NVIDIA_H100_80GB_HBM3", "aliases": ["NVIDIA_H100_SXM"]}]
    document = {"schema_version": 1, "devices": devices}
    return put_bytes(tmp_path / "registry" / "devices.json", json.dumps(document).encode())


@pytest.mark.usefixtures("aliases")
@pytest.mark.parametrize(
    ("there", "served"),
    [([ALIAS], ALIAS), ([f"legacy_configs/{NAME}", ALIAS], f"legacy_configs/{NAME}"), ([NAME, ALIAS], NAME)],
)
def test_a_file_under_another_name_of_the_device_serves_behind_its_own(
    there: list[str], served: str, tmp_path: Path
) -> None:
    """The tuner knew no aliases."""
    for relative in there:
        put_bytes(tmp_path / relative)
    existing = served_today(tmp_path, WORKLOAD, "3.8.0")
    assert existing is not None
    assert existing.place.relative.as_posix() == served


def test_the_plain_file_serves_per_channel_scales_too(tmp_path: Path) -> None:
    plain = put_bytes(tmp_path / replace(PER_CHANNEL, per_channel_quant=False).file_name())
    existing = served_today(tmp_path, PER_CHANNEL, "3.8.0")
    assert existing is not None
    assert existing.place.path == plain


@pytest.mark.usefixtures("aliases")
@pytest.mark.parametrize("workload", [WORKLOAD, PER_CHANNEL])
@pytest.mark.parametrize("triton", ["3.8.0", "3.8.1+git1234", "3.9.0", "3.6.2"])
def test_it_is_what_the_loaders_own_command_names(
    workload: Workload, triton: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the files are there."""
    monkeypatch.setattr("fused_moe_configs.api.CONFIGS", tmp_path)
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER", raising=False)
    alias, plain = replace(workload, device_name="NVIDIA_H100_SXM"), replace(workload, per_channel_quant=False)
    names = dict.fromkeys(one.file_name() for one in (workload, alias, plain))
    tiers = ("triton_3_8_0", "triton_3_8_2", "triton_3_6_0", ".", "legacy_configs")
    paths = [tmp_path / tier / name for name in names for tier in tiers]
    for path in paths:
        put_bytes(path)
    while True:
        fused_moe_configs.cache_clear()
        said = fused_moe_configs.explain(
            workload.E,
            workload.N,
            workload.dtype,
            device_name=workload.device_name,
            per_channel_quant=workload.per_channel_quant,
            triton_version=triton,
        )
        existing = served_today(tmp_path, workload, triton)
        assert (existing and existing.place.path) == said.winner
        if said.winner is None:
            break
        said.winner.unlink()
    assert len([path for path in paths if not path.exists()]) >= 4


def test_the_users_own_folder_is_none_of_the_tuners_business(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_bytes(tmp_path / "mine" / NAME)
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path / "mine"))
    assert served_today(tmp_path / "configs", WORKLOAD, "3.8.0") is None


def test_a_file_that_is_a_broken_link_is_not_passed_by(tmp_path: Path) -> None:
    (tmp_path / NAME).symlink_to(tmp_path / "gone")
    put_bytes(tmp_path / "legacy_configs" / NAME)
    with pytest.raises(OutputError, match=r"E=8.*: expected a tuned file to start from, found .*\. Fix: mend it"):
        served_today(tmp_path, WORKLOAD, "3.8.0")


def test_a_registry_that_tells_no_aliases_is_named(aliases: Path, tmp_path: Path) -> None:
    aliases.write_bytes(b"{")
    with pytest.raises(OutputError, match=r"registry/devices\.json: not JSON: .*\. Fix: mend it"):
        served_today(tmp_path, WORKLOAD, "3.8.0")


def test_its_record_comes_along(subject: Subject, tmp_path: Path) -> None:
    put_bytes(tmp_path / NAME)
    put_bytes(tmp_path / "records" / NAME, record_of(subject, [1]).to_bytes())
    existing = served_today(tmp_path, WORKLOAD, "3.8.0")
    assert existing is not None
    assert list(existing.rows) == [1]


@pytest.mark.parametrize("record", [b"[]", b"{", b"", b'{"rows": 7}'])
def test_a_broken_record_is_not_taken_for_none(record: bytes, tmp_path: Path) -> None:
    """Its rows of evidence would vanish."""
    put_bytes(tmp_path / NAME)
    put_bytes(tmp_path / "records" / NAME, record)
    with pytest.raises(OutputError, match=r"records/E=8.* expected a record to keep the evidence of, found .*\. Fix"):
        served_today(tmp_path, WORKLOAD, "3.8.0")


def test_a_record_that_is_a_broken_link_is_no_missing_one(tmp_path: Path) -> None:
    put_bytes(tmp_path / NAME)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / NAME).symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="not a regular file"):
        served_today(tmp_path, WORKLOAD, "3.8.0")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{", "found not JSON: .*"),
        (b"{}", "found no launch config in it"),
        (b"[]", "found no launch config in it"),
        (b'{"1": 1, "1": 2}', "found duplicate keys: '1'"),
        (CONFIG.replace(b'"64"', b'"x"'), "found no launch config at 'x'"),
        (CONFIG.replace(b'"num_warps": 8', b'"num_warps": "8"'), "found no launch config at '64'"),
    ],
)
def test_a_file_that_cannot_be_read_cannot_be_improved_on(data: bytes, told: str, tmp_path: Path) -> None:
    put_bytes(tmp_path / NAME, data)
    put_bytes(tmp_path / "legacy_configs" / NAME)
    with pytest.raises(OutputError, match=rf"expected a tuned file to start from, {told}.* Fix: mend it"):
        served_today(tmp_path, WORKLOAD, "3.8.0")


@pytest.mark.parametrize(("num_tokens", "expected"), [(1, SMALL), (32, SMALL), (33, LARGE), (4096, LARGE)])
def test_engines_take_the_nearest_batch_size_and_the_smaller_of_two(
    num_tokens: int, expected: LaunchConfig, tmp_path: Path
) -> None:
    existing = Existing(Place(tmp_path, PurePosixPath(NAME)), {1: SMALL, 63: LARGE}, None)
    assert existing.nearest(num_tokens) == expected


# ---------------------------------------------------------------
# Writing


@pytest.fixture
def record(subject: Subject) -> Record:
    """Of a model whose name isn't ASCII."""
    return record_of(subject, [1], shapes=(ShapeOfModels(Shape(4096, 2), ("µ",)),))


def test_writes_file_and_record_in_canonical_bytes(record: Record, tmp_path: Path) -> None:
    place = Place(tmp_path, PurePosixPath("triton_3_6_0", NAME))
    paths = write_pair(place, CONFIG, record)
    assert paths == (place.path, place.record_path)
    assert place.path.read_bytes() == CONFIG
    assert place.record_path.read_bytes() == canonical_record(record.to_json())
    assert '            "models": [\n                "µ"\n' in place.record_path.read_text("utf-8")


def test_whoever_reads_sees_the_old_file_or_the_new_one(record: Record, tmp_path: Path) -> None:
    """A link to the old bytes keeps them: the new file is another one, put in its place."""
    place = Place(tmp_path, PurePosixPath(NAME))
    write_pair(place, b"old", record)
    kept = tmp_path / "kept"
    os.link(place.path, kept)
    write_pair(place, CONFIG, record)
    assert kept.read_bytes() == b"old"
    assert place.path.read_bytes() == CONFIG
    assert {path.name for path in tmp_path.iterdir()} == {"kept", NAME, "records"}


def test_where_nothing_can_be_written_nothing_is_left(record: Record, tmp_path: Path) -> None:
    put_bytes(tmp_path / "records", b"a file, not a folder")
    place = Place(tmp_path, PurePosixPath(NAME))
    with pytest.raises(OSError, match="a file stands where a folder is needed"):
        write_pair(place, CONFIG, record)
    assert not place.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


@pytest.mark.parametrize("before", [None, b'{"old": 1}\n'])
def test_where_the_file_cannot_be_written_the_record_is_as_it_was(
    before: bytes | None, record: Record, tmp_path: Path
) -> None:
    place = Place(tmp_path, PurePosixPath("triton_3_6_0", NAME))
    put_bytes(tmp_path / "triton_3_6_0", b"a file, not a folder")
    if before is not None:
        put_bytes(place.record_path, before)
    with pytest.raises(OSError, match="a file stands where a folder is needed"):
        write_pair(place, CONFIG, record)
    assert (place.record_path.read_bytes() if place.record_path.exists() else None) == before


# ---------------------------------------------------------------
# What a run leaves

ORIGIN = Origin("3.8.0", kernel_sha256())
BEST = LaunchConfig(16, 64, 128, 8, 4, 3)
LINES: dict[str, Any] = {
    "verified_with": (VerifiedWith("3.6.0", "2026-01-01", 0.5),),
    "engine_checked": (EngineChecked("vllm", "0.33.0", "3.8.0", "2026-01-01", 0.99, 0.9),),
}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def document(path: Path) -> Any:
    return json.loads(path.read_bytes())


def request_of(*flags: str) -> TuneRequest:
    return parse(["--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2", *flags])


def measured(*rows: RowResult) -> MeasuredRun:
    return MeasuredRun(TuneResult(rows, COUNTS, Measurements([0]), False), None, 1.0)


def write_whole(subject: Subject, out: Path, *rows: RowResult, flags: tuple[str, ...] = ()) -> TuneSummary:
    """What a run of all usual batch sizes writes that came to these rows."""
    asked = request_of("--output", str(out), *flags)
    place, existing = find_destination(asked, subject, ORIGIN)
    return deliver(asked, subject, measured(*rows), ENVIRONMENT, place, existing)


def test_a_whole_run_replaces_the_file(subject: Subject, out: Path) -> None:
    put_file(out, {4096: BEST}, with_record=record_of(subject, [4096]))
    write_whole(subject, out, row(1, 10.0, 20.0), row(64, 100.0, 120.0))
    assert list(document(out / NAME)) == ["1", "64"]
    assert list(document(out / "records" / NAME)["rows"]) == ["1", "64"]


def test_two_runs_into_one_folder_lose_no_rows(subject: Subject, out: Path) -> None:
    """Both read what stands there before either writes."""
    asked = [request_of("--output", str(out), "--num-tokens", str(m)) for m in (1, 64)]
    places = [find_destination(one, subject, ORIGIN) for one in asked]
    for one, (place, existing), m in zip(asked, places, (1, 64), strict=True):
        deliver(one, subject, measured(row(m, 10.0, 20.0)), ENVIRONMENT, place, existing)
    assert list(document(out / NAME)) == list(document(out / "records" / NAME)["rows"]) == ["1", "64"]


def test_rows_of_another_origin_that_came_in_between_are_not_relabelled(subject: Subject, out: Path) -> None:
    asked = request_of("--output", str(out), "--num-tokens", "1")
    place, existing = find_destination(asked, subject, ORIGIN)
    put_file(out, {64: BEST}, with_record=record_of(subject, [64]))
    with pytest.raises(UserError, match=r"expected the rows that stay, .* kernel_sha256"):
        deliver(asked, subject, measured(row(1, 10.0, 20.0)), ENVIRONMENT, place, existing)
    assert list(document(out / NAME)) == ["64"]


@pytest.mark.parametrize("stays", [True, False])
def test_rows_whose_heuristics_are_not_known_are_not_relabelled(subject: Subject, out: Path, stays: bool) -> None:
    asked = request_of("--output", str(out), "--num-tokens", "1")
    old = record_of(subject, [64] if stays else [1], heuristics=None, kernel_sha256=kernel_sha256())
    put_file(out, {64 if stays else 1: BEST}, with_record=old)
    place, existing = find_destination(asked, subject, ORIGIN)
    deliver(asked, subject, measured(row(1, 10.0, 20.0)), ENVIRONMENT, place, existing)
    found = document(out / "records" / NAME)
    today = {engine: each.to_json() for engine, each in HEURISTICS.items()}
    assert found.get("heuristics") == (None if stays else today)
    assert schemas.faults("record", found) == []


def test_an_engine_that_is_here_with_another_heuristic_is_said(subject: Subject, out: Path) -> None:
    asked = request_of("--output", str(out))
    place, existing = find_destination(asked, subject, ORIGIN)
    run = replace(measured(row(1, 10.0, 20.0)), heuristics=MeasuredHeuristics(HEURISTICS, ("vLLM 9 is installed",)))
    assert "vLLM 9 is installed" in deliver(asked, subject, run, ENVIRONMENT, place, existing).notes


@pytest.mark.parametrize("same", [True, False])
def test_what_benches_said_of_the_same_bytes_stays(same: bool, subject: Subject, out: Path) -> None:
    entries = {1: ENTRY if same else BEST}
    old = record_of(subject, entries, canonical_entries(entries), **LINES)
    put_file(out, entries, with_record=old)
    write_whole(subject, out, row(1, 10.0, 20.0))
    found = document(out / "records" / NAME)
    kept = {key: [line.to_json() for line in lines] for key, lines in LINES.items()}
    assert {key: found[key] for key in LINES if key in found} == (kept if same else {})
    assert list(found)[-1] == "verified"
    assert found["verified"] is None
    assert schemas.faults("record", found) == []


def test_where_no_row_gains_there_is_none_and_a_stale_one_goes(subject: Subject, out: Path) -> None:
    flags = ("--separate-down",)
    assert len(write_whole(subject, out, with_down(64, 90.0, 120.0), flags=flags).files) == 4
    summary = write_whole(subject, out, with_down(64, 90.0, 120.0, entry=ENTRY), flags=flags)
    assert len(summary.files) == 2
    assert [note.startswith("removed: ") for note in summary.notes] == [True, True]
    assert not (out / DOWN).exists()
    assert not (out / "records" / DOWN).exists()
