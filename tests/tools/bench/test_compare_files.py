"""A whole bench of tuned files on a GPU that isn't there: what is printed, written, and noted in records."""

from __future__ import annotations

import datetime
import errno
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from fused_moe_configs.evidence import is_signed
from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.builders import NAME, Store, entry, signed, table
from tests.tools.bench.fake_gpu import H100, FakeGpu, fake_torch
from tools.bench import __main__ as command
from tools.bench import compare_files, session
from tools.bench.candidates import NO_FILE, Judging
from tools.compile.pool import CompilePool
from tools.errors import UserError
from tools.launch.heuristics import vllm_heuristic
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.panel import RULE, RoutingKind
from tools.measure.seeds import Purpose
from tools.registry.devices import Target
from tools.registry.reading import RegistryError
from tools.store import schemas
from tools.store.files import canonical_config, canonical_record, lock, sha256
from tools.validate.rules import record as record_rule

OWN = LaunchConfig.from_entry(entry())
TRITON = importlib.metadata.version("triton")
TODAY = "2026-03-09"


def wins(config: LaunchConfig, num_tokens: int) -> float:
    """The tuned file takes 100 µs, every other 125."""
    return 100.0 if config == OWN else 125.0


def loses_at_64(config: LaunchConfig, num_tokens: int) -> float:
    return 110.0 if config == OWN and num_tokens == 64 else 100.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """One measured file with its record."""
    store = Store(tmp_path / "configs")
    store.measured(store.config())
    return store


def record(store: Store, name: str = NAME) -> dict[str, Any]:
    return json.loads(store.record_of(store.root / name).read_text("utf-8"))


@pytest.fixture(autouse=True)
def _one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a run that midnight falls into."""
    monkeypatch.setattr(compare_files, "today", lambda: datetime.date.fromisoformat(TODAY))


def bench(*arguments: object) -> int:
    return command.main([str(argument) for argument in arguments])


class TestExitCodes:
    def test_a_file_that_wins_everywhere_ends_with_0(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        FakeGpu(wins).install(monkeypatch)
        assert bench(store.root) == 0
        printed = capsys.readouterr()
        assert f"## {NAME}" in printed.out
        won = "uniform: 0.800 of the heuristic's time: faster"
        assert f"{NAME}, M=64: vllm, {won}; sglang, {won}\n" in printed.err

    def test_a_row_that_loses_ends_with_1(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        FakeGpu(loses_at_64).install(monkeypatch)
        assert bench(store.root) == 1

    def test_progress_has_each_rival_with_the_number_before_the_verdict(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """«heuristic faster (0.652)» was read as if the heuristic won."""
        us: dict[Any, float] = {OWN: 104.0, LaunchConfig.from_entry(entry(num_stages=2)): 100.0}
        FakeGpu(lambda config, num_tokens: us.get(config, "out of memory")).install(monkeypatch)
        other = Store(store.root.parent / "other").config(table(num_stages=2))
        bench(store.root, "--against", other, "--against", "heuristic", "--num-tokens", 1)
        loss = f"1.040 of {other.parent.name}'s time: slower, the heuristic failed"
        assert f"M=1: vllm, uniform: {loss}; sglang, uniform: {loss}\n" in capsys.readouterr().err

    def test_a_row_that_does_not_run_ends_with_1(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        FakeGpu(wins, {OWN: "compile: no"}).install(monkeypatch)
        assert bench(store.root) == 1
        printed = capsys.readouterr()
        assert "| failed: compile: no |" in printed.out
        assert "M=1: vllm, uniform: this file failed: compile: no; sglang, uniform: this file failed" in printed.err

    @pytest.mark.parametrize(
        ("arguments", "torch", "told"),
        [
            (["--against", "no-such-branch"], fake_torch(), "expected heuristic, an existing file or a git revision"),
            ([], fake_torch("NVIDIA H200"), "expected a file of this GPU, NVIDIA_H200, found NVIDIA_H100_80GB_HBM3"),
            (
                [],
                fake_torch("Toaster 3000"),
                "GPU: expected one of configs/registry/devices.json, found 'Toaster 3000'",
            ),
            ([], fake_torch(free_gib=1), "GiB of free GPU memory, found 1.0. Fix: "),
            (["--kernel", "vllm=no/such.py"], fake_torch(), "such.py: expected the engine's kernel there, found none"),
        ],
        ids=["candidate", "another GPU", "unknown GPU", "full GPU", "engine"],
    )
    def test_what_cannot_be_is_one_line_and_2(
        self,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        torch: Any,
        told: str,
    ) -> None:
        gpu = FakeGpu(wins).install(monkeypatch, torch)
        assert bench(store.root, *arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("bench: ")
        assert told in printed.err
        assert printed.err.count("\n") == 1
        assert gpu.comparisons == []

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["--against", "no-such-branch"], "expected heuristic, an existing file or a git revision"),
            (["--against", "no/such.json"], "expected heuristic, an existing file or a git revision"),
            (["--kernel", "vllm=no/such.py"], "such.py: expected the engine's kernel there, found none"),
            (["--routing", "no-such.npy"], "no-such.npy"),
        ],
    )
    def test_what_is_wrong_without_a_gpu_is_said_without_one(
        self,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        told: str,
    ) -> None:
        """On the machine where the mistake was made, not on the expensive one."""
        FakeGpu(wins).install(monkeypatch)
        monkeypatch.setattr(session, "torch_with_gpu", lambda: pytest.fail("the GPU was asked"))
        monkeypatch.setattr(CompilePool, "start", lambda pool: pytest.fail("compilers were started"))
        assert bench(store.root, *arguments) == 2
        assert told in capsys.readouterr().err

    def test_a_gpu_of_amds_is_benched_beside_its_own_heuristic(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store = Store(tmp_path / "configs")
        store.config(name=NAME.replace("NVIDIA_H100_80GB_HBM3", "AMD_Instinct_MI300X"))
        gpu = FakeGpu(wins).install(monkeypatch, fake_torch("AMD Instinct MI300X", hip="6.4"))
        assert bench(store.root, "--format", "json") == 0
        ((_, heuristic),) = (comparison.candidates for comparison in gpu.comparisons)
        assert heuristic.entry(4096) == vllm_heuristic(gpu.comparisons[0].workload, 4096, is_rocm=True)
        environment = json.loads(capsys.readouterr().out)["environment"]
        assert (environment["device"], environment["driver"]) == ("AMD Instinct MI300X", "unknown")

    def test_memory_that_runs_out_on_the_way_is_one_line_and_2(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def us(config: LaunchConfig, num_tokens: int) -> float:
            raise MemoryError

        FakeGpu(us).install(monkeypatch)
        assert bench(store.root) == 2
        assert f"{NAME}: expected enough GPU memory, found none left." in capsys.readouterr().err

    def test_a_broken_registry_is_one_line_and_2(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def broken() -> None:
            raise RegistryError("models[0]: expected an object, found 1")

        FakeGpu(wins).install(monkeypatch)
        monkeypatch.setattr("tools.bench.candidates.load_models", broken)
        assert bench(store.root) == 2
        assert capsys.readouterr().err == "bench: models[0]: expected an object, found 1\n"


class TestWhatIsMeasured:
    def test_the_comparison_is_the_files_and_the_gpus(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        gpu = FakeGpu(wins).install(monkeypatch)
        bench(store.root, "--num-tokens", 1, 64, "--routing", "skew_1.0", "--series", 7, "--against", "heuristic")
        (comparison,), (judging,), (device,), (kernels,) = gpu.comparisons, gpu.judgings, gpu.devices, gpu.kernels
        assert (comparison.workload.E, comparison.workload.N, comparison.batch_sizes) == (8, 1024, (1, 64))
        assert [(shape.hidden_size, shape.top_k) for shape in comparison.shapes] == [(2048, 8)]
        assert [c.name for c in comparison.candidates] == ["this file", NO_FILE]
        assert device.target == Target("cuda", 90, 32)
        assert judging == Judging((RoutingKind.SKEW_1,), None, Purpose.JUDGEMENT, 7)
        assert {flavour: (kernel.name, kernel.flavour) for flavour, kernel in kernels.items()} == {
            flavour: ("ours", flavour) for flavour in Flavour
        }

    def test_every_drawn_routing_unless_one_is_named(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        FakeGpu(wins).install(monkeypatch)
        bench(store.root, "--num-tokens", 1, 64, "--format", "json")
        rows = json.loads(capsys.readouterr().out)["files"][0]["rows"]
        parts = {row["num_tokens"]: [(part["engine"], part["routing"]) for part in row["parts"]] for row in rows}
        assert parts[1] == [("vllm", "uniform"), ("sglang", "uniform")]
        kinds = ("uniform", "skew_1.0", "skew_0.3")
        assert parts[64] == [(engine, kind) for engine in ("vllm", "sglang") for kind in kinds]

    def test_a_recorded_routing_is_named_by_its_hash(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gpu, path = FakeGpu(wins).install(monkeypatch), tmp_path / "routing.npy"
        numpy = pytest.importorskip("numpy")
        numpy.save(path, numpy.array([range(8), range(8, 16), range(56, 64)], "uint8"))
        assert bench(store.root, "--num-tokens", 64, "--routing", path, "--format", "json") == 0
        (judging,) = gpu.judgings
        assert judging.kinds == (RoutingKind.RECORDED,)
        assert judging.recorded is not None
        assert judging.recorded.num_tokens == 3
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (
            json.loads(capsys.readouterr().out)["environment"]["routing"] == f"recorded: routing.npy, sha256 {sha256}"
        )

    @pytest.mark.parametrize(
        ("ids", "told"),
        [
            (range(57, 65), "expected ids of the layer's 64 experts, 0 to 63, found 64"),
            (range(3), "expected 8 experts a token, found 3"),
        ],
    )
    def test_one_of_another_layer_ends_with_2_before_anything_is_measured(
        self,
        ids: range,
        told: str,
        store: Store,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        gpu, path = FakeGpu(wins).install(monkeypatch), tmp_path / "routing.npy"
        numpy = pytest.importorskip("numpy")
        numpy.save(path, numpy.array([ids]))
        assert bench(store.root, "--num-tokens", 64, "--routing", path) == 2
        assert gpu.comparisons == []
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert told in line

    def test_files_of_two_tiers_are_told_apart(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store.config(folder="triton_3_7_0", record=False)
        FakeGpu(wins).install(monkeypatch)
        assert bench(store.root, "--format", "json") == 0
        names = [file["name"] for file in json.loads(capsys.readouterr().out)["files"]]
        assert names == [NAME, f"triton_3_7_0/{NAME}"]

    def test_another_process_on_the_gpu_is_said(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        FakeGpu(wins).install(monkeypatch, fake_torch(free_gib=70))
        bench(store.root)
        assert "another process uses the GPU (10.0 GiB at the start); timings may be noisy" in capsys.readouterr().err


class TestEnvironment:
    def environment(self, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
        return json.loads(capsys.readouterr().out)["environment"]

    def test_it_says_what_ran_where(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        FakeGpu(wins).install(monkeypatch)
        bench(store.root, "--format", "json")
        found = self.environment(capsys)
        assert found.pop("python").startswith("3.")
        assert found == {
            "date": TODAY,
            "device": H100,
            "compute_capability": "9.0",
            "sm_count": "132",
            "driver": "575.57.08",
            "cuda": "12.9",
            "torch": "2.13.0+cu129",
            "triton": TRITON,
            "kernel": f"own, {kernel_sha256()[:12]}",
            "routing": "uniform, skew_1.0, skew_0.3",
            "draws": "judgement, series 0",
        }

    def test_an_engines_kernel_is_named_by_its_version(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("tools.measure.kernels.EngineKernel.check", lambda self: None)
        monkeypatch.setattr("tools.bench.compare_files.engine_version", lambda path, engine: "0.33.0")
        gpu = FakeGpu(wins).install(monkeypatch)
        bench(store.root, "--format", "json", "--kernel", "vllm=fused_moe.py")
        found = self.environment(capsys)
        assert (found["kernel"], found["engine"]) == ("vLLM 0.33.0's own", "vLLM 0.33.0")
        assert {flavour: kernel.name for flavour, kernel in gpu.kernels[0].items()} == {Flavour.VLLM: "vllm"}


class TestOutput:
    def written(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    def test_both_forms_are_written_and_printed_alike(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        FakeGpu(wins).install(monkeypatch)
        bench(store.root, "--output", tmp_path / "out" / "deep")
        stem = f"{TODAY}-bench-E=8_N=1024_device_name=NVIDIA_H100_80GB_HBM3-own-kernel-triton-{TRITON}"
        assert self.written(tmp_path / "out" / "deep") == [f"{stem}.json", f"{stem}.md"]
        printed = capsys.readouterr()
        assert (tmp_path / "out" / "deep" / f"{stem}.md").read_text("utf-8") == printed.out
        assert f"written: {tmp_path}/out/deep/{stem}.json" in printed.err

    def test_a_tiers_file_does_not_overwrite_the_defaults(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = store.config(folder="triton_3_7_0", record=False)
        FakeGpu(wins).install(monkeypatch)
        for path in (store.root / NAME, other):
            bench(path, "--output", tmp_path / "out")
        assert len(self.written(tmp_path / "out")) == 4

    def test_the_same_file_against_another_is_another_report(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FakeGpu(wins).install(monkeypatch)
        bench(store.root, "--output", tmp_path / "out")
        first = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        bench(store.root, "--output", tmp_path / "out", "--num-tokens", 1, "--routing", "skew_1.0")
        after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert first.items() <= after.items()
        assert {name.rpartition(".")[0][-2:] for name in after.keys() - first.keys()} == {"-2"}

    def test_a_folder_that_cannot_take_the_report_shows_before_the_gpu_is_asked(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gpu = FakeGpu(wins).install(monkeypatch)
        (tmp_path / "file").write_text("")
        assert bench(store.root, "--output", tmp_path / "file") == 2
        told = capsys.readouterr().err
        assert told.startswith(
            f"bench: --output: expected a folder that can be written, found {tmp_path}/file: Not a directory. Fix: "
        )
        assert gpu.comparisons == []

    def test_a_report_that_can_not_be_written_at_the_end_is_printed(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def while_filling(config: LaunchConfig, num_tokens: int) -> float:
            (tmp_path / "out").write_text("a file where the folder was to be")
            return wins(config, num_tokens)

        FakeGpu(while_filling).install(monkeypatch)
        assert bench(store.root, "--output", tmp_path / "out", "--format", "json") == 1
        told = capsys.readouterr()
        document = json.loads(told.out)
        assert len(document["files"][0]["rows"]) == len(table())
        assert document["not_written"] == [f"{tmp_path / 'out'}: File exists"]
        assert told.err.splitlines()[-1] == f"bench: not written: {tmp_path / 'out'}: File exists"

    def test_several_files_go_by_their_count_and_the_gpu(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.config(name=NAME.replace("E=8", "E=16"), record=False)
        FakeGpu(wins).install(monkeypatch)
        bench(store.root, "--output", tmp_path / "out")
        stem = f"{TODAY}-bench-2-files-own-kernel-triton-{TRITON}-NVIDIA_H100_80GB_HBM3"
        assert self.written(tmp_path / "out") == [f"{stem}.json", f"{stem}.md"]

    def test_json_alone_goes_to_stdout(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        FakeGpu(wins).install(monkeypatch)
        bench(store.root, "--format", "json")
        document = json.loads(capsys.readouterr().out)
        assert document["is_slower"] is False
        assert len(document["files"][0]["rows"]) == len(table())


class TestWriteRecord:
    def assert_sound(self, store: Store) -> None:
        assert schemas.faults("record", record(store)) == []
        assert store.messages(record_rule.RULE) == []

    def test_on_our_kernel_the_worst_row_is_verified_with_this_triton(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = record(store)
        FakeGpu(loses_at_64).install(monkeypatch)
        assert bench(store.root, "--write-record") == 1
        found = record(store)
        assert found.pop("verified_with") == [{"triton": TRITON, "date": TODAY, "worst_loss_pct": 10.0}]
        assert found == before
        assert f"written: {store.record_of(store.root / NAME)}" in capsys.readouterr().err
        self.assert_sound(store)

    def test_mains_word_stays_and_does_not_cover_the_line(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        path = store.record_of(store.root / NAME)
        path.write_bytes(canonical_record(signed(record(store))))
        said = record(store)["verified"]
        FakeGpu(wins).install(monkeypatch)
        assert bench(store.root, "--write-record") == 0
        found = record(store)
        assert found["verified"] == said
        assert is_signed(found)
        assert is_signed({**found, "verified_with": []})

    def test_a_file_that_wins_everywhere_has_a_negative_loss(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FakeGpu(wins).install(monkeypatch)
        assert bench(store.root, "--write-record") == 0
        assert [line["worst_loss_pct"] for line in record(store)["verified_with"]] == [-20.0]
        self.assert_sound(store)

    def test_the_worst_of_all_candidates_counts(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def us(config: LaunchConfig, num_tokens: int) -> float:
            return {16: 100.0, 64: 80.0}.get(config.BLOCK_SIZE_M, 200.0) if config != OWN else 100.0

        FakeGpu(us).install(monkeypatch)
        bench(store.root, "--write-record")
        assert [line["worst_loss_pct"] for line in record(store)["verified_with"]] == [25.0]

    def test_a_second_bench_replaces_its_own_line_alone(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        old = {"triton": "3.7.0", "date": "2026-01-01", "worst_loss_pct": 3.0}
        store.measured(store.root / NAME, verified_with=[old, {**old, "triton": TRITON}], verified=None)
        FakeGpu(wins).install(monkeypatch)
        bench(store.root, "--write-record")
        bench(store.root, "--write-record")
        new = {"triton": TRITON, "date": TODAY, "worst_loss_pct": -20.0}
        assert record(store)["verified_with"] == [old, new]
        self.assert_sound(store)

    def test_on_an_engines_kernel_it_is_checked_against_the_engines_heuristic(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tools.measure.kernels.EngineKernel.check", lambda self: None)
        monkeypatch.setattr("tools.bench.compare_files.engine_version", lambda path, engine: "0.33.0")
        FakeGpu(wins).install(monkeypatch)
        other = Store(store.root.parent / "other").config(table(num_stages=2))
        assert (
            bench(
                *(store.root, "--write-record", "--kernel", "vllm=a.py", "--series", 3),
                *("--against", other, "--against", "heuristic"),
            )
            == 0
        )
        assert record(store)["engine_checked"] == [
            {
                "engine": "vllm",
                "version": "0.33.0",
                "triton": TRITON,
                "date": TODAY,
                "worst_ratio": 0.8,
                "geomean_ratio": 0.8,
                "best_ratio": 0.8,
                "rule": RULE,
                "by_routing": {
                    kind: {"worst_ratio": 0.8, "geomean_ratio": 0.8, "slower": 0}
                    for kind in ("skew_0.3", "skew_1.0", "uniform")
                },
                "draws": {"judgement": (2 << 60) + 3 * 64},
            }
        ]
        assert "verified_with" not in record(store)
        self.assert_sound(store)

    def test_the_file_that_the_engine_ships_is_told_from_other_rivals(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tools.measure.kernels.EngineKernel.check", lambda self: None)
        monkeypatch.setattr("tools.bench.compare_files.engine_version", lambda path, engine: "0.33.0")
        FakeGpu(wins).install(monkeypatch)
        package = tmp_path / "site-packages" / "vllm"
        shipped = Store(package / "layers" / "configs").config(table(num_stages=2))
        other = Store(tmp_path / "other").config(table(num_stages=3))
        rivals = [part for each in (other, shipped, "heuristic") for part in ("--against", each)]
        bench(store.root, "--write-record", "--kernel", f"vllm={package / 'ops' / 'a.py'}", *rivals)
        (line,) = record(store)["engine_checked"]
        assert line["shipped"] == {
            "sha256": sha256(shipped.read_bytes()),
            "worst_ratio": 0.8,
            "geomean_ratio": 0.8,
            "best_ratio": 0.8,
        }
        self.assert_sound(store)

    def test_a_published_files_record_takes_no_line(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = store.record(store.root / NAME).read_bytes()
        FakeGpu(wins).install(monkeypatch)
        assert bench(store.root, "--write-record") == 1
        assert "expected the record of a measured file, found published figures" in capsys.readouterr().err
        assert (store.root / "records" / NAME).read_bytes() == before
        self.assert_sound(store)

    def test_no_other_process_writes_there_between_reading_and_writing(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        FakeGpu(wins).install(monkeypatch)
        write, written = compare_files.write_file, []

        def while_held(path: Path, data: bytes) -> None:
            with pytest.raises(UserError, match="expected no other process that writes there"), lock(store.root, 0.0):
                pass
            written.append(path)
            write(path, data)

        monkeypatch.setattr(compare_files, "write_file", while_held)
        assert bench(store.root, "--write-record") == 0
        assert written == [store.record_of(store.root / NAME)]

    def test_a_record_that_can_not_be_written_shows_before_the_gpu_is_asked(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        gpu = FakeGpu(wins).install(monkeypatch)
        records = store.root / "records"
        monkeypatch.setattr("os.access", lambda path, mode: path != records)
        assert bench(store.root, "--write-record") == 2
        told = (
            f"bench: --write-record: expected a folder that can be written, found {records}: Permission denied. Fix: "
        )
        assert capsys.readouterr().err.startswith(told)
        assert gpu.comparisons == []

    def test_a_record_that_can_not_be_written_at_the_end_stops_no_report(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(path: Path, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(compare_files, "write_file", full)
        FakeGpu(wins).install(monkeypatch)
        assert bench(store.root, "--write-record") == 1
        told = capsys.readouterr()
        where = store.record_of(store.root / NAME)
        assert told.err.splitlines()[-1] == f"bench: not written: {where}: No space left on device"
        assert NAME in told.out

    def test_what_a_record_does_not_say_stands_in_the_json_that_is_printed_and_in_the_report(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        FakeGpu(lambda config, m: "crash" if config == OWN and m == 2048 else 100.0).install(monkeypatch)
        assert bench(store.root, "--write-record", "--format", "json", "--output", tmp_path / "out") == 1
        printed = json.loads(capsys.readouterr().out)
        where = store.record_of(store.root / NAME)
        assert printed["not_written"] == [f"{where}: expected every row to run, found M=2048 failed."]
        (report,) = (tmp_path / "out").glob("*.json")
        assert json.loads(report.read_bytes()) == printed

    def test_a_record_of_other_bytes_takes_no_line(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As where a file was edited by hand."""
        (store.root / NAME).write_bytes(canonical_config(table(num_stages=2)))
        before = record(store)
        FakeGpu(lambda config, m: 100.0).install(monkeypatch)
        assert bench(store.root, "--write-record") == 1
        where = store.record_of(store.root / NAME)
        assert (
            f"{where}: expected the record of {store.root / NAME}, found that of other bytes."
            in capsys.readouterr().err
        )
        assert record(store) == before

    def test_a_file_that_was_tuned_again_meanwhile_takes_no_line_of_the_old_one(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = record(store)

        def while_tuned(config: LaunchConfig, num_tokens: int) -> float | str:
            (store.root / NAME).write_bytes(canonical_config(table(num_stages=2)))
            return wins(config, num_tokens)

        FakeGpu(while_tuned).install(monkeypatch)
        assert bench(store.root, "--write-record") == 1
        assert "expected the file that was measured, found another one by now" in capsys.readouterr().err
        assert record(store) == before

    @pytest.mark.parametrize(
        ("before", "after", "told"),
        [
            (3, 2, "expected the one that was measured, found another or none by now"),
            (3, None, "expected the one that was measured, found another or none by now"),
            (None, 2, "expected none, found one by now"),
            (3, 3, None),
            (None, None, None),
        ],
        ids=["another", "gone", "come", "the same", "none"],
    )
    @pytest.mark.parametrize("kernel", ["sglang", "vllm", None])
    def test_a_down_file_that_ran_is_there_still_or_no_line_is_taken(
        self,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        kernel: str | None,
        before: int | None,
        after: int | None,
        told: str | None,
    ) -> None:
        """Each by its num_stages. vLLM reads none."""
        monkeypatch.setattr("tools.measure.kernels.EngineKernel.check", lambda self: None)
        monkeypatch.setattr("tools.bench.compare_files.engine_version", lambda path, engine: "1.0.0")
        down = store.root / NAME.replace(".json", "_down.json")
        unjudged = record(store)

        def put(num_stages: int | None) -> None:
            if num_stages is None:
                down.unlink(missing_ok=True)
            else:
                down.write_bytes(canonical_config(table(num_stages=num_stages)))

        def while_tuned(config: LaunchConfig, num_tokens: int) -> float:
            put(after)
            return wins(config, num_tokens)

        put(before)
        FakeGpu(while_tuned).install(monkeypatch)
        on = ("--kernel", f"{kernel}=a.py") if kernel else ()
        bench(store.root / NAME, "--write-record", *on)
        error = capsys.readouterr().err
        if told and kernel != "vllm":
            assert f"not written: {down}: {told}. Fix: measure again.\n" in error
            assert record(store) == unjudged
        else:
            assert "not written" not in error
            assert record(store) != unjudged
            if kernel is not None:
                (line,) = record(store)["engine_checked"]
                ran_with = sha256(down.read_bytes()) if before is not None and kernel == "sglang" else None
                assert line.get("down_sha256") == ran_with

    @pytest.mark.parametrize("format_", ["markdown", "json"])
    def test_a_file_that_does_not_run_everywhere_is_no_evidence_but_is_reported(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], format_: str
    ) -> None:
        before = record(store)
        FakeGpu(lambda config, m: "crash" if config == OWN and m == 2048 else 100.0).install(monkeypatch)
        assert bench(store.root, "--write-record", "--format", format_) == 1
        printed = capsys.readouterr()
        assert "expected every row to run, found M=2048 failed." in printed.err
        assert NAME in printed.out
        assert record(store) == before

    def test_a_candidate_that_runs_nowhere_hinders_nothing(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        def us(config: LaunchConfig, num_tokens: int) -> float | str:
            is_sglangs = config.BLOCK_SIZE_N == 32 or config.BLOCK_SIZE_K == 32
            return "out of resources" if is_sglangs else wins(config, num_tokens)

        FakeGpu(us).install(monkeypatch)
        assert bench(store.root, "--write-record") == 0
        assert [line["worst_loss_pct"] for line in record(store)["verified_with"]] == [-20.0]

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ([], "nothing to compare with: every baseline failed."),
            (["--kernel", "vllm=a.py"], "expected vLLM's heuristic to run, found that it failed everywhere."),
        ],
    )
    def test_where_every_baseline_fails_nothing_is_written_and_it_ends_with_1(
        self,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        told: str,
    ) -> None:
        monkeypatch.setattr("tools.measure.kernels.EngineKernel.check", lambda self: None)
        before = record(store)
        FakeGpu(lambda config, m: 100.0 if config == OWN else "crash").install(monkeypatch)
        assert bench(store.root, "--write-record", *arguments) == 1
        path = store.record_of(store.root / NAME)
        assert f"bench: not written: {path}: {told}\n" in capsys.readouterr().err
        assert record(store) == before
