from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kernels.problem import QuantMode
from tests import builders
from tests.tools.portfolio.stocked import H100, Stocked, wanted
from tools.bench import request as bench_request
from tools.bench.request import FilesRequest
from tools.measure.layer import LayerShape, memory_bytes
from tools.portfolio.engines import EngineHere
from tools.portfolio.jobs import Job, Order, Skip, TunerBudget, bench_arguments, down_names, job_of
from tools.portfolio.stock import Item, Method, Standing, look_up
from tools.registry.devices import Device
from tools.registry.sharding import Engine
from tools.store.record import CheckedShipped
from tools.tune import request as tune_request
from tools.tune.request import DownKernel
from tools.tune.subject import ModelSource, Parallel

NAME = "E=64,N=1408"
THREE = "E=128,N=192"
"""Three (K, top_k)."""
BOTH = {engine: EngineHere(engine, Path(f"/site/{engine}.py")) for engine in Engine}
DEVICE = builders.devices().find(H100)


def look(stocked: Stocked, name: str = NAME) -> Item:
    return look_up(1, wanted(name), stocked.folders.configs, None, Method())


def job(item: Item, engines: dict[Engine, EngineHere] = BOTH, device: Device = DEVICE) -> Job | Skip | None:
    return job_of(item, device, engines, TunerBudget())


def parsed(item: Item) -> tune_request.TuneRequest:
    found = job(item)
    assert isinstance(found, Job)
    return tune_request.parse([*found.tune, "--output", "/tmp", "--jobs", "4"])


class TestWhatIsDone:
    def test_a_missing_name_is_tuned_and_judged_on_every_engine_at_hand(self, stocked: Stocked) -> None:
        found = job(look(stocked))
        assert isinstance(found, Job)
        assert (found.order, found.device_name) == (Order.TUNE, H100)
        assert [judge.engine for judge in found.judges] == ["vllm", "sglang"]

    def test_a_finished_name_is_passed_over(self, stocked: Stocked) -> None:
        stocked.tune(NAME, judged_on=None)
        assert job(look(stocked)) is None

    def test_a_tuned_name_is_judged_where_it_was_not(self, stocked: Stocked) -> None:
        stocked.tune(NAME, judged_on=[Engine.VLLM])
        found = job(look(stocked))
        assert isinstance(found, Job)
        assert found.order is Order.JUDGE
        assert [judge.engine for judge in found.judges] == ["sglang"]

    def test_without_the_engine_a_name_that_it_should_judge_is_skipped(self, stocked: Stocked) -> None:
        stocked.tune(NAME, judged_on=[Engine.VLLM])
        found = job(look(stocked), {Engine.VLLM: BOTH[Engine.VLLM]})
        assert found == Skip("not judged on sglang: no source of it at hand. Fix: --engine NAME=PATH")

    def test_an_older_file_is_judged_first(self, stocked: Stocked) -> None:
        stocked.tune(NAME, rule="parts-0")
        found = job(look(stocked))
        assert isinstance(found, Job)
        assert found.order is Order.WHERE_IT_LOSES

    def test_one_that_held_on_one_engine_alone_is_judged_again(self, stocked: Stocked) -> None:
        stocked.tune(NAME, judged_on=[Engine.VLLM], rule="parts-0")
        item = look(stocked)
        assert item.standing is Standing.UNJUDGED
        found = job(item)
        assert isinstance(found, Job)
        assert found.order is Order.WHERE_IT_LOSES

    def test_an_older_file_that_cannot_be_judged_is_tuned(self, stocked: Stocked) -> None:
        stocked.tune(NAME, rule="parts-0")
        found = job(look(stocked), {})
        assert isinstance(found, Job)
        assert found.order is Order.TUNE

    def test_one_that_was_not_measured_for_all_that_reads_it_is_tuned(self, stocked: Stocked) -> None:
        stocked.tune(NAME, rule="parts-0", shapes=[{"K": 4096, "top_k": 6, "models": []}])
        found = job(look(stocked))
        assert isinstance(found, Job)
        assert found.order is Order.TUNE

    def test_a_broken_file_is_skipped_with_its_fault(self, stocked: Stocked) -> None:
        stocked.store.file(b"{", wanted(NAME).name)
        assert isinstance(job(look(stocked)), Skip)

    def test_a_gpu_without_the_memory_is_skipped_with_both_figures(self, stocked: Stocked) -> None:
        found = job(look(stocked), device=replace(DEVICE, memory_gib=1))
        assert isinstance(found, Skip)
        layers = [LayerShape.of(wanted(NAME).workload, shape, QuantMode()) for shape in wanted(NAME).shapes]
        gib = memory_bytes(layers, max(tune_request.DEFAULT_BATCH_SIZES)) / 2**30
        assert found.reason == f"not enough memory: expected at least {gib:.1f} GiB, found 1 GiB"

    def test_its_memory_must_do_for_the_largest_batch_size(self, stocked: Stocked) -> None:
        name = "E=256,N=256"
        layers = [LayerShape.of(wanted(name).workload, shape, QuantMode()) for shape in wanted(name).shapes]
        least, most = (memory_bytes(layers, pick(tune_request.DEFAULT_BATCH_SIZES)) / 2**30 for pick in (min, max))
        assert least < int(most) < most
        assert isinstance(job(look(stocked, name), device=replace(DEVICE, memory_gib=int(most))), Skip)
        assert isinstance(job(look(stocked, name), device=replace(DEVICE, memory_gib=int(most) + 1)), Job)

    def test_weights_that_no_kernel_here_runs_are_skipped(self, stocked: Stocked) -> None:
        item = look(stocked)
        four_bit = replace(item.wanted, workload=replace(item.wanted.workload, dtype="int4_w4a16"))
        assert job(replace(item, wanted=four_bit)) == Skip("no kernel here runs int4_w4a16")

    def test_the_file_that_an_engine_ships_under_the_name_is_met_too(self, stocked: Stocked) -> None:
        shipped = EngineHere(Engine.VLLM, Path("/site/vllm.py"), {look(stocked).name: Path("/site/E=64.json")})
        found = job(look(stocked), {**BOTH, Engine.VLLM: shipped})
        assert isinstance(found, Job)
        assert [judge.shipped for judge in found.judges] == ["/site/E=64.json", None]

    def test_a_finished_name_is_judged_again_beside_a_file_that_its_judge_did_not_see(self, stocked: Stocked) -> None:
        stocked.tune(NAME, judged_on=None)
        ships = EngineHere(Engine.VLLM, Path("/site/vllm.py"), {look(stocked).name: Path("/site/E=64.json")})
        at_hand = {**BOTH, Engine.VLLM: ships}
        found = job(look(stocked), at_hand)
        assert isinstance(found, Job)
        assert found.order is Order.JUDGE
        assert [(judge.engine, judge.shipped) for judge in found.judges] == [("vllm", "/site/E=64.json")]
        stocked.judge(NAME, Engine.VLLM, shipped=CheckedShipped("0" * 64, 1.0, 0.9, 0.8))
        assert job(look(stocked), at_hand) is None

    def test_one_that_is_only_held_is_not(self, stocked: Stocked) -> None:
        stocked.tune(NAME, judged_on=None, rule="parts-0")
        assert look(stocked).standing is Standing.HELD
        ships = EngineHere(Engine.VLLM, Path("/site/vllm.py"), {look(stocked).name: Path("/site/E=64.json")})
        assert job(look(stocked), {**BOTH, Engine.VLLM: ships}) is None

    def test_what_was_tuned_on_sglangs_kernel_is_not_tuned_without_it(self, stocked: Stocked) -> None:
        stocked.tune(
            NAME, tuner={"settings": {"separate_down": True, "down_kernel": "sglang-0.5.23"}, "cut_short": True}
        )
        item = replace(look(stocked), is_apart=True)
        assert isinstance(job(item), Job)
        found = job(item, {Engine.VLLM: BOTH[Engine.VLLM]})
        assert isinstance(found, Skip)
        assert found.reason.endswith("Fix: --engine sglang=PATH")

    def test_but_it_is_judged_without_it(self, stocked: Stocked) -> None:
        stocked.tune(NAME, tuner={"settings": {"separate_down": True, "down_kernel": "sglang-0.5.23"}})
        found = job(replace(look(stocked), is_apart=True), {Engine.VLLM: BOTH[Engine.VLLM]})
        assert isinstance(found, Job)
        assert found.order is Order.JUDGE


class TestTheTunersCommandLine:
    def test_it_names_model_placement_engine_and_all_shapes(self, stocked: Stocked) -> None:
        found = parsed(look(stocked))
        assert found.sources == (ModelSource("deepseek-ai/DeepSeek-V2-Lite", Parallel(1, 1)),)
        assert found.all_shapes
        assert not found.separate_down

    def test_a_search_that_was_cut_short_gets_twice_the_time(self, stocked: Stocked) -> None:
        assert parsed(look(stocked)).effort.time_budget_s == TunerBudget().time_budget_s
        stocked.tune(NAME, tuner={"cut_short": True})
        assert parsed(look(stocked)).effort.time_budget_s == 2.0 * TunerBudget().time_budget_s

    def test_one_that_lacks_something_else_gets_the_usual_time(self, stocked: Stocked) -> None:
        stocked.tune(NAME, tuner={"least_finalists": 3})
        assert look(stocked).standing is Standing.INCOMPLETE
        assert parsed(look(stocked)).effort.time_budget_s == TunerBudget().time_budget_s

    def test_of_several_uses_it_names_the_first(self, stocked: Stocked) -> None:
        item = look(stocked, THREE)
        several = {(use.model, use.tp, use.engine): use for use in item.wanted.uses}
        assert len(several) == len(item.wanted.uses) > 1
        for first in several.values():
            found = parsed(replace(item, wanted=replace(item.wanted, uses=(first, *item.wanted.uses))))
            assert found.sources == (ModelSource(first.model, Parallel(first.tp, first.ep)),)
            assert found.engine is first.engine

    def test_up_and_down_apart_where_asked_for_or_where_a_down_file_stands(self, stocked: Stocked) -> None:
        asked = parsed(replace(look(stocked), is_apart=True))
        assert asked.separate_down
        assert asked.down_kernel == DownKernel(Path("/site/sglang.py"))
        path = stocked.tune(NAME, rule="parts-0")
        path.with_name(f"{path.stem}_down.json").write_bytes(path.read_bytes())
        assert parsed(look(stocked)).separate_down

    def test_up_and_down_apart_where_a_down_file_stands_alone(self, stocked: Stocked) -> None:
        path = stocked.tune(NAME)
        path.rename(path.with_name(f"{path.stem}_down.json"))
        found = look(stocked)
        assert found.standing is Standing.MISSING
        assert parsed(found).separate_down

    @pytest.mark.parametrize(
        ("name", "is_apart"),
        [
            ("E=257,N=128,dtype=fp8_w8a8,block_shape=[128,128]", True),
            ("E=512,N=256,dtype=fp8_w8a8,block_shape=[128,128]", False),
            ("E=512,N=320,dtype=fp8_w8a8,block_shape=[64,64]", False),
            ("E=513,N=128", False),
        ],
        ids=["blocks of 128", "not read by SGLang", "other blocks", "bf16"],
    )
    def test_up_and_down_apart_with_sglangs_kernel_where_use_tma_gains_much(
        self, stocked: Stocked, name: str, is_apart: bool
    ) -> None:
        found = parsed(look(stocked, name))
        assert found.separate_down is is_apart
        assert found.down_kernel == (DownKernel(Path("/site/sglang.py")) if is_apart else None)
        older = replace(DEVICE, arch="sm_80")
        for engines, device in (({Engine.VLLM: BOTH[Engine.VLLM]}, DEVICE), (BOTH, older)):
            without = job(look(stocked, name), engines, device)
            assert isinstance(without, Job)
            assert "--separate-down" not in without.tune

    @pytest.mark.parametrize("changes", [{}, {"rule": "parts-0"}], ids=["of today", "older"])
    def test_up_and_down_apart_where_the_down_file_is_lost(self, stocked: Stocked, changes: dict[str, str]) -> None:
        """A kill between the two leaves its record alone. To judge what is left says nothing of what was tuned."""
        path = stocked.tune(NAME, judged_on=None, **changes)
        stocked.store.record_of(path.with_name(f"{path.stem}_down.json")).write_bytes(b"{}")
        found = job(look(stocked))
        assert isinstance(found, Job)
        assert found.order is Order.TUNE
        assert parsed(look(stocked)).separate_down


class TestTheBenchsCommandLine:
    def test_it_notes_the_file_on_the_engines_kernel_in_the_record(self, stocked: Stocked, tmp_path: Path) -> None:
        found = job(look(stocked))
        assert isinstance(found, Job)
        judge = replace(found.judges[0], shipped="/site/E=1.json")
        request = bench_request.parse(bench_arguments(tmp_path / "a.json", judge, 4, with_shipped=True))
        assert isinstance(request, FilesRequest)
        assert (request.writes_record, request.as_json, request.jobs) == (True, True, 4)
        assert request.against == ("heuristic", "/site/E=1.json")
        assert request.engine is not None
        assert request.engine.path == Path("/site/vllm.py")

    def test_the_shipped_file_is_left_out_where_only_the_heuristic_counts(self, stocked: Stocked) -> None:
        found = job(look(stocked))
        assert isinstance(found, Job)
        judge = replace(found.judges[0], shipped="/site/E=1.json")
        assert "/site/E=1.json" not in bench_arguments(Path("a.json"), judge, 4, with_shipped=False)


def test_a_job_is_read_as_it_was_written(stocked: Stocked) -> None:
    found = job(look(stocked))
    assert isinstance(found, Job)
    assert Job.read(found.to_text()) == found


def test_up_and_down_are_tried_apart_for_the_most_experts_that_sglang_reads(stocked: Stocked) -> None:
    names = ("E=512,N=320,dtype=fp8_w8a8,block_shape=[64,64]", "E=513,N=128", NAME, THREE)  # the first: vLLM alone
    items = [look(stocked, name) for name in names]
    assert down_names(items, 2) == (wanted("E=513,N=128").name, wanted(THREE).name)
    assert down_names(items, 0) == ()


def test_first_those_where_sglang_ships_a_faster_file(stocked: Stocked) -> None:
    stocked.tune(NAME)
    stocked.judge(NAME, Engine.VLLM, shipped=CheckedShipped("a" * 64, 1.6, 1.2, 0.9))
    items = [look(stocked, name) for name in ("E=513,N=128", NAME)]
    assert down_names(items, 1) == (wanted("E=513,N=128").name,)
    stocked.judge(NAME, Engine.SGLANG, shipped=CheckedShipped("a" * 64, 1.6, 1.2, 0.9))
    items = [look(stocked, name) for name in ("E=513,N=128", NAME)]
    assert down_names(items, 1) == (wanted(NAME).name,)


@pytest.mark.parametrize("text", ["", "[]", '{"name": "a"}'])
def test_what_is_no_job_is_refused(text: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Job.read(text)
