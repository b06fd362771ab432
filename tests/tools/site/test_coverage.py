"""The matrix: lines, cells, GPUs, and the same as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders import H100, Store, devices, models
from tests.tools.site.stores import QWEN, QWEN_ID, add, rows, store_at, survey, surveyed
from tools.portfolio.wanted import wanted_on
from tools.registry.engines import load_engines
from tools.registry.models import ModelRegistry
from tools.site.coverage import (
    COLUMNS,
    MOST_COLUMNS,
    Cell,
    Line,
    States,
    columns_of,
    in_order,
    is_shown,
    lines_of,
    only_on,
    records,
    to_csv,
)
from tools.site.files import files_in, read_files
from tools.site.questions import UNPLACED_SIZES, Questions, Row, State
from tools.site.surveys import files_of, read_surveys


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "configs")


def lines(store: Store, *names: str) -> list[Line]:
    asked = Questions(store.root, devices(), load_engines(), read_files(files_in(store.root)))
    return [line for name in names for line in lines_of(models().find(name), "slug", asked.rows(models().find(name)))]


def line(model: str, tp: int = 1, ep: int = 1, *, is_placed: bool = True, cell: Cell | None = None) -> Line:
    return Line(model, "slug", tp, ep, "bf16", is_placed, {(H100, "vllm"): cell} if cell else {})


def cell(state: State, name: str | None = QWEN, page: str | None = None) -> Cell:
    return Cell("vllm", "0.33.0", state, name, None, None, page, None, "", None)


def test_a_line_is_a_placement_and_a_cell_an_engines_answer(store: Store) -> None:
    add(store, QWEN)
    of_model = lines(store, QWEN_ID)
    placed = {(placement.tp, placement.ep) for placement in models().find(QWEN_ID).placements}
    assert {(line.tp, line.ep) for line in of_model} == placed
    line = next(line for line in of_model if line.tp == 1)
    vllm, sglang = (line.cells[H100, engine] for engine in ("vllm", "sglang"))
    assert (vllm.state, vllm.name, vllm.page) == (State.CLAIMED, QWEN, "e128-n768-nvidia_h100_80gb_hbm3")
    assert vllm.ratio == pytest.approx(0.93, abs=0.01)
    assert sglang.ratio == pytest.approx(0.8), "each engine's own heuristic"
    assert not vllm.is_hole


def test_a_hole_has_the_line_that_fills_it(store: Store) -> None:
    cell = lines(store, QWEN_ID)[0].cells[H100, "vllm"]
    assert cell.is_hole
    assert cell.command.startswith("./nox -s tune -- --model ")


def test_a_model_without_placements_has_the_usual_sizes(store: Store) -> None:
    model = next(model for model in models() if not model.placements)
    of_model = lines(store, model.id)
    assert {line.tp for line in of_model} <= set(UNPLACED_SIZES)
    assert of_model
    assert not any(line.is_placed for line in of_model)


def test_a_cell_is_of_the_engines_newest_release(store: Store) -> None:
    newest = [release for release in load_engines() if release.name == "vllm"][-1]
    releases = [newest, replace(newest, version="0.1.0")]
    asked = Questions(store.root, devices(), releases, [])
    (line, *_) = lines_of(models().find(QWEN_ID), "slug", asked.rows(models().find(QWEN_ID)))
    assert line.cells[H100, "vllm"].version == newest.version


def test_a_model_whose_shape_was_not_measured_has_no_figure(store: Store) -> None:
    add(store, QWEN, shapes=[{"K": 4096, "top_k": 8, "models": ["other/model tp=1"]}])
    found = lines(store, QWEN_ID)
    cell = next(line for line in found if line.tp == 1).cells[H100, "vllm"]
    assert (cell.state, cell.ratio, bool(cell.page)) == (State.OTHER_SHAPE, None, True)


# Both ask for one name on the H100, the first with K=2048 and top_k=8, the other with K=3072 and top_k=10.
SHARING = ("poolside/Laguna-XS-2.1", "poolside/Laguna-S-2.1")
SHARED = f"E=256,N=256,device_name={H100}.json"


def shared_store(root: Path) -> Store:
    """Where the shared name is measured for the first of them alone."""
    store = store_at(root, SHARING)
    add(store, SHARED, shapes=[{"K": 2048, "top_k": 8, "models": [f"{SHARING[0]} tp=2"]}])
    return store


def test_each_models_cell_has_the_state_of_its_own_shape(tmp_path: Path) -> None:
    store = shared_store(tmp_path / "configs")
    found = list(records(lines(store, *SHARING), [devices().find(H100)]))
    of_name = {
        (each["model"], each["state"], each["time_over_no_file"] is None) for each in found if each["file"] == SHARED
    }
    assert of_name == {(SHARING[0], "claimed", False), (SHARING[1], "other-shape", True)}


def test_a_name_counts_as_what_the_model_finds_that_finds_least(tmp_path: Path) -> None:
    store, device = shared_store(tmp_path / "configs"), devices().find(H100)
    wanted = {ids: wanted_on(device, ModelRegistry(tuple(map(models().find, ids)))) for ids in (SHARING, SHARING[:1])}
    found = {
        ids: [States(lines(store, *ids)).least(each, device) for each in of_ids.names if each.name == SHARED]
        for ids, of_ids in wanted.items()
    }
    assert found == {SHARING: [State.OTHER_SHAPE], SHARING[:1]: [State.CLAIMED]}


def test_an_engine_that_was_not_measured_has_no_claim(store: Store) -> None:
    """The tuner knew of vLLM's readers alone."""
    found = rows()
    for each in found.values():
        each["parts"] = [part for part in each["parts"] if part["engine"] == "vllm"]
    add(store, QWEN, rows=found)
    line = next(line for line in lines(store, QWEN_ID) if line.tp == 1)
    assert [line.cells[H100, engine].state for engine in ("vllm", "sglang")] == [State.CLAIMED, State.OTHER_SHAPE]


def test_who_does_not_read_a_file_says_nothing_of_it() -> None:
    device = devices().find(H100)
    wanted = wanted_on(device, ModelRegistry((models().find(QWEN_ID),)))
    (each,) = (each for each in wanted.names if each.name == QWEN)
    cells = {(H100, "vllm"): cell(State.NOT_READ), (H100, "sglang"): cell(State.CLAIMED)}
    assert States([replace(line(QWEN_ID), cells=cells)]).least(each, device) is State.CLAIMED
    only = {(H100, "vllm"): cell(State.NOT_READ)}
    assert States([replace(line(QWEN_ID), cells=only)]).least(each, device) is State.NONE


def test_of_a_model_whose_placements_are_known_they_alone_are_shown() -> None:
    known, unknown = models().find(QWEN_ID), next(model for model in models() if not model.placements)
    release = load_engines()[0]
    shown = [
        (model is known, tp, ep, is_placed)
        for model in (known, unknown)
        for tp, ep, is_placed in ((1, 1, False), (16, 1, False), (2, 2, False), (16, 16, True))
        if is_shown(Row(model, release, tp, ep, is_placed))
    ]
    assert shown == [(True, 16, 16, True), (False, 1, 1, False), (False, 16, 16, True)]


def test_a_file_that_an_engine_ships_has_the_surveys_figure_until_there_is_one_of_ours(
    store: Store, tmp_path: Path
) -> None:
    survey(tmp_path / "m", [surveyed(QWEN, [1.2])])
    model, surveys = models().find(QWEN_ID), files_of(read_surveys(tmp_path / "m")[0])

    def found() -> Cell:
        asked = Questions(store.root, devices(), load_engines(), read_files(files_in(store.root)), surveys)
        return next(line for line in lines_of(model, "slug", asked.rows(model)) if line.tp == 1).cells[H100, "vllm"]

    assert (found().state, found().ratio) == (State.SHIPPED, pytest.approx(1.2))
    add(store, QWEN)
    assert (found().state, found().ratio) == (State.CLAIMED, pytest.approx(0.93, abs=0.01))


def test_a_line_names_its_sizes() -> None:
    assert (line("a/A", 8).sizes, line("a/A", 8, 2).sizes) == ("TP8", "TP8 EP2")


def test_lines_with_a_file_stand_before_those_that_people_run_and_then_go_by_name_and_ranks() -> None:
    held = line("z/Z", cell=cell(State.CLAIMED, page="page"))
    placed, larger, other = line("B/B", 2), line("B/B", 4), line("c/C")
    unplaced = line("a/A", is_placed=False)
    assert in_order([unplaced, other, larger, placed, held], [H100]) == [held, placed, larger, other, unplaced]
    elsewhere = [unplaced, other, larger, placed, held]
    assert in_order(elsewhere, ["NVIDIA_H200"])[-2:] == [held, unplaced], "a file of another GPU doesn't count"


def test_what_has_a_file_stands_first(store: Store) -> None:
    add(store, QWEN)
    first = in_order(lines(store, "deepseek-ai/DeepSeek-V3", QWEN_ID), [H100])[0]
    assert first.model == QWEN_ID


def test_the_gpus_are_those_of_placements_then_those_with_files(store: Store) -> None:
    assert [device.family for device in columns_of(devices(), models(), ())] == ["H200", "H100"]
    for place, device in enumerate(devices()):
        for size in range(1, 2 + (place == 5)):
            store.config(name=f"E=8,N={size},device_name={device.name}.json")
    chosen = columns_of(devices(), models(), read_files(files_in(store.root)))
    assert len(chosen) == MOST_COLUMNS
    assert chosen[2] == devices().devices[5]


def test_of_a_family_the_gpu_with_most_files_stands_for_it_if_its_size_is_known(store: Store) -> None:
    def of_family() -> str:
        chosen = columns_of(devices(), models(), read_files(files_in(store.root)))
        return next(device.name for device in chosen if device.family == "H100")

    store.config(name="E=8,N=1,device_name=NVIDIA_H100.json")  # whose multiprocessors the registry doesn't know
    assert of_family() == H100
    store.config(name="E=8,N=1,device_name=NVIDIA_H100_NVL.json")
    assert of_family() == "NVIDIA_H100_NVL"


def test_a_file_under_an_alias_counts_for_its_gpu(store: Store) -> None:
    store.config(name="E=8,N=1,device_name=A100-SXM4-80GB.json")
    chosen = columns_of(devices(), models(), read_files(files_in(store.root)))
    assert chosen[-1].name == "NVIDIA_A100-SXM4-80GB"


def test_csv_says_what_the_matrix_does(store: Store) -> None:
    add(store, QWEN)
    found = list(records(lines(store, QWEN_ID), [devices().find(H100)]))
    read = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert tuple(read[0]) == COLUMNS
    assert len(read) == 2 * len(lines(store, QWEN_ID))
    (row,) = (each for each in read if (each["tp"], each["engine"]) == ("1", "vllm"))
    assert (row["state"], row["file"], row["gpu"]) == ("claimed", QWEN, H100)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"])
def test_a_spreadsheet_takes_no_text_for_a_formula(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv([dict.fromkeys(COLUMNS, text)])))
    assert set(row.values()) == {f"'{text}"}


def test_lines_of_one_gpu_keep_its_cells_alone(store: Store) -> None:
    (line, *_) = only_on(lines(store, QWEN_ID), [H100])
    assert {device for device, _ in line.cells} == {H100}
