"""What docs/measurements/ says of the engines' own files; whatever else lies there is passed by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.builders import BAD_INPUT, H100, Store, devices, table
from tests.tools.site.stores import MIXTRAL, add, survey, surveyed
from tools.checkout import CHECKOUT, CONFIGS
from tools.portfolio.today import read_shipped
from tools.site.files import files_in, read_files
from tools.site.measurements import engines_times, read_surveys, shipped_by


def bench(folder: Path, **changes: Any) -> Path:
    """A bench's document of one batch size, in which vLLM's own file stands beside ours."""
    entry = table()["64"] | {"GROUP_SIZE_M": 32}
    measured = {
        "this file": {"config": entry, "us": {"median": 90.0}},
        "vLLM's heuristic": {"us": {"median": 120.0}},
        "vllm-0.33.0": {"us": {"median": 100.0}},
    }
    document = {
        "environment": {"date": "2026-11-25", "device": "NVIDIA H100 80GB HBM3", "kernel": "vLLM 0.33.0's own"},
        "files": [{"name": MIXTRAL, "rows": [{"num_tokens": 64, "measured": measured}]}],
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"2026-11-25-bench-{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(document | changes), "utf-8")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "configs")
    add(store)
    return store


def test_a_bench_tells_the_shipped_files_time_where_ours_is_the_same_today(store: Store, tmp_path: Path) -> None:
    bench(tmp_path / "m")
    files = read_files(files_in(store.root))
    assert files[0].entries[64]["GROUP_SIZE_M"] == 32
    (times,) = engines_times(tmp_path / "m", files)[MIXTRAL]
    assert (times.label, times.date) == ("vLLM 0.33.0's file", "2026-11-25")
    assert times.times_us == {64: 100.0}
    assert times.geomean_ratio == pytest.approx(0.9)


def test_a_bench_of_an_entry_that_was_re_tuned_tells_nothing(store: Store, tmp_path: Path) -> None:
    bench(tmp_path / "m")
    store.config(table(BLOCK_SIZE_N=128), MIXTRAL)
    assert engines_times(tmp_path / "m", read_files(files_in(store.root))) == {}


def test_a_bench_on_another_gpu_tells_nothing(store: Store, tmp_path: Path) -> None:
    bench(tmp_path / "m", environment={"device": "NVIDIA H200"})
    assert engines_times(tmp_path / "m", read_files(files_in(store.root))) == {}


def test_the_newest_bench_counts(store: Store, tmp_path: Path) -> None:
    bench(tmp_path / "m")
    bench(tmp_path / "m", environment={"date": "2026-11-24", "device": "NVIDIA H100 80GB HBM3"})
    (times,) = engines_times(tmp_path / "m", read_files(files_in(store.root)))[MIXTRAL]
    assert times.date == "2026-11-25"


def test_the_repositorys_own_benches_are_read() -> None:
    found = engines_times(CHECKOUT / "docs" / "measurements", read_files(files_in(CONFIGS)))
    assert found
    assert all(times.times_us and 0.1 < times.geomean_ratio < 2 for of_file in found.values() for times in of_file)


def test_a_survey_tells_what_a_shipped_file_costs(tmp_path: Path) -> None:
    survey(tmp_path, [surveyed(MIXTRAL, [1.0, 1.44], [0.8, 0.8])])
    (found,) = read_surveys(tmp_path)
    assert (found.engine, found.version, found.device_name, found.name) == ("vllm", "0.33.0", H100, MIXTRAL)
    assert (found.date, found.triton, found.failures) == ("2026-11-26", "3.8.0", 0)
    assert found.ratio == pytest.approx(1.2)
    assert found.worst_ratio == 1.44
    assert found.ours_ratio == pytest.approx(0.8)


def test_what_fails_is_worst_and_the_newest_survey_counts(tmp_path: Path) -> None:
    other, failing = (MIXTRAL.replace("7168", N) for N in ("3584", "1792"))
    gone = MIXTRAL.replace("7168", "896")  # an older release shipped it
    survey(tmp_path, [surveyed(MIXTRAL, [1.9]), surveyed(gone, [1.2])], date="2026-01-01")
    survey(tmp_path, [surveyed(MIXTRAL, [0.9]), surveyed(other, [1.5]), surveyed(failing, [None])])
    found = read_surveys(tmp_path)
    assert [each.name for each in found] == [failing, other, MIXTRAL]
    assert [(each.ratio, each.failures) for each in found] == [(None, 1), (pytest.approx(1.5), 0), (0.9, 0)]


@pytest.mark.parametrize("changes", [{"engine": "other"}, {"files": None}, {"files": [{}]}, {"schema_version": 2}])
def test_what_is_no_survey_by_the_schema_is_passed_by(tmp_path: Path, changes: dict[str, Any]) -> None:
    survey(tmp_path, **{"files": [surveyed(MIXTRAL, [1.2])], **changes})
    assert read_surveys(tmp_path) == ()


def test_portfolio_ranks_by_what_was_surveyed_on_the_gpu(tmp_path: Path) -> None:
    other = MIXTRAL.replace("7168", "3584")
    survey(tmp_path, [surveyed(MIXTRAL, [1.2]), surveyed(other, [0.9])])
    survey(tmp_path, [surveyed(MIXTRAL.replace("7168", "896"), [1.2])], date="2026-01-01")
    (shipped,) = found = shipped_by(read_surveys(tmp_path), devices().find(H100))
    assert found == read_shipped(tmp_path, devices().find(H100))
    assert (shipped.engine, shipped.loses) == ("vllm", {MIXTRAL: True, other: False})
    assert shipped_by(read_surveys(tmp_path), devices().find("NVIDIA_H200")) == ()


@pytest.mark.parametrize("content", BAD_INPUT.values(), ids=BAD_INPUT)
def test_what_is_no_document_is_passed_by(store: Store, tmp_path: Path, content: bytes) -> None:
    for kind in ("bench", "survey"):
        (tmp_path / f"2026-11-26-{kind}-x.json").write_bytes(content)
    assert read_surveys(tmp_path) == ()
    assert engines_times(tmp_path, read_files(files_in(store.root))) == {}


def test_without_a_folder_nothing_is_surveyed(tmp_path: Path) -> None:
    assert read_surveys(tmp_path / "none") == ()
