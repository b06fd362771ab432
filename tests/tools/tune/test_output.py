"""Where a tuned file goes, what stands there already, and that a file is whole or not there."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from kernels.launch_config import LaunchConfig
from tests.tools.tune.decided import record_of
from tools.store.files import canonical_entries, canonical_record
from tools.store.workload import Workload
from tools.tune.model import Subject
from tools.tune.output import Existing, OutputError, Place, chain, find_existing, place_of, write

WORKLOAD = Workload(8, 7168, "NVIDIA_H100_80GB_HBM3")
NAME = WORKLOAD.file_name()
SMALL, LARGE = LaunchConfig(16, 64, 128, 1, 4, 4), LaunchConfig(128, 128, 64, 16, 8, 3)
CONFIG = canonical_entries({1: SMALL, 64: LARGE})


def put(path: Path, data: bytes = CONFIG) -> Path:
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


def test_the_chain_is_the_loaders(tmp_path: Path) -> None:
    tiers = [place.relative.parent.as_posix() for place in chain(tmp_path, WORKLOAD, "3.8.0")]
    assert tiers == ["triton_3_8_0", ".", "legacy_configs"]


# ---------------------------------------------------------------
# What stands there


@pytest.mark.parametrize("there", [["", "legacy_configs"], ["triton_3_8_0", ""], ["legacy_configs"]])
def test_the_first_that_exists_wins(there: list[str], tmp_path: Path) -> None:
    for tier in there:
        put(tmp_path / tier / NAME)
    existing = find_existing(chain(tmp_path, WORKLOAD, "3.8.0"))
    assert existing is not None
    assert existing.place.path == tmp_path / there[0] / NAME
    assert existing.entries == {1: SMALL, 64: LARGE}
    assert existing.rows == existing.record == {}


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert find_existing(chain(tmp_path / "not there", WORKLOAD, "3.8.0")) is None


def test_its_record_comes_along(subject: Subject, tmp_path: Path) -> None:
    put(tmp_path / NAME)
    put(tmp_path / "records" / NAME, canonical_record(record_of(subject, [1])))
    existing = find_existing(chain(tmp_path, WORKLOAD, "3.8.0"))
    assert existing is not None
    assert list(existing.rows) == ["1"]


@pytest.mark.parametrize("record", [b"[]", b"{", b"", b'{"rows": 7}'])
def test_a_broken_record_is_not_taken_for_none(record: bytes, tmp_path: Path) -> None:
    """Its rows of evidence would vanish."""
    put(tmp_path / NAME)
    put(tmp_path / "records" / NAME, record)
    with pytest.raises(OutputError, match=r"records/E=8.* expected a record to keep the evidence of, found .*\. Fix"):
        find_existing(chain(tmp_path, WORKLOAD, "3.8.0"))


def test_a_record_that_is_a_broken_link_is_no_missing_one(tmp_path: Path) -> None:
    put(tmp_path / NAME)
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / NAME).symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="not a regular file"):
        find_existing(chain(tmp_path, WORKLOAD, "3.8.0"))


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
    put(tmp_path / NAME, data)
    put(tmp_path / "legacy_configs" / NAME)
    with pytest.raises(OutputError, match=rf"expected a tuned file to start from, {told}.* Fix: mend it"):
        find_existing(chain(tmp_path, WORKLOAD, "3.8.0"))


@pytest.mark.parametrize(("num_tokens", "expected"), [(1, SMALL), (32, SMALL), (33, LARGE), (4096, LARGE)])
def test_engines_take_the_nearest_batch_size_and_the_smaller_of_two(
    num_tokens: int, expected: LaunchConfig, tmp_path: Path
) -> None:
    existing = Existing(Place(tmp_path, PurePosixPath(NAME)), {1: SMALL, 63: LARGE}, {})
    assert existing.nearest(num_tokens) == expected


# ---------------------------------------------------------------
# Writing


def test_writes_file_and_record_in_canonical_bytes(tmp_path: Path) -> None:
    place = Place(tmp_path, PurePosixPath("triton_3_6_0", NAME))
    paths = write(place, CONFIG, {"schema_version": 1, "µ": [1.5]})
    assert paths == (place.path, place.record_path)
    assert place.path.read_bytes() == CONFIG
    assert place.record_path.read_text("utf-8") == '{\n    "schema_version": 1,\n    "µ": [\n        1.5\n    ]\n}\n'


def test_whoever_reads_sees_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """A link to the old bytes keeps them: the new file is another one, put in its place."""
    place = Place(tmp_path, PurePosixPath(NAME))
    write(place, b"old", {})
    kept = tmp_path / "kept"
    os.link(place.path, kept)
    write(place, CONFIG, {})
    assert kept.read_bytes() == b"old"
    assert place.path.read_bytes() == CONFIG
    assert {path.name for path in tmp_path.iterdir()} == {"kept", NAME, "records"}


def test_where_nothing_can_be_written_nothing_is_left(tmp_path: Path) -> None:
    put(tmp_path / "records", b"a file, not a folder")
    place = Place(tmp_path, PurePosixPath(NAME))
    with pytest.raises(OSError, match="a file stands where a folder is needed"):
        write(place, CONFIG, {})
    assert not place.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["records"]


@pytest.mark.parametrize("before", [None, b'{"old": 1}\n'])
def test_where_the_file_cannot_be_written_the_record_is_as_it_was(before: bytes | None, tmp_path: Path) -> None:
    place = Place(tmp_path, PurePosixPath("triton_3_6_0", NAME))
    put(tmp_path / "triton_3_6_0", b"a file, not a folder")
    if before is not None:
        put(place.record_path, before)
    with pytest.raises(OSError, match="a file stands where a folder is needed"):
        write(place, CONFIG, {"new": 1})
    assert (place.record_path.read_bytes() if place.record_path.exists() else None) == before
