"""Where a workload's tuned file lies, what would be read there today, and that file and record are written whole."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

import fused_moe_configs
from kernels.launch_config import LaunchConfig
from tests.builders import Store, table
from tools.store.existing import Existing, ExistingError, Place, hidden_down, place_of, served_today, write_all
from tools.store.files import canonical_entries, canonical_record, write_file
from tools.store.record import Record
from tools.store.workload import Workload

NAME = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json"
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
    with pytest.raises(ExistingError, match=r"E=8.*: expected a tuned file to start from, found .*\. Fix: mend it"):
        served_today(tmp_path, WORKLOAD, "3.8.0")


def test_a_registry_that_tells_no_aliases_is_named(aliases: Path, tmp_path: Path) -> None:
    aliases.write_bytes(b"{")
    with pytest.raises(ExistingError, match=r"registry/devices\.json: not JSON: .*\. Fix: mend it"):
        served_today(tmp_path, WORKLOAD, "3.8.0")


# ---------------------------------------------------------------
# What a file hides


DOWN = NAME.replace(".json", "_down.json")


@pytest.mark.parametrize(
    ("at", "there", "hidden"),
    [
        ("triton_3_6_0", ["", "down of "], "down of "),
        ("triton_3_6_0", ["", "down of ", "down of triton_3_6_0"], None),
        ("triton_3_6_1", ["triton_3_6_0", "down of triton_3_6_0", ""], "down of triton_3_6_0"),
        ("triton_3_6_0", ["triton_3_6_1", "down of triton_3_6_1"], "down of triton_3_6_1"),
        ("triton_3_6_0", ["triton_3_5_0", "down of triton_3_5_0", ""], None),
        ("triton_3_6_0", ["", "legacy_configs", "down of legacy_configs"], None),
        ("triton_3_6_0", ["down of "], None),
        ("", ["legacy_configs", "down of legacy_configs"], "down of legacy_configs"),
        ("", ["triton_3_6_0", "down of triton_3_6_0"], None),
        ("legacy_configs", ["", "down of "], None),
        ("triton_3_8_0", ["", "down of "], None),
    ],
    ids=[
        "the default tier's",
        "not beside one of its own",
        "an older patch's",
        "a newer patch's",
        "not another release's",
        "not one that another file hides already",
        "not one that no look-up reads",
        "the legacy tier's",
        "not a version's behind the default tier",
        "nothing lies behind the legacy tier",
        "no look-up reads the reference's own folder",
    ],
)
def test_a_file_hides_the_down_file_that_a_look_up_would_read_without_it(
    at: str, there: list[str], hidden: str | None, tmp_path: Path
) -> None:
    def place(of: str) -> Place:
        folder = of.removeprefix("down of ")
        return Place(tmp_path, PurePosixPath(folder, DOWN if of.startswith("down of ") else NAME))

    for each in (at, *there):
        put_bytes(place(each).path)
    assert hidden_down(place(at)) == (None if hidden is None else place(hidden))


def test_what_can_not_be_read_hides_nothing(tmp_path: Path) -> None:
    put_bytes(tmp_path / "triton_3_6_0" / NAME), put_bytes(tmp_path / NAME), put_bytes(tmp_path / DOWN, b"{")
    for name in (NAME, NAME.replace("H100", 300 * "X")):
        assert hidden_down(Place(tmp_path, PurePosixPath("triton_3_6_0", name))) is None


def test_its_record_comes_along(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.measured(store.config(table([1, 64]), name=NAME))
    existing = served_today(tmp_path, WORKLOAD, "3.8.0")
    assert existing is not None
    assert list(existing.rows) == [1, 64]


@pytest.mark.parametrize("record", [b"[]", b"{", b"", b'{"rows": 7}'])
def test_a_broken_record_is_not_taken_for_none(record: bytes, tmp_path: Path) -> None:
    """Its rows of evidence would vanish."""
    put_bytes(tmp_path / NAME)
    put_bytes(tmp_path / "records" / NAME, record)
    with pytest.raises(ExistingError, match=r"records/E=8.* expected a record to keep the evidence of, found .*\. Fix"):
        served_today(tmp_path, WORKLOAD, "3.8.0")


def test_a_record_that_is_a_broken_link_is_no_missing_one(tmp_path: Path) -> None:
    put_bytes(tmp_path / NAME)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / NAME).symlink_to(tmp_path / "gone")
    with pytest.raises(ExistingError, match="not a regular file"):
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
    with pytest.raises(ExistingError, match=rf"expected a tuned file to start from, {told}.* Fix: mend it"):
        served_today(tmp_path, WORKLOAD, "3.8.0")


@pytest.mark.parametrize(("num_tokens", "expected"), [(1, SMALL), (32, SMALL), (33, LARGE), (4096, LARGE)])
def test_engines_take_the_nearest_batch_size_and_the_smaller_of_two(
    num_tokens: int, expected: LaunchConfig, tmp_path: Path
) -> None:
    existing = Existing(Place(tmp_path, PurePosixPath(NAME)), {1: SMALL, 63: LARGE}, None, b"")
    assert existing.nearest(num_tokens) == expected


# ---------------------------------------------------------------
# Writing


def put_record(record: Record, place: Place, config: bytes = CONFIG) -> None:
    write_all([(place.path, config), (place.record_path, record.to_bytes())])


@pytest.fixture
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Of a model whose name isn't ASCII."""
    store = Store(tmp_path_factory.mktemp("other"))
    path = store.measured(store.config(name=NAME), shapes=[{"K": 4096, "top_k": 2, "models": ["µ"]}])
    return Record.read(json.loads(path.read_bytes()))


def test_writes_file_and_record_in_canonical_bytes(record: Record, tmp_path: Path) -> None:
    place = Place(tmp_path, PurePosixPath("triton_3_6_0", NAME))
    put_record(record, place)
    assert place.path.read_bytes() == CONFIG
    assert place.record_path.read_bytes() == canonical_record(record.to_json())
    assert '            "models": [\n                "µ"\n' in place.record_path.read_text("utf-8")


def test_whoever_reads_sees_the_old_file_or_the_new_one(record: Record, tmp_path: Path) -> None:
    """A link to the old bytes keeps them: the new file is another one, put in its place."""
    place = Place(tmp_path, PurePosixPath(NAME))
    put_record(record, place, b"old")
    kept = tmp_path / "kept"
    os.link(place.path, kept)
    put_record(record, place)
    assert kept.read_bytes() == b"old"
    assert place.path.read_bytes() == CONFIG
    assert {path.name for path in tmp_path.iterdir()} == {"kept", NAME, "records"}


def test_where_nothing_can_be_written_nothing_is_left(record: Record, tmp_path: Path) -> None:
    put_bytes(tmp_path / "records", b"a file, not a folder")
    place = Place(tmp_path, PurePosixPath(NAME))
    with pytest.raises(OSError, match="a file stands where a folder is needed"):
        put_record(record, place)
    assert not place.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


def test_where_one_step_fails_those_before_it_are_undone(tmp_path: Path) -> None:
    new, old, gone, blocked = (tmp_path / name for name in ("new", "old", "gone", "blocked/file"))
    for path in (old, gone, tmp_path / "blocked"):
        put_bytes(path, b"before")
    with pytest.raises(OSError, match="a file stands where a folder is needed"):
        write_all([(new, b"after"), (old, b"after"), (gone, None), (blocked, b"after")])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("old", "gone", "blocked"), b"before"
    )


def test_what_can_not_be_undone_either_is_as_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps that stay are the first ones, and the error is that of the step that failed."""
    first, second, third = (put_bytes(tmp_path / name, b"before") for name in ("1", "2", "3"))

    def on_a_disk_that_fills_up(path: Path, data: bytes) -> None:
        if path == third or data == b"before":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_file(path, data)

    monkeypatch.setattr("tools.store.existing.write_file", on_a_disk_that_fills_up)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_all([(first, b"after"), (second, b"after"), (third, b"after")])
    assert raised.value.filename == str(third)
    assert [path.read_bytes() for path in (first, second, third)] == [b"after", b"after", b"before"]
