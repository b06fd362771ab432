"""What this machine has, without importing torch or triton where that can be avoided."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

import fused_moe_configs
from fused_moe_configs import machine
from tests.loader.conftest import ENTRY


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_look_up_with_device_and_version_imports_neither_torch_nor_triton():
    code = """
import sys, fused_moe_configs
fused_moe_configs.get_moe_configs(8, 3584, device_name="NVIDIA A100-SXM4-80GB")
print([m for m in ("torch", "triton") if m in sys.modules])"""
    assert run(code) == "[]"


def test_a_loaded_triton_tells_its_own_version(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.9.1+git"))
    assert machine.version_of("triton") == "3.9.1+git"


def test_other_distributions_of_triton_count(monkeypatch):
    def version(name):
        if name == "pytorch-triton-rocm":
            return "3.6.0"
        raise metadata.PackageNotFoundError(name)

    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.setattr(metadata, "version", version)
    assert machine.version_of("triton") == "3.6.0"
    assert machine.version_of("vllm") is None


def gpus(name):
    return SimpleNamespace(is_available=lambda: name is not None, get_device_name=lambda: name)


def test_torch_names_the_device(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=gpus("NVIDIA Test GPU")))
    store.add("E=8,N=1,device_name=NVIDIA_Test_GPU.json", 7)
    assert fused_moe_configs.get_config(1, 8, 1, triton_version="3.8.0")["num_warps"] == 7


@pytest.mark.parametrize("torch", [None, SimpleNamespace(), SimpleNamespace(cuda=gpus(None))])
def test_without_torch_or_gpu_the_way_out_is_named(store, monkeypatch, torch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(RuntimeError, match="Fix: pass device_name"):
        fused_moe_configs.get_moe_configs(8, 1, triton_version="3.8.0")


def test_only_tuned_files_are_counted_where_an_engines_variable_points(user):
    user.add("E=8,N=1,device_name=D.json")
    (user.root / ".fused_moe_configs.json").write_text("{}")  # export's own list is no tuned file
    assert machine.engine_folders()["VLLM_TUNED_CONFIG_FOLDER"] == f"{user.root}: 1 file *.json"


def test_sglangs_files_are_counted_in_its_version_folders(store, tmp_path, monkeypatch):
    for folder in ("configs/triton_3_8_0", "configs/triton_3_6_0", "configs", "."):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "E=8,N=1,device_name=D.json").write_text(json.dumps({"1": ENTRY}))
    monkeypatch.setenv("SGLANG_MOE_CONFIG_DIR", str(tmp_path))
    assert machine.engine_folders() == {
        "VLLM_TUNED_CONFIG_FOLDER": "not set",
        "SGLANG_MOE_CONFIG_DIR": f"{tmp_path}: 2 files configs/triton_*/*.json",
    }


@pytest.mark.parametrize("variable", ["VLLM_TUNED_CONFIG_FOLDER", "SGLANG_MOE_CONFIG_DIR"])
def test_broken_files_of_this_kernel_are_counted_and_the_first_says_what_is_wrong(
    store, tmp_path, monkeypatch, variable
):
    folder = tmp_path / "own" / ("configs/triton_3_8_0" if "SGLANG" in variable else "")
    folder.mkdir(parents=True)
    for N, text in ((1, json.dumps({"1": ENTRY})), (2, "{"), (3, "[]")):
        (folder / f"E=8,N={N},device_name=D.json").write_text(text)
    (folder / "headdim=64.json").write_text("[]")  # Mamba's
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    said = machine.engine_folders()[variable]
    assert ": 4 files " in said
    first = folder / "E=8,N=2,device_name=D.json"
    assert f".json, 2 broken, the first: {first}: line 1, column 2: not JSON: " in said
    assert said.count("Fix: ") == 1


def test_a_folder_that_cannot_be_read_is_said(user, monkeypatch):
    def iterdir(path, iterdir=Path.iterdir):
        if path == user.root:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = machine.engine_folders()["VLLM_TUNED_CONFIG_FOLDER"]
    assert found == f"{user.root}: cannot be read: Permission denied"
