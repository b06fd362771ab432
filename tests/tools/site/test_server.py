"""The document behind «Which file does my server read?»: small, and every place in it leads to a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fused_moe_configs.next_step import NextStep
from tests.builders import H100, devices, models
from tests.tools.site.stores import MIXTRAL, add, checked, store_at
from tools.registry.engines import load_engines
from tools.site.files import files_in, read_files, slug_of
from tools.site.questions import Questions
from tools.site.server import GPU_FIELDS, document, install_line, lines_to_type

MIXTRAL_ID = "mistralai/Mixtral-8x7B-v0.1"
REPOSITORY = "https://example.org/repository"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of Mixtral, in a store with one file for it."""
    store = store_at(tmp_path_factory.mktemp("site") / "configs", [MIXTRAL_ID])
    add(store)
    questions = Questions(store.root, devices(), load_engines(), read_files(files_in(store.root)))
    model = models().find(MIXTRAL_ID)
    return document(model, questions.rows(model), REPOSITORY)


def row_of(asked: dict[str, Any], engine: str, tp: int, ep: int = 1) -> dict[str, Any]:
    return next(row for row in asked["rows"] if (row["engine"], row["tp"], row["ep"]) == (engine, tp, ep))


def answer_of(asked: dict[str, Any], row: dict[str, Any], device: str) -> dict[str, str | None]:
    """As the page reads it: by field, each place's text."""
    texts = asked["texts"]
    by_field = [dict(zip(asked["fields"], answer, strict=True)) for answer in row["answers"]]
    told = [{name: None if place == -1 else texts[place] for name, place in each.items()} for each in by_field]
    return next(each for each in told if each["device"] == device)


def test_a_file_that_serves_is_named_with_its_page_and_gain(asked: dict[str, Any]) -> None:
    row = row_of(asked, "vllm", 2)
    assert (row["name"], row["placed"]) == ("vLLM", True)
    assert row["shape"] == "E=8, N=7168, K=4096, top_k=2, bf16"
    found = answer_of(asked, row, H100)
    assert list(found) == list(GPU_FIELDS)
    assert (found["file"], found["engine_file"]) == (MIXTRAL, MIXTRAL)
    assert (found["state"], found["page"], found["gain"]) == ("claimed", slug_of(MIXTRAL), "−7.0 %")
    assert str(found["command"]).startswith(f"{install_line(REPOSITORY)}\nfused-moe-configs export ")


def test_where_the_engines_own_file_is_faster_the_answer_says_so(tmp_path: Path) -> None:
    store, model = store_at(tmp_path / "configs", [MIXTRAL_ID]), models().find(MIXTRAL_ID)
    add(store, engine_checked=[checked(over_shipped=0.9), checked("sglang", over_shipped=1.21)])
    questions = Questions(store.root, devices(), load_engines(), read_files(files_in(store.root)))
    asked = document(model, questions.rows(model), REPOSITORY)
    assert answer_of(asked, row_of(asked, "vllm", 2), H100)["behind"] is None
    assert answer_of(asked, row_of(asked, "sglang", 2), H100)["behind"] == (
        "SGLang 0.5.23’s own file is faster: with this one the layer takes 21.0 % more time. "
        "An export over the engine’s own keeps it."
    )


def test_without_a_file_there_is_no_page_and_no_gain_but_a_walk(asked: dict[str, Any]) -> None:
    found = answer_of(asked, row_of(asked, "vllm", 4), H100)
    assert (found["state"], found["page"], found["gain"]) == ("none", None, None)
    assert str(found["walk"]).startswith("no file  configs/E=8,N=3584,")
    assert found["command"] == f"./nox -s tune -- --model {MIXTRAL_ID} --tp 4"


def test_what_the_engine_does_not_run_is_a_refusal_without_answers(asked: dict[str, Any]) -> None:
    row = row_of(asked, "vllm", 16, 16)
    assert row["refusal"].endswith("ep: expected at most its 8 experts, found 16. Fix: use a smaller ep.")
    assert not {"answers", "shape"} & row.keys()


def test_a_text_stands_once_and_each_is_led_to(asked: dict[str, Any]) -> None:
    places = {place for row in asked["rows"] for answer in row.get("answers", ()) for place in answer}
    assert len(set(asked["texts"])) == len(asked["texts"])
    assert places - {-1} == set(range(len(asked["texts"])))


class TestLinesToType:
    def test_the_loader_is_installed_first(self) -> None:
        command = "fused-moe-configs export moe-configs --engine vllm"
        assert lines_to_type(NextStep(command), REPOSITORY) == f"{install_line(REPOSITORY)}\n{command}"

    def test_a_checkout_has_what_it_needs(self) -> None:
        command = "./nox -s tune -- --model a/b --tp 2"
        assert lines_to_type(NextStep(command), REPOSITORY) == command

    def test_where_there_is_nothing_to_do_nothing_is_typed(self) -> None:
        assert lines_to_type(NextStep("", "the engine reads none"), REPOSITORY) == ""
