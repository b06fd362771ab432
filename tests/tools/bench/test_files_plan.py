"""Which files are measured, beside whom, and what is said of those that are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import QuantMode
from tests.tools.compile.tuned_files import DEEPSEEK, MIXTRAL, SOUND, tuned
from tests.tools.validate.builder import NAME, Store
from tools.bench.contestants import NO_FILE, SGLANG_NO_FILE, ContestantError
from tools.bench.files_plan import Plan, make_plan, read_files
from tools.bench.files_request import parse
from tools.bench.request import RequestError
from tools.measure.layer import LayerShape
from tools.registry.devices import Device, load_devices
from tools.store.config_file import ConfigFile

OLD, DEEP = (32, 64, 64, 1, 4, 3), (16, 64, 256, 1, 4, 3)
ELSEWHERE = MIXTRAL.replace("H100_80GB_HBM3", "H200")
INT4 = MIXTRAL.replace(".json", ",dtype=int4_w4a16.json")
DOWN = MIXTRAL.replace(".json", "_down.json")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def read(said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[ConfigFile]]:
    """Reads with a command line, from tmp_path; what is said goes to `said`."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: read_files(parse([*map(str, arguments)]), said.append)


@pytest.fixture(scope="module")
def h100() -> Device:
    return load_devices().find("NVIDIA H100 80GB HBM3")


def names(files: list[ConfigFile]) -> list[str]:
    return [file.found.relative.as_posix() for file in files]


class TestReadFiles:
    def test_all_tuned_files_below_a_folder(
        self, read: Callable[..., list[ConfigFile]], said: list[str], tmp_path: Path
    ) -> None:
        tuned(tmp_path / "configs", {1: SOUND})
        tuned(tmp_path / "configs" / "triton_3_7_0", {1: SOUND})
        (tmp_path / "configs" / "README.md").write_text("-", "utf-8")
        assert names(read("configs")) == [MIXTRAL, f"triton_3_7_0/{MIXTRAL}"]
        assert said == []

    def test_a_down_file_is_said_to_be_left_out(
        self, read: Callable[..., list[ConfigFile]], said: list[str], tmp_path: Path
    ) -> None:
        tuned(tmp_path / "configs", {1: SOUND})
        tuned(tmp_path / "configs", {1: SOUND}, DOWN)
        assert names(read("configs")) == [MIXTRAL]
        assert said == [
            f"not measured: configs/{DOWN}, a _down file: both projections run the up file's entries here, as in vLLM"
        ]

    def test_a_down_file_alone_is_refused_with_the_way_out(
        self, read: Callable[..., list[ConfigFile]], tmp_path: Path
    ) -> None:
        tuned(tmp_path, {1: SOUND}, DOWN)
        with pytest.raises(RequestError, match=r"found only _down files: .* Fix: name the up file"):
            read(DOWN)

    def test_what_the_engine_would_not_read_is_said(
        self, read: Callable[..., list[ConfigFile]], said: list[str], tmp_path: Path
    ) -> None:
        tuned(tmp_path / "folder", {1: SOUND})
        tuned(tmp_path / "folder" / "deeper", {1: SOUND}, DEEPSEEK)
        assert names(read("folder", "--layout", "vllm")) == [MIXTRAL]
        assert len(said) == 1
        assert said[0].startswith(f"not measured: folder/deeper/{DEEPSEEK}: not read by vLLM in this place. Fix: ")

    @pytest.mark.parametrize(
        ("path", "found"),
        [
            ("nowhere", r"^nowhere: expected a file or a folder, found: .*\. Fix: "),
            ("empty", "expected at least one tuned file, found none"),
        ],
    )
    def test_nothing_to_measure_is_refused(
        self, read: Callable[..., list[ConfigFile]], tmp_path: Path, path: str, found: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(RequestError, match=found):
            read(path)

    def test_a_record_to_write_into_is_asked_for_before_anything_runs(
        self, read: Callable[..., list[ConfigFile]], tmp_path: Path
    ) -> None:
        store = Store(tmp_path / "configs")
        store.measured(store.config())
        assert names(read("configs", "--write-record")) == [NAME]
        store.record_of(store.root / NAME).unlink()
        with pytest.raises(RequestError, match=f"--write-record: expected a record configs/records/{NAME}, found none"):
            read("configs", "--write-record")


class TestMakePlan:
    @pytest.fixture
    def plan(self, read: Callable[..., list[ConfigFile]], h100: Device) -> Callable[..., Plan]:
        def of(*arguments: object) -> Plan:
            (file,) = read(*arguments)
            return make_plan(file, parse([*map(str, arguments)]), h100)

        return of

    def test_the_file_meets_both_heuristics_at_its_own_batch_sizes(
        self, plan: Callable[..., Plan], tmp_path: Path
    ) -> None:
        found = plan(tuned(tmp_path, {1: SOUND, 64: OLD}))
        assert [c.name for c in found.contestants] == ["this file", NO_FILE, SGLANG_NO_FILE]
        assert found.contestants[0].entries == {1: LaunchConfig(*SOUND), 64: LaunchConfig(*OLD)}
        assert found.batch_sizes == (1, 64)

    def test_other_batch_sizes_may_be_asked_for(self, plan: Callable[..., Plan], tmp_path: Path) -> None:
        found = plan(tuned(tmp_path, {1: SOUND, 64: OLD}), "--num-tokens", 128, 32)
        assert found.batch_sizes == (32, 128)
        assert all(c.entry(128) for c in found.contestants)

    def test_contestants_come_in_the_order_asked_for(self, plan: Callable[..., Plan], tmp_path: Path) -> None:
        own = tuned(tmp_path / "new", {1: SOUND})
        others = [tuned(tmp_path / name, {1: OLD}) for name in ("b", "a")]
        found = plan(own, "--against", others[0], "--against", "heuristic", "--against", others[1])
        assert [c.name for c in found.contestants] == ["this file", "b", NO_FILE, SGLANG_NO_FILE, "a"]

    def test_folders_of_one_name_are_told_apart(self, plan: Callable[..., Plan], tmp_path: Path) -> None:
        own = tuned(tmp_path / "new", {1: SOUND})
        others = [str(tuned(tmp_path / name / "configs", {1: OLD})) for name in ("b", "a")]
        found = plan(own, "--against", others[0], "--against", others[1])
        assert [c.name for c in found.contestants] == ["this file", *others]

    def test_shapes_come_from_the_record(self, plan: Callable[..., Plan], tmp_path: Path) -> None:
        store = Store(tmp_path / "configs")
        shapes = [{"K": 2048, "top_k": 8, "models": []}, {"K": 4096, "top_k": 2, "models": []}]
        store.measured(store.config(), shapes=shapes)
        found = plan(store.root)
        assert found.shapes == (
            LayerShape(8, 1024, 2048, 8, QuantMode()),
            LayerShape(8, 1024, 4096, 2, QuantMode()),
        )
        assert found.notes == ()

    def test_a_shape_that_nobody_says_is_assumed_and_said(self, plan: Callable[..., Plan], tmp_path: Path) -> None:
        found = plan(tuned(tmp_path, {1: SOUND}, MIXTRAL.replace("E=8,N=7168", "E=7,N=96")))
        assert found.shapes == (LayerShape(7, 96, 4096, 2, QuantMode()),)
        assert found.notes == ("assumed K=4096, top_k=2: nobody says them",)

    def test_a_tile_that_vllm_clamps_is_said_for_each_contestant(
        self, plan: Callable[..., Plan], tmp_path: Path
    ) -> None:
        own = tuned(tmp_path / "new", {1: DEEP, 64: OLD, 128: DEEP}, DEEPSEEK)
        other = tuned(tmp_path / "old", {1: OLD, 128: DEEP}, DEEPSEEK)
        found = plan(own, "--against", other, "--against", "heuristic")
        assert found.notes == (
            "this file, M=1, 128: BLOCK_SIZE_K clamped to 128, as vLLM does",
            "old, M=128: BLOCK_SIZE_K clamped to 128, as vLLM does",
        )
        assert found.contestants[0].entry(1).BLOCK_SIZE_K == 256

    def test_without_scale_blocks_nothing_is_clamped(self, plan: Callable[..., Plan], tmp_path: Path) -> None:
        assert plan(tuned(tmp_path, {1: DEEP})).notes == ()

    def test_a_down_twin_is_said_to_be_left_out(self, plan: Callable[..., Plan], tmp_path: Path) -> None:
        tuned(tmp_path, {1: SOUND}, DOWN)
        found = plan(tuned(tmp_path, {1: SOUND}))
        assert found.notes == (f"{DOWN} is not measured: both projections run the up file's entries here, as in vLLM",)

    def test_a_file_of_a_tier_is_named_with_it(self, plan: Callable[..., Plan], tmp_path: Path) -> None:
        assert plan(tuned(tmp_path / "triton_3_7_0", {1: SOUND})).name == f"triton_3_7_0/{MIXTRAL}"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            (
                MIXTRAL.replace("H100_80GB_HBM3", "H200"),
                "expected a file of this GPU, NVIDIA_H100_80GB_HBM3, found NVIDIA_H200.",
            ),
            (
                MIXTRAL.replace(".json", ",dtype=int4_w4a16.json"),
                "expected a dtype that this kernel runs, found int4_w4a16.",
            ),
            ("a.json", "expected E=…,N=…,device_name=…"),
        ],
    )
    def test_what_cannot_run_here_is_refused_by_name(
        self, plan: Callable[..., Plan], tmp_path: Path, name: str, message: str
    ) -> None:
        with pytest.raises(ContestantError) as raised:
            plan(tuned(tmp_path, {1: SOUND}, name))
        assert str(raised.value).startswith(f"{name}: {message}")
        assert "\n" not in str(raised.value)
