"""export: what is asked for, and what is refused or said."""

from __future__ import annotations

import pytest

import fused_moe_configs
from fused_moe_configs import ConfigError, export
from fused_moe_configs.exporting import write_export

from .conftest import D, name, notes, row, tree


def test_a_broken_file_stops_the_export_before_anything_is_written(store, destination):
    store.add(D, 1)
    store.write(name(N=9), b"{")
    with pytest.raises(ConfigError):
        export(destination, "vllm")
    assert not destination.exists()


def test_a_device_that_no_file_serves_is_a_loss_whatever_else_is_written(store, destination, tmp_path):
    (tmp_path / "overlay").mkdir()
    (tmp_path / "overlay" / D).write_text(row(7))
    store.add(D, 1)
    done = write_export(store.root, destination, "vllm", device_name="nosuch", overlay=tmp_path / "overlay")
    assert (done.written, done.is_whole) == ([destination / D], False)


def test_what_another_hand_holds_of_what_was_asked_for_is_a_loss(store, destination):
    store.add(D, 1)
    destination.mkdir()
    (destination / D).write_text("mine")
    store.add(name(N=7), 1)
    done = write_export(store.root, destination, "vllm")
    assert (done.written, done.is_whole) == ([destination / name(N=7)], False)


def test_a_stale_file_that_was_changed_is_no_loss(store, destination):
    path = store.add(D, 1)
    store.add(name(N=7), 1)
    export(destination, "vllm")
    (destination / D).write_text("changed")
    path.unlink()
    done = write_export(store.root, destination, "vllm")
    assert (len(done.notes), done.is_whole) == (1, True)


def test_what_the_engine_never_asks_for_is_no_loss(store, destination):
    store.add(D, 1)
    store.add(name("dtype=int8_w8a8"), 1)
    store.add(D, 1, "triton_3_6_0")
    done = write_export(store.root, destination, "vllm")
    assert (len(done.notes), done.is_whole) == (2, True)


def test_a_device_that_no_file_serves_is_said_and_what_was_exported_stays(store, destination):
    store.add(D, 1)
    export(destination, "vllm")
    assert notes(store, destination, "vllm", device_name="nosuch") == "no shipped file serves nosuch in vllm"
    assert tree(destination) == {D: 1}


def test_a_device_that_is_mistyped_is_asked_about(store, destination):
    store.add(name(device="NVIDIA_L40S"), 1)
    said = notes(store, destination, "vllm", device_name="L40S")
    assert said == "no shipped file serves L40S in vllm: did you mean NVIDIA_L40S?"


@pytest.mark.parametrize("what", ["destination", "overlay"])
@pytest.mark.parametrize(("folder", "found"), [("", "an empty string"), (None, "None"), (3, "3"), ([], r"\[\]")])
def test_a_folder_is_a_path(store, destination, what, folder, found):
    store.add(D, 1)
    if what == "overlay" and folder is None:
        folder, found = False, "False"
    with pytest.raises(ValueError, match=f"{what}: expected a folder, found {found}"):
        export(**{"destination": destination, "engine": "vllm", what: folder})


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "trt"},
        {"engine": []},
        {"triton_version": []},
        {"device_name": []},
        {"triton_version": "x"},
        {"device_name": "../x"},
    ],
)
def test_bad_use_is_named(store, destination, options):
    with pytest.raises(ValueError, match=r"expected .* found"):
        export(destination, **{"engine": "vllm"} | options)


def test_the_api_logs_what_it_left_out(store, destination, caplog):
    store.add(name("dtype=int8_w8a8"), 1)
    fused_moe_configs.export(str(destination), "vllm")
    assert "vllm never asks for dtype=int8_w8a8" in caplog.text
