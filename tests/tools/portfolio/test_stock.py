from __future__ import annotations

from typing import Any, ClassVar

import pytest

from fused_moe_configs.gains import MARGIN
from tests.tools.portfolio.stocked import Stocked, full, wanted
from tools.errors import MachineError
from tools.launch.heuristic_version import FOLLOWED
from tools.measure.panel import PromotionPolicy
from tools.portfolio import stock
from tools.portfolio.progress import ProgressLine
from tools.portfolio.stock import Item, Method, Standing, look_up
from tools.registry.sharding import Engine
from tools.store.existing import Existing, Place, existing_at
from tools.store.files import sha256
from tools.store.record import CheckedShipped

NAME = "E=64,N=1408"
"""One (K, top_k), read by both engines."""


def look(stocked: Stocked, line: ProgressLine | None = None, *, name: str = NAME, down: bool = False) -> Item:
    return look_up(1, wanted(name), stocked.folders.configs, line, Method(), down=down)


def test_without_a_file_a_name_is_missing(stocked: Stocked) -> None:
    assert look(stocked).standing is Standing.MISSING


def test_tuned_by_todays_method_and_judged_on_every_engine_it_is_done(stocked: Stocked) -> None:
    stocked.tune(NAME, judged_on=None)
    found = look(stocked)
    assert (found.standing, found.why) == (Standing.DONE, ())
    assert set(found.judged) == {Engine.VLLM, Engine.SGLANG}


def test_what_no_engine_has_judged_says_so(stocked: Stocked) -> None:
    stocked.tune(NAME, judged_on=[Engine.VLLM])
    found = look(stocked)
    assert (found.standing, found.why) == (Standing.UNJUDGED, ("not judged on sglang",))
    assert found.unjudged == (Engine.SGLANG,)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"kernel_sha256": "ab" * 32}, "an older kernel"),
        ({"rule": "parts-0"}, "rule parts-0"),
        ({"triton": "3.6.0"}, "Triton 3.6.0"),
    ],
)
def test_another_method_is_an_older_one(stocked: Stocked, changes: dict[str, str], why: str) -> None:
    stocked.tune(NAME, **changes)
    found = look(stocked)
    assert (found.standing, found.why) == (Standing.OLDER, (why,))


def test_published_figures_are_no_measurement(stocked: Stocked) -> None:
    stocked.store.config(name=full(NAME))
    assert look(stocked).standing is Standing.OLDER


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tuner": {"cut_short": True}}, "its search was cut short"),
        ({"tuner": {"least_finalists": 3}}, "a row was decided among 3 finalists, fewer than 4"),
        ({"tuner": {"cut_short": None}}, "its record doesn't say whether its search was cut short"),
        ({"tuner": {"least_finalists": None}}, "its record doesn't say whether its search was cut short"),
        ({"shapes": [{"K": 2048, "top_k": 8, "models": []}]}, "not measured for K=2048, top_k=6"),
    ],
)
def test_what_does_not_count_is_incomplete(stocked: Stocked, changes: dict[str, object], why: str) -> None:
    stocked.tune(NAME, judged_on=None, **changes)
    found = look(stocked)
    assert (found.standing, found.why) == (Standing.INCOMPLETE, (why,))


def test_up_and_down_apart_are_asked_for_by_name(stocked: Stocked) -> None:
    stocked.tune(NAME, judged_on=None)
    assert look(stocked, down=True).why == ("up and down were not tried apart",)
    stocked.tune(NAME, judged_on=None, tuner={"settings": {"separate_down": True}})
    assert look(stocked, down=True).standing is Standing.DONE


def test_a_judgement_beside_another_down_file_is_none(stocked: Stocked) -> None:
    """As where somebody took the `_down` file away, and its record with it."""
    path = stocked.tune(NAME, judged_on=[Engine.VLLM])
    stocked.judge(NAME, Engine.SGLANG, down_sha256=sha256(path.read_bytes()))
    assert (look(stocked).standing, look(stocked).unjudged) == (Standing.UNJUDGED, (Engine.SGLANG,))
    down = path.with_name(f"{path.stem}_down.json")
    down.write_bytes(path.read_bytes())
    stocked.store.measured(down)
    assert look(stocked).standing is Standing.DONE


def test_a_broken_file_says_what_is_wrong(stocked: Stocked) -> None:
    stocked.store.file(b"{", full(NAME))
    found = look(stocked)
    assert found.standing is Standing.BROKEN
    assert full(NAME) in found.why[0]


class TestAnOlderFile:
    """Whether it holds is read from its record: a clean checkout on another machine knows it too."""

    OLDER: ClassVar = [{"rule": "parts-0"}, {"kernel_sha256": "ab" * 32}, {"triton": "3.6.0"}]

    @pytest.mark.parametrize("changes", OLDER)
    def test_is_held_where_todays_method_finds_no_loss_on_any_engine(
        self, stocked: Stocked, changes: dict[str, str]
    ) -> None:
        stocked.tune(NAME, judged_on=None, **changes)
        assert look(stocked).standing is Standing.HELD

    @pytest.mark.parametrize(
        "judgement", [{"slower": 1}, {"rule": None}, {"rule": "parts-0"}, {"triton": "3.6.0"}, {"date": "2020-01-01"}]
    )
    def test_is_not_by_a_judgement_that_it_loses_or_of_another_method(
        self, stocked: Stocked, judgement: dict[str, Any]
    ) -> None:
        stocked.tune(NAME, judged_on=[Engine.SGLANG], rule="parts-0")
        stocked.judge(NAME, Engine.VLLM, **judgement)
        assert look(stocked).standing is not Standing.HELD

    def test_of_an_older_heuristic_is_judged_beside_todays(self, stocked: Stocked) -> None:
        other = {"version": "0.1.0", "sha256": "ab" * 32}
        heuristics = {"vllm": other, "sglang": FOLLOWED["sglang"].to_json()}
        stocked.tune(NAME, judged_on=[Engine.SGLANG], heuristics=heuristics)
        stocked.judge(NAME, Engine.VLLM, version="0.1.0")
        assert look(stocked).standing is Standing.OLDER
        stocked.judge(NAME, Engine.VLLM, version=FOLLOWED["vllm"].version)
        assert look(stocked).standing is Standing.HELD

    def test_must_hold_on_every_engine_that_reads_it(self, stocked: Stocked) -> None:
        stocked.tune(NAME, judged_on=[Engine.VLLM], rule="parts-0")
        found = look(stocked)
        assert (found.standing, found.is_older) == (Standing.UNJUDGED, True)

    def test_must_have_been_measured_for_every_shape_of_the_name(self, stocked: Stocked) -> None:
        stocked.tune(NAME, judged_on=None, rule="parts-0", shapes=[{"K": 4096, "top_k": 6, "models": []}])
        found = look(stocked)
        assert (found.standing, found.why) == (Standing.OLDER, ("rule parts-0", "not measured for K=2048, top_k=6"))


def test_what_the_machine_fails_at_is_no_names_fault(stocked: Stocked, monkeypatch: pytest.MonkeyPatch) -> None:
    stocked.tune(NAME, judged_on=None)

    def damaged(place: Place) -> Existing | None:
        raise MachineError("schema/record.schema.json: damaged")

    monkeypatch.setattr(stock, "existing_at", damaged)
    with pytest.raises(MachineError, match="damaged"):
        look(stocked)


def test_a_lost_file_for_down_asks_for_what_was_judged_with_it_anew(stocked: Stocked) -> None:
    path = stocked.tune(NAME, judged_on=None)
    down = path.with_name(f"{path.stem}_down.json")
    stocked.store.record_of(down).write_bytes(stocked.store.record_of(path).read_bytes())
    found = look(stocked)
    assert (found.standing, found.is_apart) == (Standing.INCOMPLETE, True)
    assert found.why == (f"{down.name}, with which it was judged, is missing",)
    down.write_bytes(path.read_bytes())
    assert look(stocked).standing is Standing.DONE


def test_a_file_for_down_that_its_record_is_not_of_asks_for_the_name_anew(stocked: Stocked) -> None:
    """As a kill between the two leaves it; judged so, the name would be done."""
    path = stocked.tune(NAME, judged_on=None)
    down = path.with_name(f"{path.stem}_down.json")
    down.write_bytes(path.read_bytes())
    for why in ("has no record", "is not what its record is of"):
        if why != "has no record":
            stocked.store.record_of(down).write_bytes(stocked.store.record_of(path).read_bytes())
            down.write_bytes(path.read_bytes() + b"\n")
        found = look(stocked)
        assert (found.standing, found.is_apart) == (Standing.INCOMPLETE, True)
        assert found.why == (f"{down.name} {why}",)


def test_a_file_that_goes_while_it_is_looked_at_is_told_by_what_was_read(
    stocked: Stocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    stocked.tune(NAME, judged_on=None)

    def then_gone(place: Place) -> Existing | None:
        found = existing_at(place)
        place.path.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(stock, "existing_at", then_gone)
    assert look(stocked).standing is Standing.DONE


def test_a_record_of_other_bytes_is_told_from_none(stocked: Stocked) -> None:
    path = stocked.tune(NAME, judged_on=None)
    path.write_bytes(path.read_bytes() + b"\n")
    assert look(stocked).why[0] == "its record is of other bytes than the file's"
    stocked.store.record_of(path).unlink()
    assert look(stocked).why[0] == "no record of a measurement"


class TestRemarks:
    def test_a_row_that_loses_on_an_engines_kernel(self, stocked: Stocked) -> None:
        stocked.tune(NAME, judged_on=[Engine.VLLM])
        stocked.judge(NAME, Engine.SGLANG, slower=1)
        found = look(stocked)
        assert found.standing is Standing.DONE
        assert found.remarks == ("a row is slower than without the file on the kernel of SGLang",)

    @pytest.mark.parametrize(
        ("geomean", "told"), [(1.01, []), (1.21, ["1.210 of the time of the file that SGLang ships"])]
    )
    def test_an_engines_own_file_that_is_faster(self, stocked: Stocked, geomean: float, told: list[str]) -> None:
        stocked.tune(NAME, judged_on=[Engine.VLLM])
        stocked.judge(NAME, Engine.SGLANG, shipped=CheckedShipped("a" * 64, 1.6, geomean, 0.9))
        assert [*look(stocked).remarks] == told

    def test_the_loader_and_the_promotion_rule_have_one_margin(self) -> None:
        assert pytest.approx(PromotionPolicy().min_improvement_pct / 100.0) == MARGIN

    def test_nothing_to_gain(self, stocked: Stocked) -> None:
        stocked.tune(NAME)
        for engine in Engine:
            stocked.judge(NAME, engine, 0.991)
        (remark,) = look(stocked).remarks
        assert remark.startswith("nothing to gain")
        stocked.judge(NAME, Engine.SGLANG, 0.989)
        assert look(stocked).remarks == (), "on one engine's kernel there is"


@pytest.mark.parametrize(
    "judgements",
    [
        (("1.9.0", "2026-03-10"), ("1.10.0", "2026-03-10")),
        (("1.10.0", "2026-03-10"), ("1.9.0", "2026-03-10")),
        (("1.9.0", "2026-03-10"), ("1.10.0", "2026-03-09"), ("1.11.0", "2026-03-09")),
    ],
    ids=["of one day the last", "whatever its version", "else that of the newest day"],
)
def test_the_newest_judgement_of_an_engine_counts(stocked: Stocked, judgements: tuple[tuple[str, str], ...]) -> None:
    stocked.tune(NAME)
    for version, date in judgements:
        stocked.judge(NAME, Engine.VLLM, version=version, date=date)
    day = max(date for _, date in judgements)
    newest = [version for version, date in judgements if date == day][-1]
    assert look(stocked).judged[Engine.VLLM].version == newest


def test_a_judgement_older_than_the_file_is_none_of_it(stocked: Stocked) -> None:
    stocked.tune(NAME)
    for engine in Engine:
        stocked.judge(NAME, engine, date="2020-01-01")
    assert look(stocked).standing is Standing.UNJUDGED
