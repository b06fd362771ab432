"""The boards: what is wanted, gained, lost, and how fresh it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import H100, Store, devices, models, signed
from tests.tools.site.stores import MIXTRAL, QWEN, QWEN_ID, add, checked, rows, store_at, survey, surveyed
from tools.portfolio.wanted import wanted_on
from tools.registry.engines import load_engines
from tools.registry.models import ModelRegistry
from tools.site import boards
from tools.site.coverage import Line, States, lines_of
from tools.site.files import TunedFile, files_in, read_files
from tools.site.questions import Questions
from tools.site.surveys import files_of, read_surveys, wholes


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "configs")


def files(store: Store) -> list[TunedFile]:
    return read_files(files_in(store.root))


def lines(store: Store, *names: str) -> list[Line]:
    asked = Questions(store.root, devices(), load_engines(), files(store))
    return [line for name in names for line in lines_of(models().find(name), name, asked.rows(models().find(name)))]


def holes(store: Store, *ids: str) -> list[boards.Hole]:
    kept = [models().find(name) for name in ids]
    wanted = wanted_on(devices().find(H100), ModelRegistry(tuple(kept)))
    return boards.holes([wanted], States(lines(store, *ids)), {model.id: model.id for model in kept}, ())


def test_a_missing_file_is_wanted_by_each_model_that_asks_for_it(store: Store) -> None:
    found = holes(store, QWEN_ID, "zai-org/GLM-5-FP8", "deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2")
    asked = {each.name: each for each in found}
    assert QWEN in asked
    shared = next(each for each in found if each.models > 1)
    assert {"deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-V3.2"} <= {model for model, *_ in shared.askers}
    assert all(each.command.startswith("./nox -s tune -- --model ") for each in found)
    assert found == sorted(found, key=lambda each: -each.score) or found[0].score >= found[-1].score


def test_a_hole_is_filled_for_the_fewest_ranks_and_for_all_shapes_behind_the_name() -> None:
    known = [models().find(name) for name in (QWEN_ID, "deepseek-ai/DeepSeek-V3", "zai-org/GLM-5-FP8")]
    wanted, slugs = (
        wanted_on(devices().find(H100), ModelRegistry(tuple(known))),
        {model.id: model.id for model in known},
    )
    found = {each.name: each for each in boards.holes([wanted], States([]), slugs, ())}
    assert found[QWEN].command == f"./nox -s tune -- --model {QWEN_ID} --tp 1"
    assert [words for _, words, _, _ in found[QWEN].askers] == ["TP1, both"]
    several = next(each for each in found.values() if each.models == 2 and "--engine sglang" in each.command)
    assert several.command.endswith(" --engine sglang --all-shapes")
    assert {words for _, words, _, _ in several.askers} == {"TP16, SGLang"}
    (one,) = (each for each in wanted.names if each.name == QWEN)
    more = replace(one, uses=(replace(one.uses[0], tp=8), *one.uses))
    (hole,) = boards.holes([replace(wanted, names=(more,))], States([]), slugs, ())
    assert hole.command.endswith(" --tp 1")


def test_of_two_engines_files_the_one_counts_that_costs_more(tmp_path: Path) -> None:
    """A file that doesn't run has no figure."""
    model = models().find(QWEN_ID)
    wanted = wanted_on(devices().find(H100), ModelRegistry((model,)))
    failing = QWEN.replace("N=768", "N=384")
    survey(tmp_path, [surveyed(QWEN, [1.1]), surveyed(failing, [None])])
    survey(tmp_path, [surveyed(QWEN, [1.3])], engine="sglang")
    found = boards.holes([wanted], States([]), {model.id: model.id}, files_of(read_surveys(tmp_path)[0]))
    ratios = {each.name: each.surveyed_ratio for each in found}
    assert (ratios[QWEN], ratios[failing]) == (pytest.approx(1.3), None)


def test_a_file_that_is_here_is_not_wanted(store: Store) -> None:
    add(store, QWEN)
    assert QWEN not in {each.name for each in holes(store, QWEN_ID)}


def test_models_without_placements_want_nothing(store: Store) -> None:
    assert holes(store, next(model.id for model in models() if not model.placements)) == []


def test_the_largest_gain_stands_first_and_files_without_figures_nowhere(store: Store) -> None:
    add(store, rows=rows(ratio=0.95))
    add(store, MIXTRAL.replace("7168", "3584"), rows=rows(ratio=0.8))
    store.config(name=MIXTRAL.replace("7168", "1792"))
    alone = rows(sglang=0.5)
    for each in alone.values():
        each["parts"] = [part for part in each["parts"] if part["engine"] == "sglang"]
    add(store, MIXTRAL.replace("7168", "896"), rows=alone)
    found = [next(iter(file.known.ratios.items())) for file in boards.largest_gains(files(store))]
    assert [(engine, ratios.geomean) for engine, ratios in found] == [("vllm", 0.8), ("vllm", 0.95), ("sglang", 0.5)]


def negatives(store: Store) -> list[str]:
    return [each.what for each in boards.negatives(files(store))]


def test_a_file_that_gains_has_no_negatives(store: Store) -> None:
    add(store, engine_checked=[checked(over_shipped=0.5)])
    assert negatives(store) == []


def test_what_gains_hardly_anything_or_may_lose_is_told(store: Store) -> None:
    found: dict[str, Any] = rows(ratio=0.995, sglang=0.998)
    found["64"] |= {"bounded": False, "unbounded": [{"engine": "vllm", "shape": 0, "routing": "uniform"}]}
    add(store, rows=found, engine_checked=[checked(over_shipped=0.999)])
    assert negatives(store) == [
        "may be more than 2 % slower than a heuristic at M = 64",
        "gains 0.5 % over vLLM's heuristic: hardly anything",
        "gains 0.2 % over SGLang's heuristic: hardly anything",
        "gains 0.1 % over vLLM 0.33.0's file: hardly anything",
    ]


def test_an_engines_file_that_is_faster_is_told_first_and_as_a_loss(store: Store) -> None:
    add(store, rows=rows(ratio=0.995))
    add(store, QWEN, engine_checked=[checked(over_shipped=1.03), checked("sglang", over_shipped=1.21)])
    assert negatives(store) == [
        "takes 21.0 % more time than SGLang 0.5.23's own file",
        "takes 3.0 % more time than vLLM 0.33.0's own file",
        "gains 0.5 % over vLLM's heuristic: hardly anything",
    ]


def test_a_workload_stands_among_the_gains_once_and_its_down_projection_does_not(store: Store) -> None:
    add(store)
    add(store, folder="triton_3_6_0", rows=rows(ratio=0.5))
    add(store, MIXTRAL.replace(".json", "_down.json"), rows=rows(ratio=0.4))
    assert [file.path for file in boards.largest_gains(files(store))] == [MIXTRAL]


class TestWhatSurveysSayOfAHole:
    def shipped(self, store: Store, folder: Path) -> str:
        wanted = wanted_on(devices().find(H100), ModelRegistry((models().find(QWEN_ID),)))
        surveys, slugs = read_surveys(folder)[0], {QWEN_ID: QWEN_ID}
        found = boards.holes([wanted], States(lines(store, QWEN_ID)), slugs, files_of(surveys), wholes(surveys))
        return next(each.shipped for each in found if each.name == QWEN)

    def test_one_that_both_engines_surveys_do_not_list_is_none(self, store: Store, tmp_path: Path) -> None:
        survey(tmp_path / "m", [])
        assert self.shipped(store, tmp_path / "m") == "not surveyed", "SGLang may ship one"
        survey(tmp_path / "m", [], engine="sglang")
        assert self.shipped(store, tmp_path / "m") == "none"

    def test_one_that_a_survey_did_not_come_to_is_not_measured(self, store: Store, tmp_path: Path) -> None:
        survey(tmp_path / "m", [], left_out=[{"file": QWEN, "reason": "not reached", "is_missing": True}])
        assert self.shipped(store, tmp_path / "m") == "not measured"

    def test_one_that_fails_is_said_to(self, store: Store, tmp_path: Path) -> None:
        survey(tmp_path / "m", [surveyed(QWEN, [None])])
        assert self.shipped(store, tmp_path / "m") == "fails"


def test_each_survey_has_the_files_that_it_measured(tmp_path: Path) -> None:
    unreached = {"file": QWEN, "reason": "not reached", "is_missing": True}
    survey(tmp_path, [surveyed(MIXTRAL, [1.2])], left_out=[unreached])
    survey(tmp_path, [surveyed(QWEN, [0.9])], engine="sglang")
    surveys, _ = read_surveys(tmp_path)
    found = boards.what_engines_ship(wholes(surveys), files_of(surveys))
    assert [(whole.engine, [file.name for file in files]) for whole, files in found] == [
        ("vllm", [MIXTRAL]),
        ("sglang", [QWEN]),
    ]


def test_freshness_tells_each_triton_and_when_main_verified(store: Store) -> None:
    line = {"triton": "3.6.0", "date": "2026-02-01", "worst_loss_pct": 1.5}
    path = add(store, verified_with=[line])
    record = store.record_of(path)
    record.write_text(json.dumps(signed(json.loads(record.read_text("utf-8")))), "utf-8")
    store.config(name=MIXTRAL.replace("7168", "1792"))
    tritons, (unmeasured, fresh) = boards.freshness(files(store))
    assert tritons == ["3.8.0", "3.6.0"]
    assert (fresh.own, fresh.verified, fresh.seen["3.6.0"].worst_loss_pct) == ("3.8.0", "2026-01-01", 1.5)
    assert (unmeasured.own, unmeasured.measured) == (None, None)


def test_the_tally_counts_each_name_once_a_gpu(store: Store) -> None:
    wanted = wanted_on(devices().find(H100), ModelRegistry((models().find(QWEN_ID),)))
    (before,) = boards.tally([wanted], States(lines(store, QWEN_ID)))
    add(store, QWEN)
    (after,) = boards.tally([wanted], States(lines(store, QWEN_ID)))
    assert (before.claimed, after.claimed) == (0, 1)
    assert before.wanted == after.wanted == len(wanted.names) == after.missing + 1
    store.config(name=QWEN.replace("N=768", "N=384"))  # published
    store.config(name=QWEN.replace("N=768", "N=192"), record=False)
    (last,) = boards.tally([wanted], States(lines(store, QWEN_ID)))
    assert (last.claimed, last.published, last.missing) == (1, 2, len(wanted.names) - 3)
    assert last.wanted == len(wanted.names)


def test_a_name_that_is_measured_for_some_who_ask_is_tallied_apart(store: Store) -> None:
    """Two models, two shapes, one name; the tuner knew one of them."""
    ids = ("poolside/Laguna-XS-2.1", "poolside/Laguna-S-2.1")
    add(store, f"E=256,N=256,device_name={H100}.json", shapes=[{"K": 2048, "top_k": 8, "models": []}])
    wanted = wanted_on(devices().find(H100), ModelRegistry(tuple(map(models().find, ids))))
    (found,) = boards.tally([wanted], States(lines(store, *ids)))
    assert (found.claimed, found.in_part, found.missing) == (0, 1, len(wanted.names) - 1)
