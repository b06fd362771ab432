"""fused-moe-configs list: a line a file, filters, and what may be meant where nothing matches."""

from __future__ import annotations

import json

import pytest

from fused_moe_configs.cli import main
from fused_moe_configs.index import IndexedFile, IndexedShape, Ratios
from tests.loader.conftest import H100
from tools.store import schemas

MIXTRAL, QWEN = "mistralai/Mixtral-8x7B-v0.1 tp=2", "Qwen/Qwen3-30B-A3B tp=1"
FILES = [
    IndexedFile(
        f"E=8,N=7168,device_name={H100}.json", (MIXTRAL,), "3.8.0", "2026-11-24",
        {"vllm": Ratios(0.93, 1.0), "sglang": Ratios(0.8, 0.9)}, "claimed", "a" * 64,
    ),
    IndexedFile(
        "triton_3_6_0/E=128,N=768,device_name=NVIDIA_H200,dtype=fp8_w8a8.json",
        ("a/A tp=1", "b/B tp=1", "c/C tp=1", "d/D tp=1", QWEN), "3.6.0", "2026-11-25",
        {"vllm": Ratios(1.004, 1.1)}, "verified", "b" * 64,
    ),
    IndexedFile("legacy_configs/E=8,N=1,device_name=D.json", (), None, "2026-01-01", {}, "published", "c" * 64),
    IndexedFile("E=8,N=2,device_name=D_down.json", (), "3.8.0", None, {}, None, "d" * 64),
]  # fmt: skip


@pytest.fixture
def listed(store, capsys):
    """What the command prints, in a folder whose index has these files: (exit code, lines, lines on stderr)."""
    store.index(*FILES)

    def run(*arguments: str):
        code = main(["list", *arguments])
        output = capsys.readouterr()
        return code, output.out.splitlines(), output.err.splitlines()

    return run


def test_a_line_a_file_under_a_heading(listed):
    code, lines, errors = listed()
    assert (code, errors) == (0, [])
    assert [line.split() for line in lines] == [
        ["GPU", "workload", "Triton", "over", "no", "file:", "vLLM", "SGLang", "since", "evidence", "models"],
        ["D", "E=8,N=1", "older", *["not", "measured"] * 2, "2026-01-01", "published", "none", "known"],
        ["D", "E=8,N=2", "(down)", "3.8.0", *["not", "measured"] * 2, "unknown", "none", "none", "known"],
        [H100, "E=8,N=7168", "3.8.0", "-7.0", "%", "time", "-20.0", "%", "time", "2026-11-24", "claimed",
         *MIXTRAL.split()],
        ["NVIDIA_H200", "E=128,N=768,dtype=fp8_w8a8", "3.6.0", "+0.4", "%", "time", "not", "measured", "2026-11-25",
         *["verified", "a/A", "tp=1,", "b/B", "tp=1,", "c/C", "tp=1", "and", "2", "more"]],
    ]  # fmt: skip


def test_lines_are_in_order_of_gpu_workload_and_triton_with_numbers_as_numbers(store, capsys):
    files = [
        "triton_3_6_0/E=8,N=1792,device_name=A.json", "triton_3_10_0/E=8,N=1792,device_name=A.json",
        "E=8,N=14336,device_name=A.json", "E=16,N=1,device_name=A.json",
        "E=16,N=1,device_name=A,dtype=fp8_w8a8,block_shape=[64,64].json",
        "E=16,N=1,device_name=A,dtype=fp8_w8a8,block_shape=[128,128].json",
        "E=16,N=1,device_name=A,dtype=fp8_w8a8,block_shape=[128,128]_down.json",
        "E=128,N=1,device_name=A.json", "E=8,N=1,device_name=B.json", "E=x.json",
    ]  # fmt: skip
    store.index(*(FILES[0]._replace(file=file) for file in reversed(files)))
    assert main(["list"]) == 0
    lines = [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines == [
        ["A", "E=8,N=1792"], ["A", "E=8,N=1792"], ["A", "E=8,N=14336"], ["A", "E=16,N=1"],
        ["A", "E=16,N=1,dtype=fp8_w8a8,block_shape=[64,64]"],
        *[["A", "E=16,N=1,dtype=fp8_w8a8,block_shape=[128,128]"]] * 2,
        ["A", "E=128,N=1"], ["B", "E=8,N=1"], ["?", "E=x.json"],
    ]  # fmt: skip


@pytest.mark.parametrize("model", ["mixtral", "MIXTRAL-8x7b", "mistralai/Mixtral-8x7B-v0.1", "Mixtral 8x7B"])
def test_a_model_is_found_by_a_part_of_its_id_however_it_is_written(listed, model):
    code, lines, _ = listed("--model", model)
    assert (code, len(lines)) == (0, 2)
    assert MIXTRAL in lines[1]


def test_a_model_with_the_experts_of_another_reads_the_files_that_name_that_one(store, listed):
    """models.json has DeepSeek-R1 among the ids of DeepSeek-V3."""
    store.index(FILES[0]._replace(models=("deepseek-ai/DeepSeek-V3 tp=8",)), *FILES[1:])
    code, lines, errors = listed("--model", "DeepSeek-R1-0528")
    assert (code, len(lines), errors) == (0, 2, ["DeepSeek-R1-0528 has the experts of deepseek-ai/DeepSeek-V3"])
    assert "deepseek-ai/DeepSeek-V3 tp=8" in lines[1]


def test_the_gain_is_that_at_the_shape_of_the_model_that_was_asked_for(store, listed):
    shapes = tuple(
        IndexedShape(K, top_k, 1, 0, (model,), {"vllm": Ratios(ratio, 1.0)})
        for K, top_k, model, ratio in ((4096, 2, MIXTRAL, 0.8), (2048, 8, QWEN, 0.95))
    )
    file = FILES[0]._replace(models=(MIXTRAL, QWEN), ratios={"vllm": Ratios(0.97, 1.0)}, shapes=shapes)
    store.index(file)
    for arguments, gain in (
        (("--model", "mixtral"), "-20.0"),
        (("--model", "qwen"), "-5.0"),
        (("--device-name", H100), "-3.0"),
    ):
        assert gain in listed(*arguments)[1][1].split()


def test_the_model_that_was_asked_for_is_among_those_shown(listed):
    _, lines, _ = listed("--model", "qwen3")
    assert lines[1].endswith(f"{QWEN}, a/A tp=1, b/B tp=1 and 2 more")


@pytest.mark.parametrize("device", ["NVIDIA_H200", "NVIDIA H200", "NVIDIA_H200_NVL"])
def test_a_device_is_found_as_the_driver_spells_it_and_under_its_other_names(listed, device):
    code, lines, _ = listed("--device-name", device)
    assert (code, len(lines)) == (0, 2)
    assert lines[1].startswith("NVIDIA_H200 ")


def test_json_is_of_the_index_format_alone(listed, capsys):
    code, lines, errors = listed("--format", "json", "--model", "mixtral")
    document = json.loads("\n".join(lines))
    assert (code, errors) == (0, [])
    assert [*schemas.faults("index", document)] == []
    assert [entry["file"] for entry in document["files"]] == [FILES[0].file]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "ds-r1"], ["no model is known here as ds-r1"]),
        (["--model", "grok2x"], ["no model is known here as grok2x", "grok2x: did you mean xai-org/grok-2?"]),
        (["--model", "foobar"], ["no model is known here as foobar"]),
        (["--model", "zai-org/GLM-4.5-Air-FP8"], [
            "no file here was tuned for zai-org/GLM-4.5-Air-FP8. What it gets is answered by "
            "fused-moe-configs doctor --model zai-org/GLM-4.5-Air-FP8",
        ]),
        (["--model", "gpt-oss"], [
            "no file here was tuned for gpt-oss. What it gets is answered by "
            "fused-moe-configs doctor --model openai/gpt-oss-120b or "
            "fused-moe-configs doctor --model openai/gpt-oss-20b",
        ]),
        (["--device-name", "H100"], ["no file is here for H100",
                                     f"H100: did you mean {H100} or NVIDIA_H100_OEM?"]),
        (["--model", "qwen3", "--device-name", H100], [f"qwen3 has no file for {H100}, but for NVIDIA_H200"]),
        (["--model", "qwen3", "--device-name", "h200"], [
            "qwen3 has no file for h200, but for NVIDIA_H200",
            "h200: did you mean NVIDIA_H200, NVIDIA_H200_NVL or NVIDIA_H200_X?",
        ]),
    ],
)  # fmt: skip
def test_where_nothing_matches_it_says_what_may_be_meant(listed, store, arguments, said):
    store.add(f"E=8,N=7168,device_name={H100}.json")  # a device with files is named first
    assert listed(*arguments) == (1, [], said)


def test_without_a_match_json_is_empty_and_stays_json(listed):
    code, lines, errors = listed("--format", "json", "--device-name", "H100")
    assert (code, json.loads("\n".join(lines))["files"], len(errors)) == (1, [], 2)


def test_an_empty_folder_says_so(store, capsys):
    assert main(["list"]) == 1
    assert capsys.readouterr() == ("", f"no tuned file is in {store.root}\n")


@pytest.mark.parametrize(
    "arguments", [["--model", ""], ["--model", "/"], ["--model", "\udcff"], ["--device-name", ""],
                  ["--device-name", "../x"], ["--format", "x"]],
)  # fmt: skip
def test_bad_use_is_2_and_one_line(listed, arguments):
    code, lines, errors = listed(*arguments)
    assert (code, lines) == (2, [])
    assert "error: " in errors[-1]


def test_a_broken_index_is_a_negative_verdict(listed, store):
    path = store.write("index.json", b"{")
    code, _, (error,) = listed()
    assert code == 1
    assert error.startswith(f"error: {path}: expected the index that the build wrote")


def test_a_checkout_lists_what_its_records_say(store, capsys):
    store.add(f"E=8,N=7168,device_name={H100}.json")
    assert main(["list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        H100, "E=8,N=7168", "3.8.0", *["not", "measured"] * 2, "unknown", "none", "none", "known",
    ]  # fmt: skip
