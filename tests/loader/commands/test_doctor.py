"""fused-moe-configs doctor: what is installed and used here, on every machine."""

from __future__ import annotations

import sys

import pytest

import fused_moe_configs
from fused_moe_configs.cli import main

NAME = "E=8,N=1,device_name=D.json"


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def test_doctor_is_good_on_a_machine_with_nothing(store, capsys, monkeypatch):
    monkeypatch.setattr("fused_moe_configs.machine.version_of", lambda package: None)
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    for package in ("triton", "torch", "vllm", "sglang"):
        assert f"{package}: not installed" in output
    assert "GPU: none" in output
    assert "VLLM_TUNED_CONFIG_FOLDER: not set" in output
    assert "SGLANG_MOE_CONFIG_DIR: not set" in output


def test_doctor_says_what_the_variables_point_at(store, user, capsys, monkeypatch):
    user.add(NAME)
    monkeypatch.setenv("SGLANG_MOE_CONFIG_DIR", str(user.root / "nothing"))
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    assert f"VLLM_TUNED_CONFIG_FOLDER: {user.root}: 1 file *.json" in output
    assert f"SGLANG_MOE_CONFIG_DIR: {user.root / 'nothing'}: cannot be read: No such file or directory" in output


def test_doctor_counts_tuned_files_and_not_their_records(store, capsys):
    for tier in ("", "legacy_configs", "triton_3_8_0", "records", "records/legacy_configs"):
        store.add(NAME, 1, tier)
    assert main(["doctor"]) == 0
    assert ", 3 tuned files in " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["--triton-version", "zzz"], "triton_version"), (["--device-name", "../x"], "device_name"),
     (["--device-name", ""], "device_name"), (["--model", "o/none"], "model"), (["--tp", "2"], "--tp"),
     (["--ep", "2"], "--ep"), (["--engine", "vllm"], "--engine"), (["--dtype", "fp8_w8a8"], "--dtype and scales"),
     (["--format", "json"], "--format json")],
)  # fmt: skip
def test_doctor_refuses_what_names_nothing_or_would_change_nothing(store, arguments, named, capsys):
    assert main(["doctor", "=".join(arguments)]) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {named}: expected")
    assert (output.err.count("\n"), output.err.count("Fix: "), output.out) == (1, 1, "")


def test_a_device_of_unknown_architecture_is_said_to_be_one(store, capsys):
    assert main(["doctor", "--device-name", "D"]) == 0
    assert "vllm 0.33.0: not known what it runs here: no architecture of D is known" in capsys.readouterr().out


def test_doctor_says_which_weights_run_on_a_backend_that_reads_tuned_files(store, capsys, monkeypatch):
    versions = {"vllm": "0.34.1", "sglang": "0.4.0"}
    monkeypatch.setattr("fused_moe_configs.machine.version_of", versions.get)
    assert main(["doctor"]) == 0  # Hopper, where there is no GPU
    output = capsys.readouterr().out
    assert "vllm 0.33.0 on sm_90, fp8_block: TRITON, reads tuned files; with expert parallelism FLASHINFER_" in output
    assert "vllm as of 0.33.0: vllm 0.34.1 is not known here: 0.33.0 answers, the nearest release below it." in output
    assert "sglang: version: expected sglang 0.5.23 or newer, found '0.4.0'. Fix: " in output


def test_doctor_warns_that_vllms_variable_switches_lora_and_mamba_too(store, user, capsys, monkeypatch):
    assert main(["doctor"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("note: "))
    assert "VLLM_TUNED_CONFIG_FOLDER" in line
    assert "LoRA" in line
    assert "Mamba" in line
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER")
    fused_moe_configs.cache_clear()
    assert main(["doctor"]) == 0
    assert "note: " not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("beside", "named"),
    [(["--engine", "sglang"], "--engine"), (["--model", "m", "--tp", "2"], "--model, --tp"),
     (["--device-name", "D"], "--device-name"), (["--per-channel-quant"], "--per-channel-quant")],
)  # fmt: skip
def test_a_log_answers_no_question_of_a_model(store, tmp_path, capsys, beside, named):
    (tmp_path / "log").write_text("")
    assert main(["doctor", "--engine-log", str(tmp_path / "log"), *beside]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"expected no question of a model beside it, found {named}. Fix: leave it out" in line
