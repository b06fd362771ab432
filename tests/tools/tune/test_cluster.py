"""Many workloads on a cluster: each node sees what stands here, and what it changes comes back as it comes.

The stand-in for Ray runs jobs in this process, the last one handed out first; what runs on a node is the real command.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tools.errors import UserError
from tools.store.files import lock, read_file, write_file
from tools.tune import __main__ as command
from tools.tune import cluster
from tools.tune.cluster import NodeJob, NodeResult, on_cluster, run_here, tune_on_cluster

LANDSCAPE = Path(__file__).with_name("landscape.jsonl.gz")
NAME = "E=256,N=128,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json"
REPLAY = NodeJob("DeepSeek-V3 tp=16", ("--replay", str(LANDSCAPE), "--num-tokens", "64"))

OnNode = Callable[[NodeJob, dict[str, bytes]], NodeResult]


@dataclass
class FakeRay:
    """What the tuner uses of Ray. on_node: what a job comes to, in the place of the tuner's own function."""

    on_node: OnNode | None = None
    refuses: str = ""
    calls: list[Any] = field(default_factory=list)
    is_up: bool = False

    def init(self, **options: Any) -> None:
        if self.refuses:
            raise ConnectionError(self.refuses)
        self.calls.append(options)
        self.is_up = True

    def shutdown(self) -> None:
        self.is_up = False

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **options: Any) -> Callable[[OnNode], Any]:
        self.calls.append(options)

        def decorate(function: OnNode) -> Any:
            class Remote:
                @staticmethod
                def remote(job: NodeJob, before: dict[str, bytes]) -> Callable[[], NodeResult]:
                    return lambda: (self.on_node or function)(job, before)

            return Remote

        return decorate

    def wait(self, waiting: Sequence[Any], *, num_returns: int) -> tuple[list[Any], list[Any]]:
        assert num_returns == 1
        return [waiting[-1]], list(waiting[:-1])

    def get(self, ready: Callable[[], NodeResult]) -> NodeResult:
        return ready()


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def tune(ray: FakeRay, output: Path, *jobs: NodeJob) -> tuple[int, list[str]]:
    """(exit code, what was said)."""
    said: list[str] = []
    code = tune_on_cluster("auto", jobs, output, said.append, ray)
    assert not ray.is_up
    return code, said


def comes_to(exit_code: int = 0, log: str = "", **changed: bytes | None) -> OnNode:
    return lambda job, before: NodeResult(job, exit_code, changed, log)


ONE, TWO = NodeJob("one", ("--model", "a/A")), NodeJob("two", ("--model", "b/B"))


# ---------------------------------------------------------------
# Here


def test_a_job_takes_a_gpu_and_is_not_repeated(tmp_path: Path) -> None:
    ray = FakeRay(comes_to())
    tune(ray, tmp_path, ONE)
    assert ray.calls == [{"address": "auto", "log_to_driver": False}, {"num_gpus": 1, "max_retries": 0}]


def test_results_are_taken_over_as_they_come(tmp_path: Path) -> None:
    ray = FakeRay(lambda job, before: NodeResult(job, 0, {f"{job.title}.json": job.title.encode()}, ""))
    assert tune(ray, tmp_path / "out", ONE, TWO) == (0, ["two: tuned", "one: tuned"])
    assert files(tmp_path / "out") == {"one.json": b"one", "two.json": b"two"}


def test_no_other_process_writes_there_while_they_are_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def while_held(path: Path, data: bytes) -> None:
        with pytest.raises(UserError, match="no other process that writes there"), lock(tmp_path, 0.0):
            pass
        written.append(path)

    monkeypatch.setattr(cluster, "write_file", while_held)
    tune(FakeRay(comes_to(**{"a.json": b"a", "records/a.json": b"b"})), tmp_path, ONE)
    assert written == [tmp_path / "a.json", tmp_path / "records" / "a.json"]


def test_a_node_is_given_tuned_files_records_and_the_devices_names_and_nothing_else(tmp_path: Path) -> None:
    """In a checkout that itself may lie below a folder named registry."""
    output = tmp_path / "registry" / "configs"
    carried = ("a.json", "triton_3_6_0/a.json", "records/a.json", "registry/devices.json")
    for name in (*carried, "registry/models.json", "README.md"):
        write_file(output / name, name.encode())
    given: list[dict[str, bytes]] = []

    def on_node(job: NodeJob, before: dict[str, bytes]) -> NodeResult:
        given.append(before)
        return NodeResult(job, 0, {}, "")

    tune(FakeRay(on_node), output, ONE)
    assert given == [{name: name.encode() for name in carried}]


def test_whoever_stands_on_it_gets_each_result_with_what_it_printed(tmp_path: Path) -> None:
    ray = FakeRay(lambda job, before: NodeResult(job, 3, {"a.json": b"a"}, "why", job.module))
    (done,) = on_cluster("auto", [NodeJob("one", (), "tools.other")], tmp_path, ray)
    assert (done.exit_code, done.log, done.answer) == (3, "why", "tools.other")
    assert (tmp_path / "a.json").exists()
    assert not ray.is_up


def test_a_node_may_take_a_file_away(tmp_path: Path) -> None:
    (tmp_path / "stale_down.json").write_bytes(b"old")
    tune(FakeRay(comes_to(**{"stale_down.json": None})), tmp_path, ONE)
    assert files(tmp_path) == {}


def test_a_job_that_fails_is_told_by_its_last_line_and_the_others_go_on(tmp_path: Path) -> None:
    def on_node(job: NodeJob, before: dict[str, bytes]) -> NodeResult:
        failed = NodeResult(job, 2, {}, "tune: M=1: promote\ntune: GPU: expected one\x1b[31m of these\n")
        return failed if job == TWO else NodeResult(job, 0, {"one.json": b"1"}, "")

    code, said = tune(FakeRay(on_node), tmp_path, ONE, TWO)
    assert code == 2
    assert said == [r"two: failed: GPU: expected one\x1b[31m of these", "one: tuned"]
    assert files(tmp_path) == {"one.json": b"1"}


def test_a_silent_failure_is_told_too(tmp_path: Path) -> None:
    assert tune(FakeRay(comes_to(1)), tmp_path, ONE) == (1, ["one: failed: no output"])


def test_a_node_that_dies_fails_its_job_alone(tmp_path: Path) -> None:
    def on_node(job: NodeJob, before: dict[str, bytes]) -> NodeResult:
        if job == TWO:
            raise RuntimeError("the node died")
        return NodeResult(job, 0, {}, "")

    code, said = tune(FakeRay(on_node), tmp_path, ONE, TWO)
    assert (code, said) == (1, ["two: failed: RuntimeError: the node died", "one: tuned"])


def test_the_cluster_is_left_whatever_happens(tmp_path: Path) -> None:
    def breaks(job: NodeJob) -> NodeResult:
        raise KeyboardInterrupt

    ray = FakeRay(lambda job, before: breaks(job))
    with pytest.raises(KeyboardInterrupt):
        tune_on_cluster("auto", [ONE], tmp_path / "out", lambda line: None, ray)
    assert not ray.is_up


def test_no_cluster_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--ray auto: expected a cluster, found: no\\nanswer$"):
        tune(FakeRay(refuses="no\nanswer"), tmp_path, ONE)


def test_without_ray_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_ray(name: str, *rest: Any, **more: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(UserError, match=r"--ray: expected the package ray, found none\. Fix: pip install"):
        tune_on_cluster("auto", [ONE], tmp_path, lambda line: None)


# ---------------------------------------------------------------
# On the node: the real command, on a recorded landscape


def test_a_node_tunes_and_brings_back_file_and_record(tmp_path: Path) -> None:
    code, said = tune(FakeRay(), tmp_path, REPLAY)
    assert (code, said) == (0, ["DeepSeek-V3 tp=16: tuned"])
    assert set(files(tmp_path)) == {NAME, f"records/{NAME}"}


def test_the_files_that_stand_here_are_the_nodes_incumbents(tmp_path: Path) -> None:
    """Without them a node would write its rows over a whole file, and beat nobody to do so."""
    tune(FakeRay(), tmp_path, NodeJob("all", (*REPLAY.arguments[:2],)))
    before = files(tmp_path)
    tune(FakeRay(), tmp_path, REPLAY)
    after = files(tmp_path)
    config, record = (read_file(tmp_path / name).document for name in (NAME, f"records/{NAME}"))
    assert isinstance(config, dict)
    assert isinstance(record, dict)
    assert len(config) == 18
    assert after[NAME] == before[NAME]
    assert record["rows"]["64"]["incumbent_us"] is not None  # type: ignore[call-overload,index]
    assert record["rows"]["64"]["decision"] == "retain"  # type: ignore[call-overload,index]


def test_a_node_brings_back_only_what_it_changed() -> None:
    other = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3.json"
    done = run_here(REPLAY, {other: b"{}", f"triton_3_6_0/{other}": b"{}"})
    assert done.exit_code == 0
    assert set(done.files) == {NAME, f"records/{NAME}"}


def test_a_node_that_refuses_brings_back_nothing_but_its_line() -> None:
    done = run_here(NodeJob("x", ("--replay", "no such file")), {})
    assert (done.exit_code, done.files) == (2, {})
    assert done.log.startswith("tune: no such file: expected a journal of the tuner")


# ---------------------------------------------------------------
# The command


def test_rows_alone_are_not_tuned_into_configs_from_afar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workloads = tmp_path / "workloads.txt"
    workloads.write_text("mistralai/Mixtral-8x7B-v0.1 tp=2\n", "utf-8")
    assert command.main(["--workloads", str(workloads), "--ray", "auto", "--num-tokens", "64"]) == 2
    told = capsys.readouterr().err
    assert told == "tune: --num-tokens: expected --output DIR outside configs/ with --ray, found none.\n"


@pytest.mark.parametrize(
    ("folder", "told"),
    [
        (
            "triton_3_8_0",
            r"expected with --ray a folder that holds tiers, found the tier .*triton_3_8_0\. Fix: name",
        ),
        ("legacy_configs", "a folder that holds tiers"),
    ],
)
def test_nodes_are_asked_only_where_their_files_can_go(
    folder: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workloads = tmp_path / "workloads.txt"
    workloads.write_text("mistralai/Mixtral-8x7B-v0.1 tp=2\n", "utf-8")
    assert command.main(["--workloads", str(workloads), "--ray", "auto", "--output", str(tmp_path / folder)]) == 2
    assert re.search(f"^tune: --output: .*{told}", capsys.readouterr().err)


def test_a_job_of_another_module_runs_that_one() -> None:
    done = run_here(NodeJob("validate", ("--help",), "tools.convert"), {})
    assert done.exit_code == 0
    assert "python -m tools.convert" in done.answer


def test_what_can_not_be_written_here_fails_one_job_alone(tmp_path: Path) -> None:
    """Hours of others' work are still on their way."""
    (tmp_path / "b.json").mkdir()
    ray = FakeRay(lambda job, before: NodeResult(job, 0, {"a.json" if job is ONE else "b.json": b"x"}, ""))
    code, said = tune(ray, tmp_path, ONE, TWO)
    assert code == 2
    assert said[0].startswith("two: failed: can't be written to ")
    assert (said[1], (tmp_path / "a.json").read_bytes()) == ("one: tuned", b"x")


def test_an_output_that_can_not_be_written_is_refused_before_a_node_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workloads = tmp_path / "w.txt"
    workloads.write_text("mistralai/Mixtral-8x7B-v0.1 tp=2\n")
    assert command.main(["--workloads", str(workloads), "--ray", "auto", "--output", "/proc/tuned"]) == 2
    assert "--output: expected a folder that can be written" in capsys.readouterr().err
