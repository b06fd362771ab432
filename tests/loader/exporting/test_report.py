"""What an export says that it wrote, for which GPUs and models, and what to set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fused_moe_configs import ConfigError
from fused_moe_configs.exporting import summary, write_export
from fused_moe_configs.index import build

from .conftest import D, name, row

H100 = "NVIDIA_H100_80GB_HBM3"


def said(store, destination, engine="vllm", **options):
    return summary(write_export(store.root, destination, engine, **options))


def index(store, **models):
    """As a build writes it."""
    store.index(*(entry._replace(models=tuple(models.get(entry.file, ()))) for entry in build(store.root)))


def test_without_an_index_a_workload_is_its_sizes_and_type(store, destination):
    store.add(name(N=768), 1)
    store.add(name("dtype=fp8_w8a8", "block_shape=[128,128]", N=24), 1)
    store.add(name("dtype=int8_w8a8", "per_channel_quant=True", N=1024), 1)
    store.add(name("dtype=int8_w8a8", "per_channel_quant=True", N=1024).replace(".json", "_down.json"), 1)
    store.add(name("dtype=int4_w4a16", N=1024), 1)
    assert said(store, destination, "sglang")[:8] == [
        f"5 files written to {destination}",
        "D",
        "    E=8 N=24 fp8_w8a8 [128,128]",
        "    E=8 N=768 bf16",
        "    E=8 N=1024 int4_w4a16",
        "    E=8 N=1024 int8_w8a8 per_channel",
        "    E=8 N=1024 int8_w8a8 per_channel down",
        "SGLang then reads no file of its own: the variable replaces them. Fix: add --overlay auto",
    ]


def test_an_index_names_the_models_and_gpus_with_the_same_files_stand_together(store, destination):
    """The registry calls one GPU NVIDIA_H100_80GB_HBM3 and NVIDIA_H100_OEM."""
    store.add(name(device=H100), 1)
    store.add(name(device=H100, N=7), 1, "legacy_configs")
    store.add(D, 1)
    five = [f"org/{letter} tp=1" for letter in "abcde"]
    index(store, **{name(device=H100): ["org/m tp=2"], f"legacy_configs/{name(device=H100, N=7)}": five})
    assert said(store, destination)[1:-2] == [
        "D",
        "    E=8 N=6 bf16",
        f"{H100}, NVIDIA_H100_OEM",
        "    E=8 N=6 bf16: tuned for org/m tp=2",
        "    E=8 N=7 bf16: tuned for org/a tp=1, org/b tp=1, org/c tp=1, org/d tp=1, 1 more",
    ]


def test_a_siblings_file_says_whose_it_is(store, destination, siblings):
    store.add(name(device="B"), 1)
    lines = said(store, destination, device_name="A", siblings=True)
    assert lines[1:3] == ["A", "    E=8 N=6 bf16, of B, a sibling"]


def test_the_engines_own_files_are_counted(store, destination, tmp_path):
    folder = tmp_path / "overlay" / "triton_3_6_0"
    folder.mkdir(parents=True)
    for n in (6, 7, 8):
        (folder / name(N=n)).write_text(row(7))
    store.add(D, 1)
    lines = said(store, destination, "sglang", overlay=folder.parent)
    assert lines[0] == f"4 files written to {destination}, 3 of them SGLang's own"
    assert not any("--overlay" in line for line in lines)


@pytest.mark.parametrize(
    ("engine", "variable"), [("vllm", "VLLM_TUNED_CONFIG_FOLDER"), ("sglang", "SGLANG_MOE_CONFIG_DIR")]
)
@pytest.mark.parametrize("folder", ["plain", "with spaces", "it's $HOME; `x`", "ünd"])
def test_the_last_line_pasted_into_a_shell_sets_the_variable(store, tmp_path, monkeypatch, engine, variable, folder):
    monkeypatch.chdir(tmp_path)
    store.add(D, 1)
    line = said(store, folder, engine)[-1]
    shell = ["bash", "-c", f'cd /; {line}; printf %s "${variable}"']
    assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout == str(tmp_path / folder)
    if folder == "plain":
        assert line == f"export {variable}={tmp_path}/plain"


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems hold no such name")
@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("folder", [b"latin \xfc", b"it's 100% \\ \xff$HOME", b"two\nlines", b"ends\n"])
def test_nor_does_a_name_that_no_line_of_text_holds_become_another(store, tmp_path, monkeypatch, folder, shell):
    monkeypatch.chdir(tmp_path)
    store.add(D, 1)
    line = said(store, os.fsdecode(folder))[-1]
    assert line.isprintable()
    script = f'{line}; cd "$VLLM_TUNED_CONFIG_FOLDER" && ls'
    assert subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True).stdout == f"{D}\n"
    (Path(os.fsdecode(folder)) / D).write_text("{}")
    assert any("left alone" in note for note in write_export(store.root, os.fsdecode(folder), "vllm").notes)
    assert all(note.isprintable() for note in write_export(store.root, os.fsdecode(folder), "vllm").notes)


def test_nothing_is_set_where_nothing_was_written(store, destination):
    assert said(store, destination) == [f"0 files written to {destination}"]


def test_what_another_hand_holds_is_not_said_to_be_written(store, destination):
    destination.mkdir()
    (destination / D).write_text("mine")
    store.add(D, 1)
    store.add(name(N=7), 1)
    assert said(store, destination)[:-2] == [f"1 file written to {destination}", "D", "    E=8 N=7 bf16"]


@pytest.mark.parametrize("document", [b"{", {"files": 3}, {"files": [{"file": "x"}]}, {}, {"files": [3]}, [1]])
def test_a_broken_index_is_named(store, destination, document):
    store.add(D, 1)
    store.write("index.json", document)
    with pytest.raises(ConfigError) as raised:
        said(store, destination)
    assert raised.value.path == os.fspath(store.root / "index.json")
