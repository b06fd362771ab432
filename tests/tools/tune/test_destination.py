"""What is refused before anything is measured: folders that can't take the file, rows without what they need."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernels.launch_config import LaunchConfig
from tests.tools.tune.decided import ENVIRONMENT, RUN, record_of
from tools.store.config_file import USUAL_BATCH_SIZES
from tools.store.files import canonical_entries
from tools.tune import destination
from tools.tune.destination import Origin, find_destination
from tools.tune.model import Subject
from tools.tune.output import OutputError
from tools.tune.request import RequestError, parse

NAME = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json"
DOWN = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3_down.json"
ENTRIES = dict.fromkeys(USUAL_BATCH_SIZES, LaunchConfig(16, 64, 128, 1, 4, 4))

Find = Callable[..., tuple[Path, Path | None]]


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configs/."""
    monkeypatch.setattr(destination, "CONFIGS", tmp_path / "configs")
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
            record.write_text(json.dumps(record_of(subject, rows, **changes)), "utf-8")
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
    folder = tmp_path / "out" / "triton_3_8_0"
    assert find(output=folder) == (folder / NAME, None)


def test_the_folder_of_another_triton_is_refused(find: Find, tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"--output: expected triton_3_8_0/, .*\(3\.8\.0\), found .*/triton_3_6_0\. Fix"
    ):
        find(output=tmp_path / "triton_3_6_0")


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
    with pytest.raises(RequestError, match="--output: expected a folder that holds tiers, found "):
        find(output=configs / name)


def test_a_file_is_no_folder(find: Find, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(RequestError, match=r"--output: expected a folder that holds tiers, found .*/out"):
        find(output=tmp_path / "out")


def test_a_broken_file_in_the_chain_is_refused(put: Put, find: Find, configs: Path) -> None:
    put(configs / "legacy_configs").write_text("{")
    with pytest.raises(OutputError, match="expected a tuned file to start from"):
        find()


# ---------------------------------------------------------------
# Some rows only


def test_rows_of_a_measured_file_are_replaced_where_it_stands(put: Put, find: Find, configs: Path) -> None:
    path = put(configs, rows=USUAL_BATCH_SIZES)
    assert find("--num-tokens", "1", "64") == (path, path)


def test_rows_alone_make_no_file_of_configs(put: Put, find: Find, configs: Path) -> None:
    put(configs / "legacy_configs")
    with pytest.raises(RequestError, match=r"--num-tokens: expected an existing .* Fix: tune all .* outside configs/"):
        find("--num-tokens", "1", "64")


@pytest.mark.parametrize("spelling", ["configs/../configs", "link", "link/triton_3_8_0"])
def test_configs_is_configs_however_it_is_spelled(
    spelling: str, put: Put, find: Find, configs: Path, tmp_path: Path
) -> None:
    put(configs / "legacy_configs")
    (tmp_path / "link").symlink_to(configs)
    with pytest.raises(RequestError, match=r"--num-tokens: expected an existing .* outside configs/"):
        find("--num-tokens", "1", output=tmp_path / spelling)


@pytest.mark.parametrize(("tier", "triton"), [("legacy_configs", "3.8.0"), (".", "3.6.0"), ("triton_3_8_0", "3.8.0")])
def test_rows_alone_must_not_hide_the_others_of_a_file_in_another_tier(
    tier: str, triton: str, put: Put, find: Find, tmp_path: Path
) -> None:
    put(tmp_path / "out" / tier)
    with pytest.raises(
        RequestError, match=r"--num-tokens: .* found .*, which a file of these rows alone would hide\. Fix"
    ):
        find("--num-tokens", "1", "64", output=tmp_path / "out", triton=triton)


def test_a_file_whose_rows_are_all_tuned_again_loses_none(put: Put, find: Find, tmp_path: Path) -> None:
    legacy = put(tmp_path / "legacy_configs")
    legacy.write_bytes(canonical_entries({1: ENTRIES[1]}))
    assert find("--num-tokens", "1", output=tmp_path) == (tmp_path / NAME, legacy)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"shapes": [{"K": 2048, "top_k": 4, "models": []}]},
            r"the shapes \(K, top_k\), \[\(4096, 2\)\], found \[\(2048, 4\)\]",
        ),
        ({"environment": {**ENVIRONMENT, "triton": "3.6.0"}}, r"Triton, 3\.8\.0, found 3\.6\.0"),
        ({"kernel_sha256": "cd" * 32}, "kernel_sha256, abab.*, found cdcd"),
    ],
    ids=["shapes", "Triton", "kernel"],
)
@pytest.mark.parametrize("name", [NAME, DOWN])
def test_rows_that_stay_are_of_the_same_origin(
    name: str, changes: dict[str, Any], told: str, put: Put, find: Find, tmp_path: Path
) -> None:
    put(tmp_path), put(tmp_path, DOWN)
    put(tmp_path, name, USUAL_BATCH_SIZES, **changes)
    with pytest.raises(RequestError, match=rf"--num-tokens: expected the rows that stay, .*{told}.* Fix: tune all"):
        find("--num-tokens", "1", "--separate-down", output=tmp_path)
    # Where none stays all may differ.
    assert find("--separate-down", output=tmp_path) == (tmp_path / NAME, tmp_path / NAME)


def test_rows_alone_are_fine_elsewhere(find: Find, tmp_path: Path) -> None:
    assert find("--num-tokens", "1", output=tmp_path / "out") == (tmp_path / "out" / NAME, None)


@pytest.mark.parametrize("rows", [None, (1, 2)], ids=["no record", "a record without them"])
def test_rows_that_stay_need_their_evidence(rows: tuple[int, ...] | None, put: Put, find: Find, configs: Path) -> None:
    """A file of another project has none: its other rows would pass as measured here."""
    put(configs, rows=rows)
    with pytest.raises(
        RequestError, match=r"--num-tokens: expected measured rows in .*, found none for .*96.*would stay"
    ):
        find("--num-tokens", "1", "64")


# ---------------------------------------------------------------
# A file for down beside it


def test_a_down_file_must_not_be_left_behind(put: Put, find: Find, configs: Path) -> None:
    put(configs), put(configs, DOWN)
    with pytest.raises(
        RequestError, match=rf"{DOWN}: expected --separate-down, .* Fix: give --separate-down, or remove"
    ):
        find()
    assert find("--separate-down")[0] == configs / NAME


def test_rows_alone_make_no_down_file(put: Put, find: Find, configs: Path) -> None:
    put(configs, rows=USUAL_BATCH_SIZES)
    with pytest.raises(RequestError, match=r"--separate-down: expected an existing .*_down\.json to replace rows of"):
        find("--separate-down", "--num-tokens", "1")
    put(configs, DOWN)
    assert find("--separate-down", "--num-tokens", "1")[0] == configs / NAME


def test_a_folder_that_cannot_be_written_is_refused(
    find: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by permissions: whoever is root may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(RequestError, match="--output: expected a folder that can be written, found"):
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
    with pytest.raises(RequestError, match=f"--output: expected {told}"):
        find(output=tmp_path / "out")


def test_links_in_a_circle_are_no_folder(find: Find, tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with pytest.raises(RequestError, match="--output: expected a folder, found: "):
        find(output=tmp_path / "a")


@pytest.mark.parametrize("below", [".", "triton_3_8_0"])
def test_what_is_replayed_is_no_evidence_of_today(below: str, find: Find, configs: Path) -> None:
    with pytest.raises(RequestError, match=r"--replay: expected --output outside .*/configs, found "):
        find("--replay", "a.jsonl", output=configs / below)
