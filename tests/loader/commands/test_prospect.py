"""fused-moe-configs doctor --model: what a model gets from each engine, and what to do next."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

import fused_moe_configs
from fused_moe_configs.cli import main
from fused_moe_configs.gains import BesideShipped
from fused_moe_configs.index import IndexedFile, IndexedShape, Ratios
from fused_moe_configs.lookup import down_of
from tests.loader.conftest import H100, Store

QWEN = "Qwen/Qwen3-30B-A3B"
FILE = f"E=128,N=768,device_name={H100}.json"
HOPPER = [{"name": H100, "aliases": [], "arch": "sm_90"}, {"name": "NVIDIA_H200", "aliases": [], "arch": "sm_90"}]
VERSIONS = {"triton": "3.8.0"}


@pytest.fixture(autouse=True)
def machine(store, monkeypatch):
    """No GPU, no engine, and a registry that knows what Hopper is."""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr("fused_moe_configs.machine.version_of", VERSIONS.get)
    store.write("devices.json", {"schema_version": 1, "devices": HOPPER}, "registry")


@pytest.fixture
def doctor(capsys):
    """Exit code, and what is printed of the engines: the lines behind the machine's facts."""

    def run(*arguments: str, device: str | None = H100):
        fused_moe_configs.cache_clear()
        code = main(["doctor", *arguments, *(["--device-name", device] if device else [])])
        lines = capsys.readouterr().out.splitlines()
        first = next((i for i, line in enumerate(lines) if line.startswith(("vllm 0", "sglang 0"))), len(lines))
        return code, lines[first:]

    return run


def answer(lines, what):
    return [line.strip().partition(": ")[2] for line in lines if line.strip().startswith(f"{what}: ")]


def test_a_file_that_is_here_is_named_with_its_age_and_the_line_that_exports_it(store, doctor):
    path = store.add(FILE)
    ratios = {"vllm": Ratios(0.981, 1.0)}
    store.index(IndexedFile(FILE, (f"{QWEN} tp=1",), "3.8.0", "2026-11-25", ratios, "verified", "0" * 64))
    code, lines = doctor("--model", QWEN, "--tp", "1", "--engine", "vllm")
    assert code == 0
    assert lines == [
        f"vllm 0.33.0: {QWEN} tp=1 on {H100}",
        "  on a rank: E=128, N=768, K=2048, top_k=8, bf16",
        "  backend: TRITON, reads tuned files. On Hopper the FlashInfer kernels go to the end of the list, so Triton "
        "comes first.",
        f"  file: {FILE}",
        f"  here: {path} (1 place looked at). Served by the default tier (Triton 3.8.0).",
        "  how old: of 2026-11-25, for Triton 3.8.0; verified; over no file: -1.9 % time",
        "  next: fused-moe-configs export ./moe-configs --engine vllm && "
        'export VLLM_TUNED_CONFIG_FOLDER="$PWD/moe-configs"',
    ]


@pytest.mark.parametrize(
    ("shapes", "gain"),
    [
        ([(4096, 8, 1, 0.97), (2048, 8, 1, 0.8)], "-20.0 % time"),
        ([(2048, 8, 2, 0.9), (2048, 8, 1, 0.95)], "-5.0 % time"),
        ([(2048, 8, 2, 0.9)], "-3.0 % time (at K=2048, top_k=8, ep=2; not measured at this model's)"),
        ([(4096, 8, 1, 0.97), (7168, 8, 1, 0.8)], "-3.0 % time (at K=4096, top_k=8; K=7168, top_k=8; not measured at "
                                                   "this model's)"),
        ([(2048, 8, 1, None), (4096, 8, 1, None)], "-3.0 % time"),  # of both, which don't stand apart
    ],
)  # fmt: skip
def test_the_gain_is_that_at_the_models_own_shape_or_says_at_which(store, doctor, shapes, gain):
    store.add(FILE)
    ratios = {ratio: {"vllm": Ratios(ratio, 1.0)} if ratio else {} for *_, ratio in shapes}
    at = tuple(IndexedShape(K, top_k, ep, 0, (), ratios[ratio]) for K, top_k, ep, ratio in shapes)
    whole = {"vllm": Ratios(0.97, 1.0), "sglang": Ratios(0.5, 1.0)}
    file = IndexedFile(FILE, (f"{QWEN} tp=1",), "3.8.0", "2026-11-25", whole, "claimed", "0" * 64, at)
    store.index(file)
    _, lines = doctor("--model", QWEN, "--tp", "1", "--engine", "vllm")
    assert answer(lines, "how old") == [f"of 2026-11-25, for Triton 3.8.0; claimed; over no file: {gain}"]


@pytest.mark.parametrize(("ratio", "told"), [(1.21, ["it takes 1.21 of the time of SGLang's own file; an export over "
                                             "SGLang's own files (--overlay) keeps that"]), (1.0, [])])  # fmt: skip
def test_an_engines_own_file_that_is_faster_is_said(store, doctor, ratio, told):
    store.add(FILE)
    beside = {"sglang": BesideShipped("b" * 64, ratio, 1.6)}
    file = IndexedFile(FILE, (f"{QWEN} tp=1",), "3.8.0", "2026-11-25", {}, "claimed", "0" * 64, (), beside)
    store.index(file)
    notes = {engine: doctor("--model", QWEN, "--tp", "1", "--engine", engine)[1] for engine in ("vllm", "sglang")}
    assert [line for line in answer(notes["sglang"], "note") if "own file" in line] == told
    assert not any("own file" in line for line in answer(notes["vllm"], "note"))


def known_as_slower(store):
    store.add(FILE)
    beside = {"sglang": BesideShipped("b" * 64, 1.21, 1.6)}
    file = IndexedFile(FILE, (f"{QWEN} tp=1",), "3.8.0", "2026-11-25", {}, "claimed", "0" * 64, (), beside)
    store.index(file)


def test_where_the_engines_own_file_is_faster_there_is_nothing_to_do_but_to_leave_a_slower_one(
    store, doctor, tmp_path, monkeypatch
):
    known_as_slower(store)
    asked = ("--model", QWEN, "--engine", "sglang")
    assert answer(doctor(*asked)[1], "next") == [
        "nothing: SGLang's own file is faster, and it reads that without an export"
    ]
    assert main(["export", str(tmp_path / "moe"), "--engine", "sglang"]) == 0  # without SGLang's own files
    monkeypatch.setenv("SGLANG_MOE_CONFIG_DIR", str(tmp_path / "moe"))
    assert answer(doctor(*asked)[1], "next")[0].startswith(
        "fused-moe-configs export ./moe-configs --engine sglang --ov"
    )
    (path,) = (tmp_path / "moe").rglob(FILE)
    path.write_text(path.read_text().replace('"num_warps": 1', '"num_warps": 2'))  # SGLang's own, say
    assert answer(doctor(*asked)[1], "next") == ["nothing: SGLang reads the file of SGLANG_MOE_CONFIG_DIR"]


def test_the_next_line_typed_ends_the_matter(store, doctor, tmp_path, monkeypatch):
    """What is exported as it says, into the folder that it says, is found in use; then nothing is left to do.

    For SGLang together with its own files, which its variable would hide.
    """
    own = tmp_path / "site" / "sglang/srt/layers/moe/moe_runner/triton_utils/configs/triton_3_2_0"
    own.mkdir(parents=True)
    (own / FILE.replace("E=", "E=9")).write_bytes(store.add(FILE).read_bytes())
    (tmp_path / "site" / "sglang" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    for engine, variable in (("vllm", "VLLM_TUNED_CONFIG_FOLDER"), ("sglang", "SGLANG_MOE_CONFIG_DIR")):
        (step,) = answer(doctor("--model", QWEN, "--engine", engine)[1], "next")
        export, setting = step.split(" && ")
        name, value = setting.removeprefix("export ").split("=", 1)
        assert (shlex.split(export)[0], name) == ("fused-moe-configs", variable)
        assert main(shlex.split(export)[1:]) == 0
        monkeypatch.setenv(name, shlex.split(value)[0].replace("$PWD", str(tmp_path)))
        code, lines = doctor("--model", QWEN, "--engine", engine)
        assert code == 0
        assert answer(lines, "in use")[0].endswith(FILE)
        assert answer(lines, "next")[0].startswith("nothing: ")


@pytest.mark.parametrize(("engine", "variable", "below"), [("vllm", "VLLM_TUNED_CONFIG_FOLDER", ""),
                         ("sglang", "SGLANG_MOE_CONFIG_DIR", "configs/triton_3_8_0")])  # fmt: skip
@pytest.mark.parametrize("text", ["{", None])
def test_a_broken_file_in_an_engines_folder_is_said_in_its_section_and_the_other_engine_answers(
    store, doctor, tmp_path, monkeypatch, engine, variable, below, text
):
    """The engine would read it, or fail on it: it is not as if nothing were there."""
    store.add(FILE)
    path = tmp_path / "own" / below / FILE
    path.parent.mkdir(parents=True)
    path.write_text(text) if text else path.symlink_to("/dev/null")
    monkeypatch.setenv(variable, str(tmp_path / "own"))
    code, lines = doctor("--model", QWEN)
    assert (code, lines[0][:4]) == (1, "vllm")
    second = next(i for i, line in enumerate(lines) if line.startswith("sglang"))
    sections = {"vllm": lines[:second], "sglang": lines[second:]}
    (broken,) = answer(sections.pop(engine), "broken")
    assert broken.startswith(f"{path}: ")
    assert answer(lines, "next")[engine == "sglang"] == broken.partition(". Fix: ")[2]
    ((other, section),) = sections.items()
    assert answer(section, "next")[0].startswith(f"fused-moe-configs export ./moe-configs --engine {other}")
    assert doctor("--model", QWEN, "--engine", other)[0] == 0


def test_the_file_for_down_that_sglang_reads_is_named(store, doctor, capsys):
    store.add(FILE)
    down = store.add(down_of(FILE))
    assert [answer(doctor("--model", QWEN, "--engine", engine)[1], "down") for engine in ("vllm", "sglang")] == [
        [],
        [f"{down}. The gain over no file is told without it"],
    ]
    assert main(["doctor", "--model", QWEN, "--device-name", H100, "--format", "json"]) == 0
    vllm, sglang = json.loads(capsys.readouterr().out)["engines"]
    assert (vllm["down"], sglang["down"]) == (None, str(down))


def test_a_broken_file_for_down_ends_it_as_a_broken_file_does(store, doctor, capsys):
    store.add(FILE)
    path = store.write(down_of(FILE), b"{")
    assert doctor("--model", QWEN, "--engine", "vllm")[0] == 0
    assert main(["doctor", "--model", QWEN, "--device-name", H100, "--engine", "sglang"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


@pytest.mark.parametrize("folder", ["triton_3_8_0", "triton_3_6_0"])
def test_a_broken_file_for_down_in_sglangs_folder_is_said_too(store, doctor, tmp_path, monkeypatch, folder):
    """It looks for each of the two by itself."""
    store.add(FILE), store.add(down_of(FILE))
    configs = tmp_path / "own" / "configs"
    for name in ("triton_3_8_0", "triton_3_6_0"):
        (configs / name).mkdir(parents=True)
    (configs / "triton_3_8_0" / FILE).write_bytes((store.root / FILE).read_bytes())
    folder = configs / folder
    (folder / down_of(FILE)).write_text("{")
    monkeypatch.setenv("SGLANG_MOE_CONFIG_DIR", str(tmp_path / "own"))
    code, lines = doctor("--model", QWEN, "--engine", "sglang")
    assert code == 1
    assert answer(lines, "broken")[0].startswith(f"{folder / down_of(FILE)}: ")
    (folder / down_of(FILE)).unlink()
    code, lines = doctor("--model", QWEN, "--engine", "sglang")
    assert (code, answer(lines, "down")) == (0, []), "what is in use is SGLang's own"


def test_the_fix_of_a_broken_file_ends_the_matter(store, user: Store, doctor):
    store.add(FILE)
    path = user.write(FILE, b"{")
    asked = ("--model", QWEN, "--engine", "vllm")
    assert answer(doctor(*asked)[1], "next") == ["correct the file, or remove it"]
    path.unlink()
    code, lines = doctor(*asked)
    assert (code, answer(lines, "broken")) == (0, [])


def test_json_names_the_broken_file(store, user: Store, capsys):
    path = user.write(FILE, b"{")
    assert main(["doctor", "--model", QWEN, "--device-name", H100, "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["engines"][0]["fault"].startswith(f"{path}: ")


def test_a_broken_file_that_the_backend_does_not_read_is_no_lack(store, user: Store, doctor):
    model = "Qwen/Qwen3-30B-A3B-FP8"
    user.write(f"E=32,N=768,device_name={H100},dtype=fp8_w8a8,block_shape=[128,128].json", b"{")
    code, lines = doctor("--model", model, "--tp", "4", "--ep", "4", "--engine", "vllm")
    assert (code, len(answer(lines, "broken"))) == (0, 1)
    assert answer(lines, "next") == ["nothing: tuned files change nothing here"]


def test_a_line_that_sets_vllms_variable_comes_with_its_side_effects(store, capsys):
    store.add(FILE)
    for engine, is_said in (("vllm", True), ("sglang", False)):
        assert main(["doctor", "--model", QWEN, "--engine", engine, "--device-name", H100]) == 0
        assert ("note: in vLLM VLLM_TUNED_CONFIG_FOLDER switches more" in capsys.readouterr().out) is is_said


def test_without_a_file_the_next_line_tunes_one(store, doctor):
    code, lines = doctor("--model", QWEN, "--tp", "2")
    assert code == 1
    assert answer(lines, "here") == ["none (2 places looked at). No tier has a file for "
                                     f"{H100} or another name of the same hardware."] * 2  # fmt: skip
    vllm, sglang = answer(lines, "next")
    assert vllm.startswith(f"./nox -s tune -- --model {QWEN} --tp 2 (in a clone")
    assert sglang.startswith(f"./nox -s tune -- --model {QWEN} --tp 2 --engine sglang (in a clone")


def test_what_comes_near_is_said_where_nothing_serves(store, doctor):
    store.add(f"E=128,N=768,device_name={H100},dtype=fp8_w8a8.json")
    code, lines = doctor("--model", QWEN, "--engine", "vllm")
    assert code == 1
    assert answer(lines, "near") == ["E=128,N=768 is here on this device for dtype=fp8_w8a8"]


def test_a_siblings_file_is_exported_with_siblings(store, doctor):
    devices = [HOPPER[0] | {"siblings": ["NVIDIA_H200"]}, HOPPER[1]]
    store.write("devices.json", {"schema_version": 1, "devices": devices}, "registry")
    store.add(FILE.replace(H100, "NVIDIA_H200"))
    _, lines = doctor("--model", QWEN, "--engine", "vllm")
    assert answer(lines, "next")[0].startswith("fused-moe-configs export ./moe-configs --engine vllm --siblings && ")


def test_a_version_files_export_is_for_that_triton(store, doctor, monkeypatch):
    store.add(FILE, tier="triton_3_6_0")
    _, lines = doctor("--model", QWEN, "--engine", "vllm", "--triton-version", "3.6.1")
    assert " --engine vllm --triton-version 3.6.0 && " in answer(lines, "next")[0]


def test_where_the_backend_reads_none_there_is_nothing_to_do(store, doctor):
    code, lines = doctor("--model", "Qwen/Qwen3-30B-A3B-FP8", "--tp", "4", "--ep", "4", "--engine", "vllm")
    assert code == 0
    assert answer(lines, "backend")[0].startswith("FLASHINFER_CUTLASS, reads no tuned files. ")
    assert answer(lines, "next") == ["nothing: tuned files change nothing here"]


def test_a_dtype_without_tuned_files_is_no_lack(store, doctor):
    code, lines = doctor("--model", "openai/gpt-oss-20b", "--engine", "vllm")
    assert code == 0
    assert answer(lines, "file") == ["none, since no tuned file has mxfp4 in its name"]
    assert answer(lines, "next")[0].startswith("nothing: ")


def test_each_engine_has_its_own_experts_and_spelling(store, doctor):
    _, lines = doctor("--model", "deepseek-ai/DeepSeek-V3", "--tp", "8", device="NVIDIA_H200")
    assert answer(lines, "file") == [
        "E=256,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json",
        "E=257,N=256,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128].json",
    ]


def test_what_is_quantised_while_loading_is_looked_up_so(store, doctor):
    _, lines = doctor("--model", QWEN, "--dtype", "fp8_w8a8", "--block-shape", "128,128", "--engine", "vllm")
    assert answer(lines, "file") == [FILE.replace(".json", ",dtype=fp8_w8a8,block_shape=[128,128].json")]
    assert "--dtype fp8_w8a8 --block-shape 128,128" in answer(lines, "next")[0]


def test_without_a_gpu_it_speaks_of_hopper_and_says_what_to_pass(store, doctor):
    code, lines = doctor("--model", QWEN, device=None)
    assert code == 2
    assert lines[0] == f"vllm 0.33.0: {QWEN} tp=1 on Hopper, since no GPU is named"
    assert answer(lines, "backend")[0].startswith("TRITON, reads tuned files.")
    assert answer(lines, "file") == []
    assert all(step.startswith("add --device-name, ") for step in answer(lines, "next"))


def test_a_size_that_one_engine_does_not_take_is_said_beside_the_others_answer(store, doctor, capsys):
    code, lines = doctor("--model", QWEN, "--tp", "4", "--ep", "2")
    assert code == 1
    assert lines[0].startswith(f"sglang 0.5.23: {QWEN} tp=4 ep=2")
    code = main(["doctor", "--model", QWEN, "--tp", "4", "--ep", "2", "--device-name", H100])
    assert "vllm: ep: expected tensor times data parallel size" in capsys.readouterr().out
    assert main(["doctor", "--model", QWEN, "--tp", "7", "--device-name", H100]) == 2
    assert "N: expected a multiple of tp=7, found 768. Fix: choose a divisor" in capsys.readouterr().err


def test_an_engine_that_is_installed_is_asked_alone_by_its_release(store, doctor, monkeypatch):
    monkeypatch.setattr("fused_moe_configs.machine.version_of", {**VERSIONS, "sglang": "0.4.1"}.get)
    _, lines = doctor("--model", QWEN)
    assert lines[0].startswith("sglang 0.5.23: ")
    assert "  note: version: expected sglang 0.5.23 or newer, found '0.4.1'; 0.5.23 answers." in lines
    assert not any(line.startswith("vllm") for line in lines)


def test_json_says_the_same(store, capsys):
    path = store.add(FILE)
    assert main(["doctor", "--model", QWEN, "--device-name", H100, "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["facts"]["GPU"] == H100
    vllm, sglang = document["engines"]
    assert (vllm["engine"], vllm["here"], vllm["in_use"], sglang["engine"]) == ("vllm", str(path), None, "sglang")
    assert vllm["fault"] is None
    assert (vllm["serving"]["E"], vllm["serving"]["reads_tuned_files"]) == (128, True)
    assert vllm["next"].startswith("fused-moe-configs export ")
