from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests import builders
from tests.tools.portfolio.stocked import H100, Stocked, full, wanted
from tools.portfolio.status import DeviceStatus, to_json, to_markdown, to_text
from tools.portfolio.stock import Item, Method, Standing, look_up
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


def cells(found: DeviceStatus) -> list[dict[str, str]]:
    """The table's rows, by title."""
    _, titles, *rows = (re.split(r" {2,}", line.strip()) for line in to_text([found]).splitlines())
    return [dict(zip(titles, row, strict=True)) for row in rows if len(row) == len(titles)]


def test_what_is_read_today_is_told_in_the_order_of_names(found: DeviceStatus) -> None:
    assert cells(found)[0]["reads today"] == "sglang: unknown, vllm: unknown"


def test_the_tables_engines_tell_what_was_not_judged_from_what_none_asks_for(found: DeviceStatus) -> None:
    tuned, missing, _ = found.items
    on_vllm = replace(tuned, judged={Engine.VLLM: tuned.judged[Engine.VLLM]})
    vllms = replace(on_vllm, wanted=replace(tuned.wanted, judges=(Engine.VLLM,)))
    rows = cells(replace(found, items=(on_vllm, vllms, missing)))
    assert [row["SGLang"] for row in rows] == ["not judged", "-", "-"]
    assert [row["Triton"] for row in rows] == [Method().triton, Method().triton, "-"]


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
    RECORD = f"../configs/records/E%3D64%2CN%3D1408%2Cdevice_name%3D{H100}.json"

    def row(self, found: DeviceStatus, model: str) -> str:
        return next(line for line in to_markdown([found]).splitlines() if line.startswith(f"| `{model}` "))

    def test_counts_names_by_how_far_they_are(self, found: DeviceStatus) -> None:
        page = to_markdown([found])
        assert "| GPU | wanted files | done | older method | missing |" in page
        assert f"| `{H100}` | 3 | 1 | 1 | 1 |" in page

    def test_has_models_down_and_gpus_across_the_most_wanted_first(self, found: DeviceStatus) -> None:
        lines = to_markdown([found]).splitlines()
        titles = lines.index(f"| model | {H100} |")
        assert [line.split("`")[1] for line in lines[titles + 2 : titles + 5]] == [
            "deepseek-ai/DeepSeek-V2-Lite",
            "allenai/OLMoE-1B-7B-0924",
            "zai-org/GLM-4.5-Air",
        ]

    def test_a_model_stands_where_its_most_wanted_name_does(self, found: DeviceStatus) -> None:
        """Whatever the order of names; models of one rank by the alphabet, without regard to capitals."""
        first, second, third = found.items
        uses = third.wanted.uses[0], replace(second.wanted.uses[0], model="AN/other"), first.wanted.uses[0]
        items = replace(third, wanted=replace(third.wanted, uses=uses)), second, first
        models = [
            line.split("`")[1] for line in to_markdown([replace(found, items=items)]).splitlines() if "tp=" in line
        ]
        assert models == ["deepseek-ai/DeepSeek-V2-Lite", "allenai/OLMoE-1B-7B-0924", "AN/other", "zai-org/GLM-4.5-Air"]

    def test_a_standing_of_one_gpu_alone_has_its_column(self, found: DeviceStatus) -> None:
        other = DeviceStatus(builders.devices().find("NVIDIA_H200"), (found.items[1],))
        page = to_markdown([found, other])
        assert "| GPU | wanted files | done | older method | missing |" in page
        assert "| `NVIDIA_H200` | 1 | – | – | 1 |" in page

    def test_ranks_that_share_out_experts_are_named(self, found: DeviceStatus) -> None:
        item = found.items[0]
        spread = replace(item, wanted=replace(item.wanted, uses=tuple(replace(u, ep=2) for u in item.wanted.uses)))
        assert f"| [tp=1 ep=2]({self.RECORD}): " in self.row(
            replace(found, items=(spread,)), "deepseek-ai/DeepSeek-V2-Lite"
        )

    def test_of_two_names_at_one_parallel_size_the_missing_one_waits_alone(self, found: DeviceStatus) -> None:
        """As where one engine runs a shared expert as another expert of the layer."""
        tuned, missing, _ = found.items
        vllm, sglang = sorted(tuned.wanted.uses, key=lambda use: list(Engine).index(use.engine))
        items = (
            replace(tuned, wanted=replace(tuned.wanted, uses=(vllm,))),
            replace(missing, wanted=replace(missing.wanted, uses=(sglang,))),
        )
        assert self.row(replace(found, items=items), "deepseek-ai/DeepSeek-V2-Lite") == (
            f"| `deepseek-ai/DeepSeek-V2-Lite` | [tp=1]({self.RECORD}): vLLM −8.7 % (−5.0 %), SGLang waits |"
        )

    def test_a_file_has_its_gain_on_each_engine_and_a_link_to_the_record(self, found: DeviceStatus) -> None:
        assert self.row(found, "deepseek-ai/DeepSeek-V2-Lite") == (
            f"| `deepseek-ai/DeepSeek-V2-Lite` | [tp=1]({self.RECORD}): vLLM −8.7 % (−5.0 %), SGLang −20.0 % |"
        )

    def test_engines_that_read_different_files_have_a_link_each(self, found: DeviceStatus) -> None:
        tuned = found.items[0]
        vllm, sglang = sorted(tuned.wanted.uses, key=lambda use: list(Engine).index(use.engine))
        items = (
            replace(tuned, wanted=replace(tuned.wanted, uses=(vllm,))),
            replace(tuned, wanted=replace(tuned.wanted, workload=replace(tuned.wanted.workload, E=65), uses=(sglang,))),
        )
        other = self.RECORD.replace("E%3D64", "E%3D65")
        assert self.row(replace(found, items=items), "deepseek-ai/DeepSeek-V2-Lite") == (
            f"| `deepseek-ai/DeepSeek-V2-Lite` | tp=1: [vLLM]({self.RECORD}) −8.7 % (−5.0 %), "
            f"[SGLang]({other}) −20.0 % |"
        )

    def test_an_engines_own_file_that_is_faster_stands_out(self, found: DeviceStatus) -> None:
        item = found.items[0]
        line = item.judged[Engine.VLLM]
        behind = replace(line, shipped=replace(line.shipped, geomean_ratio=1.21))
        row = self.row(
            replace(found, items=(replace(item, judged={Engine.VLLM: behind}),)), "deepseek-ai/DeepSeek-V2-Lite"
        )
        assert "vLLM −8.7 % (**+21.0 %**), " in row

    def test_an_engine_that_has_not_judged_it_says_so(self, found: DeviceStatus) -> None:
        item = found.items[0]
        only = replace(item, judged={Engine.VLLM: item.judged[Engine.VLLM]})
        row = self.row(replace(found, items=(only,)), "deepseek-ai/DeepSeek-V2-Lite")
        assert row.endswith("vLLM −8.7 % (−5.0 %), SGLang not judged |")

    def test_what_is_missing_waits(self, found: DeviceStatus) -> None:
        assert self.row(found, "allenai/OLMoE-1B-7B-0924") == "| `allenai/OLMoE-1B-7B-0924` | waits: tp=1 |"

    def test_a_file_of_an_older_method_is_there_and_has_its_record(self, found: DeviceStatus) -> None:
        record = f"../configs/records/E%3D129%2CN%3D352%2Cdevice_name%3D{H100}.json"
        assert self.row(found, "zai-org/GLM-4.5-Air").endswith(f"| [tp=4]({record}): older method |")

    def test_an_older_file_without_figures_of_the_models_sizes_waits(self, found: DeviceStatus) -> None:
        older = found.items[2]
        for item in (replace(older, unserved=older.wanted.shapes), replace(older, record=None)):
            row = self.row(replace(found, items=(item,)), "zai-org/GLM-4.5-Air")
            assert row.endswith("| waits: tp=4 |")

    def test_an_older_file_of_one_engine_stands_beside_the_others_figures(self, found: DeviceStatus) -> None:
        item = found.items[0]
        by_engine = {use.engine: replace(item, wanted=replace(item.wanted, uses=(use,))) for use in item.wanted.uses}
        newer, older = by_engine[Engine.VLLM], replace(by_engine[Engine.SGLANG], standing=Standing.OLDER)
        row = self.row(replace(found, items=(newer, older)), "deepseek-ai/DeepSeek-V2-Lite")
        assert row.endswith(": vLLM −8.7 % (−5.0 %), SGLang older method |")

    def test_figures_of_other_sizes_are_not_a_models(self, found: DeviceStatus) -> None:
        item = found.items[0]
        other = replace(item, unserved=item.wanted.shapes)
        row = self.row(replace(found, items=(other,)), "deepseek-ai/DeepSeek-V2-Lite")
        assert row.endswith("| waits: tp=1 |")

    def test_a_model_that_a_gpu_does_not_run_is_a_dash_there(self, found: DeviceStatus) -> None:
        other = DeviceStatus(builders.devices().find("NVIDIA_H200"), (found.items[1],))
        page = to_markdown([replace(found, items=found.items[:1]), other])
        row = next(line for line in page.splitlines() if "DeepSeek-V2-Lite" in line)
        assert row.endswith("| – |")

    def test_says_what_is_not_tuned(self, found: DeviceStatus) -> None:
        assert to_markdown([found]).endswith("Not tuned here:\n\n- a note\n")
