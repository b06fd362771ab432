"""«Which file does my server read?»: the site's answers are the loader's, on every workload of the registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from fused_moe_configs.commands import prospect
from fused_moe_configs.commands.of_model import AskedModel
from fused_moe_configs.lookup import Chain
from fused_moe_configs.serving import serve
from tests.builders import H100, Store, devices, models
from tests.tools.site.stores import BOOM, MIXTRAL, add, rows, store_at, survey, surveyed
from tools.checkout import CONFIGS
from tools.registry.engines import load_engines
from tools.site.coverage import is_shown
from tools.site.files import files_in, read_files
from tools.site.questions import Questions, Row, State
from tools.site.surveys import files_of, read_surveys
from tools.tune.request import parse
from tools.tune.subject import SubjectError, make_subject

MIXTRAL_ID = "mistralai/Mixtral-8x7B-v0.1"


def questions(configs: Path = CONFIGS, measurements: Path | None = None) -> Questions:
    files = read_files(files_in(configs))
    surveys, _ = read_surveys(measurements or configs / "none")
    return Questions(configs, devices(), load_engines(), files, files_of(surveys))


def row_of(asked: Questions, model: str, engine: str, tp: int, ep: int = 1) -> Row:
    found = asked.rows(models().find(model))
    return next(row for row in found if (row.release.name, row.tp, row.ep) == (engine, tp, ep))


@pytest.fixture(scope="module")
def placed() -> Mapping[str, list[Row]]:
    """Every row that is shown, of every model."""
    asked = questions()
    return {model.id: [row for row in asked.rows(model) if is_shown(row)] for model in models()}


def test_every_placement_of_the_registry_is_asked_about(placed: Mapping[str, list[Row]]) -> None:
    for model in models():
        for placement in model.placements:
            of_sizes = [row for row in placed[model.id] if (row.tp, row.ep) == (placement.tp, placement.ep)]
            engines = {row.release.name for row in of_sizes}
            assert engines >= ({placement.engine} if placement.engine else {"vllm", "sglang"}), (model.id, placement)


def test_what_an_engine_runs_is_the_loaders_answer_on_every_device(placed: Mapping[str, list[Row]]) -> None:
    count = 0
    for model in models():
        for row in (row for row in placed[model.id] if not row.refusal):
            for device in devices():
                answer = row.answers[device.name]
                loaders = serve(model.checkpoint, row.release, row.tp, row.ep, device.name, device.arch)
                assert answer.serving == loaders
                assert (answer.looked.name if answer.looked else None) == loaders.file
                assert (answer.looked.engine_name if answer.looked else None) == loaders.engine_file
                count += 1
    assert count > 10_000


def test_the_walk_and_its_end_are_the_loaders_on_every_placement(placed: Mapping[str, list[Row]]) -> None:
    chain, seen = Chain(CONFIGS), set[str]()
    for model in models():
        families = {placement.device for placement in model.placements} or {"H100"}
        for row in placed[model.id]:
            for answer in row.answers.values():
                looked = answer.looked
                if answer.device.family not in families or looked is None or looked.name in seen:
                    continue
                seen.add(looked.name)
                lookup, _ = chain.look_up(looked.name, chain.tiers(answer.of_arch.triton))
                assert looked.walk == str(lookup).replace(str(CONFIGS), "configs")
                winner = lookup.winner.relative_to(CONFIGS).as_posix() if lookup.winner else None
                assert (answer.file.path if answer.file else None) == winner
    assert len(seen) > 500


@pytest.mark.parametrize(
    ("model", "engine", "tp", "ep", "device"),
    [
        (MIXTRAL_ID, "vllm", 2, 1, H100),
        (MIXTRAL_ID, "sglang", 2, 1, "NVIDIA_H200"),
        (MIXTRAL_ID, "vllm", 4, 1, "NVIDIA_A100-SXM4-80GB"),
        ("deepseek-ai/DeepSeek-V3", "vllm", 16, 1, "NVIDIA_H200"),
        ("deepseek-ai/DeepSeek-V3", "sglang", 16, 16, "NVIDIA_H200"),
        ("Qwen/Qwen3-30B-A3B", "vllm", 1, 1, "NVIDIA_H100_NVL"),
        ("poolside/Laguna-M.1", "vllm", 8, 1, H100),  # of a file that three shapes share
        ("poolside/Laguna-M.1", "sglang", 8, 1, H100),
        ("openai/gpt-oss-120b", "vllm", 1, 1, H100),
    ],
)
def test_what_to_do_next_is_what_doctor_says(
    model: str, engine: str, tp: int, ep: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fused_moe_configs.machine.version_of", lambda package: None)
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER", raising=False)
    monkeypatch.delenv("SGLANG_MOE_CONFIG_DIR", raising=False)
    (doctor,) = prospect.look(AskedModel(model, tp, ep), [engine], device, None)
    answer = row_of(questions(), model, engine, tp, ep).answers[device]
    assert str(answer.step) == doctor.next_step
    assert doctor.serving == answer.serving
    if answer.ratio is not None:
        assert f"over no file: {(answer.ratio - 1) * 100:+.1f} % time" in [
            line.rpartition("; ")[2] for line in doctor.lines()
        ]


# ---------------------------------------------------------------
# States


def test_every_tune_line_that_is_offered_is_one_that_the_tuner_takes(placed: Mapping[str, list[Row]]) -> None:
    known = models(), devices()
    gpus = {each.arch: each.name for each in devices() if each.arch and each.smem_bytes_per_block}
    lines = {
        (answer.step.command, device)
        for rows in placed.values()
        for row in rows
        for device in gpus.values()
        if (answer := row.answers.get(device)) and answer.step.command.startswith("./nox -s tune -- ")
    }
    assert lines
    refused = []
    for line, device in lines:
        request = parse(line.removeprefix("./nox -s tune -- ").split())
        try:
            make_subject(request.sources[0], device, *known, engine=request.engine)
        except SubjectError as error:
            refused.append(f"{line} on {device}: {error}")
    assert refused == []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "configs")


def test_an_empty_store_has_an_answer_for_everything(store: Store) -> None:
    row = row_of(questions(store.root), MIXTRAL_ID, "vllm", 2)
    answer = row.answers[H100]
    assert (answer.state, answer.file) == (State.NONE, None)
    assert answer.step.command == f"./nox -s tune -- --model {MIXTRAL_ID} --tp 2"


def test_a_measured_file_is_claimed_until_main_says_otherwise(store: Store) -> None:
    add(store)
    answer = row_of(questions(store.root), MIXTRAL_ID, "vllm", 2).answers[H100]
    assert answer.state is State.CLAIMED
    assert answer.file is not None
    assert answer.file.path == MIXTRAL
    assert answer.step.command.startswith("fused-moe-configs export ./moe-configs --engine vllm && export VLLM_")


def test_a_figure_of_another_shape_is_no_claim_about_this_one(store: Store) -> None:
    """The name has no K: a file that was measured for another model serves this one too."""
    add(store, shapes=[{"K": 3072, "top_k": 2, "models": ["other/model tp=2"]}])
    answer = row_of(questions(store.root), MIXTRAL_ID, "vllm", 2).answers[H100]
    assert (answer.state, answer.ratio) == (State.OTHER_SHAPE, None)
    assert answer.step.command.startswith("fused-moe-configs export")
    add(store)
    answer = row_of(questions(store.root), MIXTRAL_ID, "vllm", 2).answers[H100]
    assert answer.state is State.CLAIMED
    assert answer.ratio == pytest.approx(0.93, abs=0.001)


def test_a_models_figure_is_of_its_own_shape_where_the_record_tells_it(store: Store) -> None:
    document = rows(ratio=0.99)  # of the worst shape, the first
    for each in document.values():
        own = [part for part in each["parts"] if part["engine"] == "vllm"]
        each["parts"] += [{**part, "shape": 1, "ratio": 0.9, "low": 0.89, "high": 0.91} for part in own]
    both = [
        {"K": 3072, "top_k": 2, "models": ["other/model tp=2"]},
        {"K": 4096, "top_k": 2, "models": [f"{MIXTRAL_ID} tp=2"]},
    ]
    add(store, shapes=both, rows=document)
    answer = row_of(questions(store.root), MIXTRAL_ID, "vllm", 2).answers[H100]
    assert answer.ratio == pytest.approx(0.9)


def test_a_published_and_an_unrecorded_file_are_no_claims(store: Store) -> None:
    path = store.config(name=MIXTRAL)
    assert row_of(questions(store.root), MIXTRAL_ID, "vllm", 2).answers[H100].state is State.PUBLISHED
    store.record_of(path).unlink()
    assert row_of(questions(store.root), MIXTRAL_ID, "vllm", 2).answers[H100].state is State.UNRECORDED


def test_a_broken_file_stands_in_the_way(store: Store) -> None:
    store.file(BOOM.encode(), MIXTRAL)
    answer = row_of(questions(store.root), MIXTRAL_ID, "vllm", 2).answers[H100]
    assert answer.state is State.BROKEN
    assert answer.step.command == ""
    assert str(store.root) not in answer.step.note


def test_a_siblings_file_is_offered(store: Store) -> None:
    sibling = next(device for device in devices() if device.siblings)
    add(store, MIXTRAL.replace(H100, sibling.siblings[0]))
    answer = row_of(questions(store.root), MIXTRAL_ID, "vllm", 2).answers[sibling.name]
    assert answer.state is State.NONE
    assert "--siblings" in answer.step.command


def test_the_engines_own_file_is_known_where_it_was_surveyed(store: Store, tmp_path: Path) -> None:
    survey(tmp_path / "m", [surveyed(MIXTRAL, [1.1, 1.1])])
    asked = questions(store.root, tmp_path / "m")
    vllm, sglang = (row_of(asked, MIXTRAL_ID, engine, 2).answers[H100] for engine in ("vllm", "sglang"))
    assert (vllm.state, sglang.state) == (State.SHIPPED, State.NONE)
    assert vllm.looked is not None
    assert vllm.looked.surveyed is not None
    assert vllm.looked.surveyed.ratio == pytest.approx(1.1)


def test_what_the_default_backend_does_not_read_is_said_even_where_a_file_lies(store: Store) -> None:
    row = row_of(questions(store.root), "deepseek-ai/DeepSeek-V3", "vllm", 16)
    assert row.answers["NVIDIA_A100-SXM4-80GB"].state is State.NOT_READ


def test_sizes_that_do_not_divide_are_refused_in_the_engines_words(store: Store) -> None:
    refused = [row for row in questions(store.root).rows(models().find("Qwen/Qwen3-30B-A3B-FP8")) if row.refusal]
    assert refused
    assert all("Fix: " in row.refusal and not row.answers for row in refused)
