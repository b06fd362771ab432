"""A tuned file with what is known of it: a page can be made of every one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fused_moe_configs.index import Ratios, build
from tests.builders import BAD_INPUT, H100, NAME, Store, signed
from tests.tools.site.stores import MIXTRAL, add, checked, hostile, rows
from tools.checkout import CONFIGS
from tools.site.files import TunedFile, files_in, read_files, slug_of, unique_slugs


def read(store: Store) -> dict[str, TunedFile]:
    return {file.path: file for file in read_files(files_in(store.root))}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_the_stores_own_files_are_known_as_the_index_has_them() -> None:
    assert [file.known for file in read_files(files_in(CONFIGS))] == build(CONFIGS)


def test_a_record_of_these_bytes_gives_figures(store: Store) -> None:
    add(store)
    (file,) = read(store).values()
    assert (file.fault, file.known.evidence, file.tier) == ("", "claimed", "default tier")
    assert {engine: ratios.geomean for engine, ratios in file.known.ratios.items()} == {"vllm": 0.93, "sglang": 0.8}


def test_a_pages_rows_are_those_of_its_figures() -> None:
    """A table and what stands above it are of one module."""
    for file in read_files(files_in(CONFIGS)):
        shown = {gain.engine: Ratios(gain.geomean_ratio, gain.worst_ratio) for gain in file.gains if gain.is_uniform}
        assert shown == file.known.ratios


def test_main_s_own_word_is_told_from_a_claim(store: Store) -> None:
    path = add(store)
    record = store.record_of(path)
    record.write_text(json.dumps(signed(json.loads(record.read_text("utf-8")))), "utf-8")
    assert read(store)[MIXTRAL].known.evidence == "verified"


def test_without_a_record_nothing_is_measured(store: Store) -> None:
    store.config(record=False)
    file = read(store)[NAME]
    assert (file.record, file.is_measured, file.gains) == (None, False, ())
    assert file.fault == "It has no record."
    assert len(file.entries) == 18


def test_a_record_of_other_bytes_gives_no_figure(store: Store) -> None:
    path = add(store)
    path.write_bytes(path.read_bytes() + b"\n")
    file = read(store)[MIXTRAL]
    assert (file.record, file.is_measured, file.fault) == (None, False, "Its record speaks of other bytes.")


@pytest.mark.parametrize("content", BAD_INPUT.values(), ids=BAD_INPUT)
def test_a_record_that_is_none_costs_the_figures_alone(store: Store, content: bytes) -> None:
    path = add(store)
    store.record_of(path).write_bytes(content)
    file = read(store)[MIXTRAL]
    assert not file.is_measured
    assert file.fault.startswith("Its record can't be used: ")
    assert len(file.entries) == 18


@pytest.mark.parametrize("content", BAD_INPUT.values(), ids=BAD_INPUT)
def test_a_file_that_is_none_has_a_page_all_the_same(store: Store, content: bytes) -> None:
    store.file(content)
    file = read(store)[NAME]
    assert file.entries == {} or file.fault
    assert not file.is_measured


def test_whatever_lies_there_is_read(tmp_path: Path) -> None:
    store = hostile(tmp_path / "configs")
    assert len(read(store)) == len([*store.root.glob("E=*.json")])


def test_rows_that_may_be_slower_are_told(store: Store) -> None:
    broken = rows()
    broken["64"] |= {"bounded": False, "unbounded": [{"engine": "sglang", "shape": 0, "routing": "skew_0.3"}]}
    add(store, rows=broken)
    assert read(store)[MIXTRAL].unbounded == (64,)


def test_of_each_engine_the_newest_bench_beside_its_own_file_counts(store: Store) -> None:
    lines = [
        checked("sglang", over_shipped=0.7),
        checked("vllm", "2026-11-25", over_shipped=0.9),
        checked("vllm", "2026-11-20", over_shipped=0.8),
        checked("vllm", "2026-11-26"),  # no shipped file was met
    ]
    add(store, engine_checked=lines)
    found = [(line.engine, line.shipped and line.shipped.geomean_ratio) for line in read(store)[MIXTRAL].beside_shipped]
    assert found == [("vllm", 0.9), ("sglang", 0.7)]


# ---------------------------------------------------------------
# Names of pages


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        (f"E=8,N=7168,device_name={H100}.json", "e8-n7168-nvidia_h100_80gb_hbm3"),
        ("triton_3_6_0/E=8,N=1,device_name=X,dtype=fp8_w8a8,block_shape=[128,128].json", None),
        ("E=<img src=x>.json", "e-img-srcx"),
        ("../../etc", "etc"),
        ("E=ä/ö", "e"),
        ("...", "unnamed"),
        ("deepseek-ai/DeepSeek-V3.2", "deepseek-ai-deepseek-v3.2"),
    ],
)
def test_a_slug_needs_no_escapes_and_leads_nowhere_else(text: str, slug: str | None) -> None:
    expected = slug or "triton_3_6_0-e8-n1-x-fp8_w8a8-128-128"
    assert slug_of(text) == expected


def test_no_two_texts_share_a_slug() -> None:
    texts = ["E=1", "E-1", "e=1", "E=1-2", "<>", "[]"]
    slugs = unique_slugs(texts)
    assert len(set(slugs.values())) == len(texts)
