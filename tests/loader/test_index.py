"""What is known of each tuned file, from its record, and what the build makes of that."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from fused_moe_configs import ConfigError, index
from fused_moe_configs.gains import BesideShipped
from fused_moe_configs.index import IndexedFile, IndexedShape, Ratios, build, indexed, read, to_bytes, to_json
from tests import builders
from tools.checkout import CONFIGS
from tools.store import schemas
from tools.store.files import read_file
from tools.store.record import as_record

MODELS = ["a/B tp=2", "c/D tp=4 ep=2"]


@pytest.fixture
def store(tmp_path: Path) -> builders.Store:
    return builders.Store(tmp_path / "configs")


def only(store: builders.Store) -> IndexedFile:
    (entry,) = build(store.root)
    return entry


def rows(*ratios: float) -> dict[str, object]:
    """Batch sizes whose time is so many times the heuristic's 200 µs."""
    times = {"incumbent_us": None, "decision": "promote", "baseline_us": builders.times(200.0)}
    return {str(2**place): {"latency_us": builders.times(200.0 * ratio), **times} for place, ratio in enumerate(ratios)}


def test_a_measured_files_line_is_its_records(store):
    path = store.config(record=False)
    shapes = [{"K": 4096, "top_k": 2, "models": MODELS[:1]}, {"K": 8192, "top_k": 8, "models": MODELS}]
    store.measured(path, shapes=shapes, rows=rows(0.8, 1.0, 0.5), date="2026-11-24")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    # (0.8 · 1.0 · 0.5) ** (1/3)
    apart = (IndexedShape(4096, 2, 1, 0, (MODELS[0],), {}), IndexedShape(8192, 8, 1, 0, tuple(MODELS), {}))
    ratios = {"vllm": Ratios(0.7368, 1.0)}
    expected = IndexedFile(path.name, tuple(MODELS), "3.8.0", "2026-11-24", ratios, "claimed", sha256, apart)
    assert only(store) == expected


def of_shape(ratio: float, **sizes: int) -> dict[str, object]:
    return {**sizes, "latency_us": builders.times(200.0 * ratio), "baseline_us": builders.times(200.0)}


def test_each_of_several_shapes_has_its_own_gain_and_the_file_that_of_the_worst_by_row(store):
    small, placed = {"K": 4096, "top_k": 2}, {"K": 8192, "top_k": 9, "ep": 2, "fused_shared_experts": 1}
    two = rows(1.0, 0.8)
    two["1"]["by_shape"] = [of_shape(0.5, **small), of_shape(1.0, **placed)]
    two["2"]["by_shape"] = [of_shape(0.8, **small), of_shape(0.4, **placed)]
    shapes = [{**small, "models": MODELS[:1]}, {**placed, "models": MODELS[1:]}]
    store.measured(store.config(record=False), shapes=shapes, rows=two)
    entry = only(store)
    assert entry.shapes == (
        IndexedShape(4096, 2, 1, 0, (MODELS[0],), {"vllm": Ratios(0.6325, 0.8)}),  # (0.5 · 0.8) ** (1/2)
        IndexedShape(8192, 9, 2, 1, (MODELS[1],), {"vllm": Ratios(0.6325, 1.0)}),  # (1.0 · 0.4) ** (1/2)
    )
    assert entry.ratios == {"vllm": Ratios(0.8944, 1.0)}
    (store.root / "index.json").write_bytes(to_bytes([entry]))
    assert indexed(store.root) == [entry]
    assert [*schemas.faults("index", to_json([entry]))] == []


def test_how_a_file_compares_with_the_one_that_an_engine_ships_goes_along(store):
    shipped = {"sha256": "b" * 64, "worst_ratio": 1.675, "geomean_ratio": 1.21, "best_ratio": 0.996}
    line = {"engine": "sglang", "version": "0.5.23", "triton": "3.8.0", "date": "2026-11-26", "shipped": shipped}
    line |= {"worst_ratio": 1.0, "geomean_ratio": 0.818}
    store.measured(store.config(record=False), date="2026-11-26", engine_checked=[line])
    entry = only(store)
    assert entry.beside_shipped == {"sglang": BesideShipped("b" * 64, 1.21, 1.675)}
    (store.root / "index.json").write_bytes(to_bytes([entry]))
    assert indexed(store.root) == [entry]
    assert [*schemas.faults("index", to_json([entry]))] == []


@pytest.mark.parametrize("broken", [{"geomean": 0}, {"worst": "1"}, {"sha256": 7}, {"best": 0.9}, {"geomean": True}])
def test_a_comparison_that_is_none_is_another_index(store, broken):
    entry = IndexedFile.without_figures(store.config(record=False).name, "0" * 64)
    document = to_json([entry])
    document["files"][0]["beside_shipped"] = {"sglang": {"sha256": "b" * 64, "geomean": 1.0, "worst": 1.0, **broken}}
    (store.root / "index.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="expected the index that the build wrote, found another"):
        indexed(store.root)


def test_a_pipe_named_like_a_tuned_file_is_an_error_and_not_waited_for(store: builders.Store):
    os.mkfifo(store.config().with_name("E=8,N=1,device_name=D.json"))
    with pytest.raises(ConfigError, match="found a directory or a device"):
        build(store.root)


WHOLE = {"vllm": Ratios(0.97, 1.0), "sglang": Ratios(0.9, 1.0)}
OF_TWO = IndexedFile(
    "E=8,N=1,device_name=D.json", (), None, None, WHOLE, "claimed", "0" * 64,
    (
        IndexedShape(4096, 2, 1, 0, ("a/B tp=1",), {"vllm": Ratios(0.8, 0.9)}),
        IndexedShape(2048, 8, 1, 0, ("c/D tp=1",), {"vllm": Ratios(0.95, 0.99)}),
    ),
)  # fmt: skip


def test_a_gain_in_words_is_of_an_engine_and_of_the_shapes_that_are_asked_about():
    assert [OF_TWO.gain(engine) for engine in ("vllm", "sglang")] == ["-3.0 % time", "-10.0 % time"]
    assert OF_TWO.gain("vllm", lambda shape: shape.K == 4096) == "-20.0 % time"
    assert OF_TWO.gain("vllm", lambda shape: True) == "-5.0 % time", "the one that gains least"
    assert OF_TWO.gain("sglang", lambda shape: True) == "-10.0 % time", "of the whole file, where none stands apart"
    assert OF_TWO._replace(ratios={}, shapes=()).gain("vllm") == "not measured"


def test_a_model_has_the_figures_of_its_own_sizes_and_of_others_none():
    assert OF_TWO.ratios_at((4096, 2, 1, 0)) == {"vllm": Ratios(0.8, 0.9), "sglang": Ratios(0.9, 1.0)}
    for others in ((4096, 8, 1, 0), (4096, 2, 2, 0), (4096, 2, 1, 1)):
        assert OF_TWO.ratios_at(others) == {}


def test_the_only_shape_has_the_files_gain(store):
    store.measured(store.config(record=False), shapes=[{"K": 4096, "top_k": 2, "models": MODELS}], rows=rows(0.8, 0.8))
    assert only(store).shapes == (IndexedShape(4096, 2, 1, 0, tuple(MODELS), {"vllm": Ratios(0.8, 0.8)}),)


@pytest.mark.parametrize(
    ("folder", "measured_with", "triton"),
    [("", "3.8.0", "3.8.0"), ("triton_3_6_0", "3.6.0", "3.6.0"), ("legacy_configs", "3.1.0", "3.1.0")],
)
def test_the_tier_says_for_which_triton_it_is_and_a_legacy_files_record(store, folder, measured_with, triton):
    path = store.config(record=False, folder=folder)
    store.measured(path, triton=measured_with)
    assert (only(store).file, only(store).triton) == (f"{folder}/{path.name}".strip("/"), triton)


def test_a_published_file_has_no_figures_and_a_legacy_one_no_known_triton(store):
    store.config(folder="legacy_configs")
    entry = only(store)
    assert (entry.evidence, entry.ratios, entry.triton) == ("published", {}, None)


def test_verified_is_what_mains_own_word_names(store):
    path = store.config(record=False)
    target = store.measured(path)
    record = json.loads(target.read_bytes())
    for signed, evidence in (
        (builders.signed(record), "verified"),
        (builders.signed(record, evidence_sha256="0" * 64), "claimed"),
        ({**builders.signed(record), "date": "2026-11-25"}, "claimed"),  # changed after it was signed
    ):
        target.write_text(json.dumps(signed))
        assert only(store).evidence == evidence
        # The tools say the same of it.
        assert as_record(read_file(target)).is_verified(path.read_bytes()) == (evidence == "verified")


def test_models_that_main_adds_leave_a_file_verified(store):
    target = store.measured(store.config(record=False))
    record = builders.signed(json.loads(target.read_bytes()))
    record["shapes"][0]["models"] = MODELS
    target.write_text(json.dumps(record))
    assert (only(store).evidence, only(store).models) == ("verified", tuple(MODELS))


def test_a_record_of_other_bytes_says_nothing_of_the_figures(store):
    path = store.config(record=False)
    target = store.measured(path)
    target.write_text(json.dumps(builders.signed(json.loads(target.read_bytes()))))
    path.write_bytes(path.read_bytes() + b"\n")
    entry = only(store)
    assert (entry.evidence, entry.ratios, entry.date) == (None, {}, None)


@pytest.mark.parametrize(
    ("file", "is_one"),
    [("registry/devices.json", True), ("records/E=8,N=1,device_name=D.json", True), ("registry/x.json", False),
     ("records/x.json", False), ("E=8,N=1,device_name=D.json", False)],
)  # fmt: skip
def test_a_store_is_known_by_its_devices_or_its_records(tmp_path, file, is_one):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("{}")
    assert index.is_store(tmp_path) is is_one
    assert not index.is_store(tmp_path / ("x" * 300))  # which can't be asked


def test_a_file_without_a_record_is_listed(store):
    path = store.config(record=False)
    assert (only(store).file, only(store).evidence, only(store).models) == (path.name, None, ())


@pytest.mark.parametrize(
    "record",
    [b"", b"[]", b"{}", b'{"shapes": 1}', b'{"shapes": [1]}', bytes(range(256)), b'{"a":' * 50_000,
     *builders.BAD_INPUT.values()],
)  # fmt: skip
def test_a_broken_record_is_named_and_ends_the_build(store, record):
    target = store.record_of(store.config())
    target.write_bytes(record)
    with pytest.raises(ConfigError) as raised:
        build(store.root)
    assert raised.value.path == str(target)


@pytest.mark.parametrize(
    "change",
    [{"rows": {"1": {}}}, {"rows": rows(0.0)}, {"rows": []}, {"shapes": [{"models": None}]}, {"source": None},
     {"rows": {"1": {"latency_us": {"median": 1}, "baseline_us": {"median": 0}}}}, {"environment": 1}],
)  # fmt: skip
def test_a_record_with_other_fields_is_named(store, change):
    path = store.config(record=False)
    target = store.measured(path)
    record = {**json.loads(target.read_bytes()), **change}
    if change == {"source": None}:
        del record["source"]
    target.write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"expected a record as schema/record.schema.json has it.*Fix: "):
        build(store.root)


def test_this_repositorys_index_is_valid_and_read_again_the_same(tmp_path):
    entries = build(CONFIGS)
    assert {entry.file for entry in entries} == {
        path.relative_to(CONFIGS).as_posix()
        for pattern in ("E=*.json", "*_*/E=*.json")
        for path in CONFIGS.glob(pattern)
    }
    assert [*schemas.faults("index", to_json(entries))] == []
    (tmp_path / "index.json").write_bytes(to_bytes(entries))
    assert read(tmp_path / "index.json") == entries


def test_a_folder_with_an_index_is_described_by_it_and_one_without_by_its_records(store):
    store.measured(store.config(record=False))
    (from_records,) = indexed(store.root)
    other = from_records._replace(models=("z/Z tp=1",))
    (store.root / "index.json").write_bytes(to_bytes([other]))
    assert (from_records.evidence, indexed(store.root)) == ("claimed", [other])


def test_a_folder_whose_index_is_gone_is_refused_and_not_taken_for_one_without_evidence(store):
    """As an installed package is, where exports would lay slower files over an engine's own."""
    store.measured(store.config(record=False))
    written = to_bytes(indexed(store.root))
    shutil.rmtree(store.root / "records")
    with pytest.raises(ConfigError, match=r"expected the index that the build wrote, .* found neither\. Fix: undo"):
        indexed(store.root)
    (store.root / "index.json").write_bytes(written)
    assert [entry.evidence for entry in indexed(store.root)] == ["claimed"]


def test_an_index_of_other_files_than_are_there_is_refused(store):
    path = store.config(record=False)
    entries, name = build(store.root), re.escape(path.name)
    (store.root / "index.json").write_bytes(to_bytes([]))
    with pytest.raises(ConfigError, match=f"found 1 that it leaves out, such as {name}. Fix: move what you put"):
        indexed(store.root)
    (store.root / "index.json").write_bytes(to_bytes([*entries, entries[0]._replace(file="E=9.json")]))
    with pytest.raises(ConfigError, match=r"found 1 that are not there, such as 'E=9\.json'\. Fix: undo"):
        indexed(store.root)


def test_a_file_of_other_bytes_than_the_index_speaks_of_is_refused(store):
    """Its figures are not known, nor whether an engine's own is faster."""
    path = store.config(record=False)
    store.measured(path)
    (store.root / "index.json").write_bytes(to_bytes(indexed(store.root)))
    path.write_text(path.read_text("utf-8").replace("\n", "\r\n"), "utf-8", newline="")
    with pytest.raises(ConfigError, match=f"{re.escape(path.name)}: expected the bytes that the package brought"):
        indexed(store.root)


GOOD = json.loads(to_bytes([OF_TWO._replace(shapes=())]))


@pytest.mark.parametrize(
    "document",
    [{}, {**GOOD, "schema_version": 2}, {**GOOD, "files": 1}, {**GOOD, "files": [1]}, {**GOOD, "files": [{}]},
     *({**GOOD, "files": [{**GOOD["files"][0], key: value}]} for key, value in [
         ("file", 1), ("models", "abc"), ("models", [1]), ("sha256", None), ("shapes", 1), ("shapes", [1]),
         *(("ratios", {"vllm": {"geomean": 1, "worst": 1} | of}) for of in (
             {"geomean": "x"}, {"worst": 0}, {"geomean": True}, {"best": 1}, {"worst": 10**400})),
         ("ratios", None), ("ratios", {"vllm": 1}), ("ratios", {"vllm": {"geomean": 1}}),
         ("shapes", [{"shape": {"K": 1, "top_k": 1, "models": []}, "ratios": {"vllm": {"geomean": "x", "worst": 1}}}]),
         ("shapes", [{"shape": {"K": 1, "models": []}, "ratios": {}}]),
         ("date", 2026), ("evidence", []), ("evidence", "nope"), ("models", {"a": 1})]),
     {**GOOD, "files": GOOD["files"] * 2}],
)  # fmt: skip
def test_an_index_that_is_none_is_named_with_a_way_out(tmp_path, document):
    path = tmp_path / "index.json"
    path.write_text(json.dumps(document))
    with pytest.raises(
        ConfigError, match=r"expected the index that the build wrote.*Fix: undo what changed it: "
    ) as raised:
        read(path)
    assert not re.search(r"object is not|dictionary|argument|\btype '", str(raised.value)), "Python's words"


@pytest.mark.parametrize("data", builders.BAD_INPUT.values(), ids=builders.BAD_INPUT.keys())
def test_no_bytes_break_the_reader_of_the_index(tmp_path, data):
    (tmp_path / "index.json").write_bytes(data)
    with pytest.raises(ConfigError):
        index.read(tmp_path / "index.json")
