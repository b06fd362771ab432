"""Where a tuned file goes, and what is refused before anything is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from kernels.launch_config import LaunchConfig
from tests import builders
from tests.tools.tune.decided import (
    DOWN,
    ENVIRONMENT,
    HEURISTICS,
    NAME,
    RUN,
    record_of,
)
from tools.errors import UserError
from tools.store.existing import ExistingError, Place, existing_at
from tools.store.files import canonical_entries, sha256
from tools.store.record import HeuristicVersion, Record, ShapeOfModels, Source
from tools.store.workload import Shape
from tools.tune import destination
from tools.tune.destination import (
    Origin,
    check_shapes_kept,
    find_destination,
    look_at_destination,
    with_standing_shapes,
)
from tools.tune.protocol import Subject
from tools.tune.request import DEFAULT_BATCH_SIZES, parse

MODELS = builders.models()
MIXTRAL = ("--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2")
OTHER = ShapeOfModels(Shape(2048, 4))
ENTRIES = dict.fromkeys(DEFAULT_BATCH_SIZES, LaunchConfig(16, 64, 128, 1, 4, 4))

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
        what = () if "--replay" in flags else MIXTRAL
        request = parse([*what, *flags, *to])
        tuned = with_standing_shapes(request, subject, triton, MODELS)
        place, existing = find_destination(request, tuned, Origin(triton, RUN.kernel_sha256))
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
            record.write_bytes(record_of(subject, rows, canonical_entries(ENTRIES), **changes).to_bytes())
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
    with pytest.raises(ExistingError, match="expected a tuned file to start from"):
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
        UserError,
        match=r"expected a file to replace rows of, found none, and .*, which one of these rows alone would hide\. Fix",
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
            {"shapes": (OTHER,)},
            "this run's shapes, .*K=4096, top_k=2, found K=2048, top_k=4",
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
    with pytest.raises(
        UserError, match=rf"expected the rows that stay to be .*{told}.* Fix: tune all batch sizes, or name another"
    ):
        find("--num-tokens", "1", "--separate-down", "--all-shapes", output=tmp_path)
    # Where none stays all may differ.
    assert find("--separate-down", "--all-shapes", output=tmp_path) == (tmp_path / NAME, tmp_path / NAME)


TOLD = (
    r"records/E=8.*: expected --all-shapes{more}, since this file is measured for K=2048, top_k=4 too, and the run is "
    r"for K=4096, top_k=2 alone.*\. Fix: give --all-shapes{more}, or name another --output\.$"
)


class TestTheShapesThatAFileIsMeasuredFor:
    """A run for others would take their evidence away."""

    @pytest.fixture
    def several(self, put: Put, subject: Subject, tmp_path: Path) -> Path:
        """The folder of a file that is measured for a shape that no model here has, too."""
        put(tmp_path, rows=DEFAULT_BATCH_SIZES, shapes=(*subject.shapes, OTHER))
        return tmp_path

    @pytest.mark.parametrize("rows", [(), ("--num-tokens", "1")], ids=["all rows", "a row"])
    def test_a_run_for_fewer_is_refused_and_its_fix_keeps_them(
        self, rows: tuple[str, ...], find: Find, several: Path, subject: Subject
    ) -> None:
        with pytest.raises(UserError, match=TOLD.format(more="")):
            find(*rows, output=several)
        assert find(*rows, "--all-shapes", output=several)[0] == several / NAME
        request = parse([*MIXTRAL, "--all-shapes", "--output", str(several)])
        tuned, refused = look_at_destination(request, subject, MODELS)
        assert (tuned.shapes, refused) == ((*subject.shapes, OTHER), None)
        assert len(tuned.engines) == 2

    def test_the_other_shape_alone_is_kept_too(self, put: Put, find: Find, tmp_path: Path) -> None:
        put(tmp_path, rows=DEFAULT_BATCH_SIZES, shapes=(OTHER,))
        with pytest.raises(UserError, match=TOLD.format(more="")):
            find(output=tmp_path)

    def test_a_replay_is_sent_elsewhere(self, find: Find, several: Path) -> None:
        with pytest.raises(UserError, match=r"K=4096, top_k=2 alone\. Fix: name another --output\.$"):
            find("--replay", "a.jsonl", output=several)

    def test_all_flags_that_are_lacking_are_said_at_once(self, put: Put, find: Find, several: Path) -> None:
        put(several, DOWN)
        with pytest.raises(UserError, match=TOLD.format(more=" and --separate-down")):
            find(output=several)
        assert find("--all-shapes", "--separate-down", output=several)[0] == several / NAME

    def test_another_tritons_file_would_serve_them_all(self, find: Find, several: Path) -> None:
        with pytest.raises(UserError, match=TOLD.format(more="")):
            find(output=several, triton="3.6.0")
        assert find("--all-shapes", output=several, triton="3.6.0")[0] == several / "triton_3_6_0" / NAME

    def test_what_another_run_wrote_meanwhile_is_kept(self, several: Path, subject: Subject) -> None:
        standing = existing_at(Place(several, PurePosixPath(NAME)))
        assert standing is not None
        with pytest.raises(
            UserError, match=r"measured for K=2048, top_k=4 by now\. Fix: run it again with --all-shapes"
        ):
            check_shapes_kept(standing, subject)

    def test_a_file_of_another_project_is_measured_for_none(self, find: Find, several: Path, subject: Subject) -> None:
        config = sha256((several / NAME).read_bytes())
        record = Record(subject.workload, (OTHER,), Source.PUBLISHED, config, "2026-11-27", "somebody")
        (several / "records" / NAME).write_bytes(record.to_bytes())
        assert find(output=several) == (several / NAME, several / NAME)

    def test_a_record_of_other_bytes_says_nothing(self, find: Find, several: Path) -> None:
        (several / NAME).write_bytes(canonical_entries({**ENTRIES, 6144: ENTRIES[1]}))
        assert find(output=several)[0] == several / NAME


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
    with pytest.raises(
        UserError, match=rf"{DOWN}: expected --separate-down, .* Fix: give --separate-down, or name another --output\.$"
    ):
        find()
    assert find("--separate-down")[0] == configs / NAME


def test_down_files_with_descriptors_are_tuned_again_by_who_can_try_descriptors(
    put: Put, find: Find, configs: Path
) -> None:
    """Else rows would go for slower ones, or the whole file."""
    put(configs, rows=DEFAULT_BATCH_SIZES), put(configs, DOWN, DEFAULT_BATCH_SIZES)
    loads = {**ENTRIES, 64: replace(ENTRIES[64], USE_TMA=True), 128: replace(ENTRIES[128], USE_TMA=False)}
    (configs / DOWN).write_bytes(canonical_entries(loads))
    kernel = r"--kernel sglang=PATH/fused_moe_triton_kernels\.py"
    fix = rf"{kernel}, or name another --output\.$"
    told = rf"{DOWN}: expected {kernel}, since entries .* Fix: give {fix}"
    both = rf"{DOWN}: expected --separate-down and {kernel}, .* Fix: give --separate-down and {fix}"
    with pytest.raises(UserError, match=both):
        find()
    for rows in ((), ("--num-tokens", "1", "64"), ("--num-tokens", "64", "6144")):
        with pytest.raises(UserError, match=told):
            find("--separate-down", *rows)
    for flags in (("--num-tokens", "1", "128"), ("--num-tokens", "1", "6144"), ("--kernel", "sglang=kernels.py")):
        assert find("--separate-down", *flags)[0] == configs / NAME


@pytest.mark.parametrize("broken", ["the file", "its record"])
def test_a_broken_down_file_is_not_replaced_as_if_nothing_were_lost(
    put: Put, find: Find, configs: Path, broken: str
) -> None:
    put(configs, rows=DEFAULT_BATCH_SIZES), put(configs, DOWN, DEFAULT_BATCH_SIZES)
    (configs / ("records" if broken == "its record" else "") / DOWN).write_bytes(b"{")
    with pytest.raises(ExistingError, match=rf"{DOWN}: expected a (tuned file|record) to "):
        find("--separate-down", "--kernel", "sglang=kernels.py")


class TestADownFileOfATierBehind:
    """A look-up takes the first file for both projections, whatever a `_down` file behind it gains."""

    def refused(self, find: Find, *flags: str, triton: str = "3.6.0") -> str:
        with pytest.raises(UserError) as refusal:
            find(*flags, triton=triton)
        return str(refusal.value)

    def test_is_not_hidden_by_a_run_that_tries_no_entry_for_down(self, put: Put, find: Find, configs: Path) -> None:
        put(configs), put(configs, DOWN)
        said = self.refused(find)
        assert f"configs/{DOWN}: expected --separate-down, since SGLang would read " in said
        assert said.endswith("Fix: give --separate-down, or name another --output.")
        assert find("--separate-down", triton="3.6.0")[0] == configs / "triton_3_6_0" / NAME

    def test_nor_where_it_uses_descriptors_by_one_that_can_not_try_them(
        self, put: Put, find: Find, configs: Path
    ) -> None:
        put(configs), put(configs, DOWN)
        (configs / DOWN).write_bytes(canonical_entries({m: replace(e, USE_TMA=True) for m, e in ENTRIES.items()}))
        assert "expected --kernel sglang=" in self.refused(find, "--separate-down")
        assert "expected --separate-down and --kernel sglang=" in self.refused(find)
        find("--separate-down", "--kernel", "sglang=kernels.py", triton="3.6.0")

    def test_nor_by_a_file_that_hides_it_already(self, put: Put, find: Find, configs: Path) -> None:
        put(configs), put(configs, DOWN), put(configs / "triton_3_6_0")
        assert "expected --separate-down" in self.refused(find)

    def test_rows_alone_leave_it_hidden_as_the_others_do(self, put: Put, find: Find, tmp_path: Path) -> None:
        out = tmp_path / "out"
        put(out), put(out, DOWN), put(out / "triton_3_6_0")
        assert find("--num-tokens", "1", output=out, triton="3.6.0")[0] == out / "triton_3_6_0" / NAME

    def test_nor_by_a_file_of_another_patch_or_of_the_default_tier(self, put: Put, find: Find, configs: Path) -> None:
        put(configs / "triton_3_6_0"), put(configs / "triton_3_6_0", DOWN)
        assert "triton_3_6_0/" in self.refused(find, triton="3.6.1")
        put(configs / "legacy_configs"), put(configs / "legacy_configs", DOWN)
        assert "legacy_configs/" in self.refused(find, triton="3.8.0")

    def test_a_replay_is_sent_elsewhere_since_it_can_try_nothing(
        self, put: Put, tmp_path: Path, subject: Subject
    ) -> None:
        put(tmp_path), put(tmp_path, DOWN)
        request = parse(["--replay", "a.jsonl", "--output", str(tmp_path)])
        with pytest.raises(UserError, match=r"Fix: name another --output\.$"):
            find_destination(request, subject, Origin("3.6.0", RUN.kernel_sha256))

    def test_is_said_by_a_dry_run(self, put: Put, configs: Path, subject: Subject) -> None:
        put(configs / "legacy_configs"), put(configs / "legacy_configs", DOWN)
        request = parse(MIXTRAL)
        assert "expected --separate-down" in str(look_at_destination(request, subject, MODELS)[1])
        assert look_at_destination(replace(request, separate_down=True), subject, MODELS) == (subject, None)


@pytest.mark.parametrize(
    ("flags", "there", "told"),
    [
        (("--num-tokens", "1"), None, "expected an existing"),
        ((), b"{", "expected a tuned file to start from"),
        (("--output", "configs/triton_3_8_0"), None, "expected a folder that holds tiers"),
        (("--output", "configs/triton_3_6_0"), None, None),
        ((), None, None),
    ],
)
def test_a_dry_run_knows_what_a_run_would_be_refused_for(
    flags: tuple[str, ...],
    there: bytes | None,
    told: str | None,
    subject: Subject,
    configs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    configs.mkdir()
    monkeypatch.chdir(configs.parent)
    if there is not None:
        (configs / NAME).write_bytes(there)
    request = parse([*MIXTRAL, *flags])
    _, refused = look_at_destination(request, subject, MODELS)
    assert (refused is None) if told is None else (told in str(refused))


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
