from __future__ import annotations

from dataclasses import replace

import pytest

from tests import builders
from tests.tools.portfolio.stocked import H100, Stocked, full, wanted
from tools.portfolio.status import DeviceStatus, to_json, to_markdown, to_text
from tools.portfolio.stock import Item, Method, look_up
from tools.registry.sharding import Engine
from tools.store.record import CheckedShipped

TUNED, MISSING, OLDER = "E=64,N=1408", "E=64,N=1024", "E=129,N=352"


@pytest.fixture
def found(stocked: Stocked) -> DeviceStatus:
    stocked.tune(TUNED)
    shipped = CheckedShipped("ab" * 32, 1.02, 0.95, 0.7)
    stocked.judge(TUNED, Engine.VLLM, 0.913, 1.004, best_ratio=0.6, shipped=shipped)
    stocked.judge(TUNED, Engine.SGLANG, 0.8, 0.99)
    stocked.tune(OLDER, rule="parts-0")

    def item(rank: int, name: str) -> Item:
        return look_up(rank, wanted(name), stocked.folders.configs, None, Method())

    return DeviceStatus(builders.devices().find(H100), (item(1, TUNED), item(2, MISSING), item(3, OLDER)), ("a note",))


def test_the_table_says_of_each_name_how_far_it_is(found: DeviceStatus) -> None:
    head, titles, *rows, note = to_text([found]).splitlines()
    assert head == f"{H100}: 3 wanted files: 1 done, 1 older method, 1 missing"
    assert titles.split()[:4] == ["rank", "file", "standing", "Triton"]
    assert rows[0].startswith("1     E=64,N=1408  done")
    assert "0.913 (worst 1.004)  0.800 (worst 0.990)" in rows[0]
    assert rows[1].startswith("2     E=64,N=1024  missing")
    assert rows[2].startswith("3     E=129,N=352  older method")
    assert rows[2].endswith("rule parts-0")
    assert note == "note: a note"


def test_the_document_has_it_all(found: DeviceStatus) -> None:
    (device,) = to_json([found])["devices"]
    assert device["device_name"] == H100
    assert device["counts"] == {"done": 1, "older method": 1, "missing": 1}
    first, missing, _ = device["names"]
    assert first["name"] == full(TUNED)
    assert first["standing"] == "done"
    assert first["models"] == ["deepseek-ai/DeepSeek-V2-Lite tp=1"]
    assert first["shapes"] == [{"K": 2048, "top_k": 6}]
    assert first["engines"] == {"vllm": "unknown", "sglang": "unknown"}
    assert first["judged"][0] == {
        "engine": "vllm",
        "version": "1.0.0",
        "heuristic": {"geomean": 0.913, "worst": 1.004, "best": 0.6},
        "shipped": {"geomean": 0.95, "worst": 1.02, "best": 0.7},
    }
    assert (missing["triton"], missing["judged"]) == (None, [])


class TestThePage:
    def test_has_models_down_and_gpus_across(self, found: DeviceStatus) -> None:
        page = to_markdown([found])
        assert f"- {H100}: 1 of 3 wanted files" in page
        assert f"| model | {H100} |" in page
        row = next(line for line in page.splitlines() if "DeepSeek-V2-Lite" in line)
        record = f"../configs/records/E%3D64%2CN%3D1408%2Cdevice_name%3D{H100}.json"
        assert row == (
            f"| `deepseek-ai/DeepSeek-V2-Lite` | tp=1: [SGLang]({record}) −20.0 %; [vLLM]({record}) −8.7 % (−5.0 %) |"
        )

    def test_a_missing_file_is_a_dash_and_an_older_one_says_so(self, found: DeviceStatus) -> None:
        page = to_markdown([found])
        assert "| `allenai/OLMoE-1B-7B-0924` | tp=1: SGLang –; vLLM – |" in page
        assert "(older method)" in next(line for line in page.splitlines() if "GLM-4.5-Air" in line)

    def test_a_model_that_a_gpu_does_not_run_is_a_dash_there(self, found: DeviceStatus) -> None:
        other = DeviceStatus(builders.devices().find("NVIDIA_H200"), (found.items[1],))
        page = to_markdown([replace(found, items=found.items[:1]), other])
        row = next(line for line in page.splitlines() if "DeepSeek-V2-Lite" in line)
        assert row.endswith("| – |")
