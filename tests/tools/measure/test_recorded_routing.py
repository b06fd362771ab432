"""Recorded routing: what is read, how a batch is made of it, and what is refused in one line."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kernels.problem import QuantMode
from tools.errors import UserError
from tools.measure.inputs import RowInputs, make_weights
from tools.measure.layer import LayerShape
from tools.measure.panel import RoutingKind
from tools.measure.recorded_routing import MOST_BYTES, RecordedRouting, RoutingSource, read_recorded_routing

np = pytest.importorskip("numpy")

LAYER = LayerShape(16, 32, 64, 4, QuantMode())
SPREAD = LayerShape(4, 32, 64, 4, QuantMode(), ep=4)
SHARED = LayerShape(9, 32, 64, 5, QuantMode(), ep=2, fused_shared_experts=1)


def ids(*shape: int, experts: int = 16, dtype: str = "int32") -> Any:
    """Distinct experts on the last axis."""
    chance = np.random.default_rng(1)
    return chance.random((*shape[:-1], experts)).argsort(-1)[..., : shape[-1]].astype(dtype)


def saved(folder: Path, array: Any) -> Path:
    path = folder / "routing.npy"
    np.save(path, array)
    return path


def read(folder: Path, array: Any) -> RecordedRouting:
    return read_recorded_routing(saved(folder, array))


class TestReading:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "int64", ">i4"])
    def test_one_layers_ids_of_any_integer_type(self, tmp_path: Path, dtype: str) -> None:
        array = ids(50, 4, dtype=dtype)
        found = read(tmp_path, array)
        assert (found.num_tokens, found.top_k, found.layers, found.largest) == (50, 4, (0,), int(array.max()))
        assert found.sha256 == hashlib.sha256((tmp_path / "routing.npy").read_bytes()).hexdigest()

    def test_it_stays_on_the_disk(self, tmp_path: Path) -> None:
        assert isinstance(read(tmp_path, ids(50, 4)).ids.base, np.memmap)

    def test_of_all_layers_as_vllm_returns_them_dense_ones_are_passed_over(self, tmp_path: Path) -> None:
        """vLLM's buffer has a row for every hidden layer, and leaves those without experts at zero."""
        array = ids(50, 5, 4, dtype="uint8")
        array[:, [0, 3]] = 0
        found = read(tmp_path, array)
        assert (found.layers, found.top_k) == ((1, 2, 4), 4)

    def test_beside_a_dense_layer_one_that_routes_is_enough(self, tmp_path: Path) -> None:
        array = ids(50, 2, 4)
        array[:, 0] = 0
        assert read(tmp_path, array).layers == (1,)

    def test_of_a_single_layer_all_tokens_may_choose_alike(self, tmp_path: Path) -> None:
        """Of several, one that does is dense."""
        found = read(tmp_path, np.full((50, 1), 7))
        assert (found.layers, found.top_k, found.largest) == ((0,), 1, 7)

    def test_up_to_1024_experts_a_token(self, tmp_path: Path) -> None:
        assert read(tmp_path, ids(2, 1024, experts=1024)).top_k == 1024

    @pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
    def test_each_version_of_the_format(self, tmp_path: Path, version: tuple[int, int]) -> None:
        array = ids(50, 4)
        with (tmp_path / "routing.npy").open("wb") as file:
            np.lib.format.write_array(file, array, version)
        assert read_recorded_routing(tmp_path / "routing.npy").ids[:, 0].tolist() == array.tolist()

    def test_columns_first_are_read_alike(self, tmp_path: Path) -> None:
        array = ids(50, 3, 4)
        found = read(tmp_path, np.asfortranarray(array))
        assert found.ids.tolist() == array.tolist()


class TestBatches:
    def test_a_batch_is_tokens_of_one_layer_mixed_over_requests(self, tmp_path: Path) -> None:
        array = ids(1000, 3, 4)
        (drawn,) = read(tmp_path, array).sample(1, 64, seed=1)
        matches = [{tuple(token) for token in array[:, layer].tolist()} for layer in range(3)]
        assert any(all(tuple(token) in known for token in drawn.tolist()) for known in matches)
        whole = [token for layer in range(3) for token in array[:, layer].tolist()]
        places = [whole.index(token) % 1000 for token in drawn.tolist()]
        assert max(places) - min(places) > 500

    def test_no_token_comes_twice_while_others_wait(self, tmp_path: Path) -> None:
        array = np.stack([np.arange(10), np.arange(10) + 10], 1)
        found = read(tmp_path, array)
        assert sorted(found.sample(1, 10, 1)[0][:, 0].tolist()) == list(range(10))
        counts = np.bincount(found.sample(1, 25, 1)[0][:, 0])
        assert (counts.min(), counts.max()) == (2, 3)

    def test_a_seed_gives_one_block_and_the_next_another(self, tmp_path: Path) -> None:
        found = read(tmp_path, ids(100, 4))
        first, again, second = (found.sample(2, 8, seed).tolist() for seed in (1, 1, 2))
        assert first == again
        assert first != second
        assert first[0] != first[1]

    @pytest.mark.parametrize("layer", [LAYER, SPREAD, SHARED])
    def test_a_row_is_dealt_from_it(self, tmp_path: Path, layer: LayerShape) -> None:
        array = ids(100, 4)
        source = RoutingSource(RoutingKind.RECORDED, read(tmp_path, array))
        source.check(layer)
        inputs = RowInputs(layer, make_weights(layer, torch.device("cpu")), 12, 3, source, seed=1)
        known = {tuple(token) for token in array.tolist()}
        for chosen, local in zip(inputs.draws.chosen, inputs.topk_ids, strict=True):
            assert {tuple(token[:4]) for token in chosen.tolist()} <= known
            assert (int(local.min()) == -1) is (layer.ep > 1)
            if layer.fused_shared_experts:
                assert set(chosen[:, -1].tolist()) == {16}
                assert set(local[:, -1].tolist()) == {8}
        before = [local.tolist() for local in inputs.topk_ids]
        inputs.deal(source, seed=2)
        assert [local.tolist() for local in inputs.topk_ids] != before


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    padded = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(padded).to_bytes(2, "little") + padded


def pickled() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([[{}, 1]], dtype=object), allow_pickle=True)
    return stream.getvalue()


def whole(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


HUGE = header(f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({1 << 40}, 8), }}")
TWICE = ids(50, 3, 4)
TWICE[17, 2, 1] = TWICE[17, 2, 3]
BAD = {
    "negative": (whole(ids(9, 4) - 1), "expected ids of the whole layer's experts from 0 on, found -1"),
    "empty": (whole(np.zeros((0, 4), "int32")), r"expected at least one token, found an empty array \[0, 4\]"),
    "no experts": (whole(np.zeros((4, 0), "int32")), r"expected at least one token, found an empty array \[4, 0\]"),
    "huge": (HUGE, rf"expected at most {MOST_BYTES >> 20} MiB, found 33554432"),
    "pickled": (pickled(), "expected integers, found pickled objects, which are never loaded"),
    "floats": (whole(np.zeros((9, 4))), "expected integers, found float64"),
    "booleans": (whole(np.zeros((9, 4), "bool")), "expected integers, found bool"),
    "fields": (whole(np.zeros((9, 4), [("a", "i4")])), "expected integers, found "),
    "one dimension": (whole(np.arange(9)), r"expected \[tokens, top_k\] or .*, found 1 dimensions"),
    "four dimensions": (whole(np.zeros((2, 2, 2, 2), "int32")), "found 4 dimensions"),
    "a scalar": (whole(np.int32(4)), "found 0 dimensions"),
    "too many a token": (whole(np.zeros((2, 1025), "int32")), "expected at most 1024 experts a token, found 1025"),
    "not .npy": (b"PK\x03\x04 an archive", "expected a .npy file, found other bytes at its start"),
    "nothing in it": (b"", "expected a .npy file, found other bytes"),
    "a bare pickle": (pickle.dumps([[1, 2]]), "expected a .npy file, found other bytes"),
    "cut in its header": (whole(ids(9, 4))[:40], "expected a .npy header, found: "),
    "cut in its values": (whole(ids(9, 4))[:-1], r"expected 272 bytes, found 271: it was cut"),
    "a foreign version": (header("{}", b"\x09\x00"), r"expected a .npy header, found: version 9\.0"),
    "a header of nonsense": (header("{'descr': __import__('os')}"), "expected a .npy header, found: "),
    "a type of nonsense": (
        header("{'descr': ('<i4',), 'fortran_order': False, 'shape': (9, 4), }"),
        "expected a .npy header, found: ",
    ),
    "a size of nonsense": (
        header("{'descr': '<i4', 'fortran_order': False, 'shape': (True, 2), }"),
        "expected a .npy header, found: ",
    ),
    "a size below zero": (header("{'descr': '<i4', 'fortran_order': False, 'shape': (-1, 4), }"), "routing.npy: "),
    "an expert twice": (whole(TWICE), "token 17, layer 2: expected different experts, found one twice"),
    "an expert twice in the only layer": (whole(TWICE[:, 2]), "token 17: expected different experts"),
    "an expert twice in one of two layers": (whole(TWICE[:, 1:]), "token 17, layer 1: expected different experts"),
    "no layer that routes": (whole(np.zeros((9, 3, 4), "int32")), "expected a layer whose tokens choose"),
}


class TestWhatIsRefused:
    @pytest.mark.parametrize("kind", BAD)
    def test_what_holds_no_routing_is_one_line_with_a_way_out(self, tmp_path: Path, kind: str) -> None:
        data, told = BAD[kind]
        path = tmp_path / "routing.npy"
        path.write_bytes(data)
        with pytest.raises(UserError, match=told) as refused:
            read_recorded_routing(path)
        assert str(refused.value).startswith("--routing ")
        assert str(refused.value).isprintable()
        assert str(refused.value).count("Fix:") == 1

    @pytest.mark.parametrize(
        ("kind", "told"),
        [
            ("missing", r"expected a \.npy file, found none\."),
            ("folder", r"expected a file\."),
            ("pipe", r"expected a file\."),
        ],
    )
    def test_so_is_what_is_no_file(self, tmp_path: Path, kind: str, told: str) -> None:
        path = tmp_path / "routing.npy"
        if kind == "folder":
            path.mkdir()
        if kind == "pipe":
            os.mkfifo(path)
        with pytest.raises(UserError, match=rf"routing\.npy: {told} Fix: name one"):
            read_recorded_routing(path)

    @pytest.mark.parametrize(
        ("top_k", "experts", "layer", "told"),
        [
            (3, 16, LAYER, "expected 4 experts a token, found 3"),
            (5, 16, SHARED, r"expected 4 experts a token \(top_k 5 less .*\), found 5.*without the shared expert's"),
            (4, 17, LAYER, "expected ids of the layer's 16 experts, 0 to 15, found 16"),
            (4, 17, SPREAD, "expected ids of the layer's 16 experts, 0 to 15, found 16"),
            (4, 17, SHARED, "expected ids of the layer's 16 experts, 0 to 15, found 16"),
        ],
    )
    def test_a_recording_of_another_layer_is_too(
        self, tmp_path: Path, top_k: int, experts: int, layer: LayerShape, told: str
    ) -> None:
        source = RoutingSource(RoutingKind.RECORDED, read(tmp_path, ids(500, top_k, experts=experts)))
        with pytest.raises(UserError, match=told):
            source.check(layer)


def test_a_drawn_kind_fits_every_layer_and_a_recording_has_its_own_kind() -> None:
    RoutingSource().check(LAYER)
    with pytest.raises(ValueError, match="expected a recording with the kind recorded alone"):
        RoutingSource(RoutingKind.RECORDED)


def test_reports_name_the_recording_by_its_hash(tmp_path: Path) -> None:
    recorded = read(tmp_path, ids(9, 4))
    assert RoutingSource(RoutingKind.RECORDED, recorded).title == f"recorded: routing.npy, sha256 {recorded.sha256}"
    assert RoutingSource(RoutingKind.SKEW_03).title == "skew_0.3"


def test_where_numpy_is_missing_the_fix_names_the_python_that_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nox's own environment, which isn't the one that a person's pip installs into."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    monkeypatch.setattr(sys, "executable", "/a b/.nox/gpu-environment/bin/python")
    with pytest.raises(UserError, match=r"Fix: '/a b/\.nox/gpu-environment/bin/python' -m pip install numpy\."):
        read_recorded_routing(tmp_path / "ids.npy")
