"""One run at its edge: what is written where, what is kept, and what a run may go on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kernels.launch_config import LaunchConfig
from kernels.problem import Flavour
from tests.builders import context
from tests.tools.measure import sglangs_kernel
from tests.tools.tune.conftest import model_us
from tests.tools.tune.decided import ENVIRONMENT, NAME, put_file, record_of
from tools.errors import UserError
from tools.launch.kernel_hash import kernel_sha256
from tools.measure.engine_kernel import cut
from tools.measure.kernels import EngineKernel
from tools.registry.devices import load_devices
from tools.registry.models import Asked, load_models
from tools.store.existing import Existing, Place
from tools.store.files import canonical_entries
from tools.store.record import Record, VerifiedWith
from tools.tune import destination, run_journals, session
from tools.tune.journal import Journal, JournalError, JournalHeader, JournalWriter
from tools.tune.protocol import Compiled, DeviceReport, Event, Screened, Subject
from tools.tune.report import TuneSummary
from tools.tune.request import DownKernel, TuneRequest, parse
from tools.tune.session import resumes
from tools.tune.subject import SizesSource, make_subject
from tools.validate.exceptions import Exceptions
from tools.validate.rules import down_twin, record
from tools.validate.runner import validate

Make = Callable[..., Journal]
Times = Callable[[int, int, LaunchConfig], tuple[float, float]]

DOWN = "E=8,N=7168,device_name=NVIDIA_H100_80GB_HBM3_down.json"
REPORT = DeviceReport(ENVIRONMENT, 2.4e12, 7e14)
BEST = LaunchConfig(16, 64, 128, 8, 4, 3)
FOR_DOWN = LaunchConfig(16, 128, 128, 8, 4, 3)


def save(path: Path, journal: Journal) -> Path:
    writer = JournalWriter(path, journal.header)
    for entry in journal.entries:
        writer.append(entry.event, entry.clock_s)
    if journal.device is not None:
        writer.report(journal.device)
    writer.close()
    return path


def flat(us: dict[LaunchConfig, tuple[float, float]]) -> Times:
    """The same times at every batch size and group size; (60, 30) for whoever isn't named."""
    return lambda num_tokens, shape, config: us.get(replace(config, GROUP_SIZE_M=8), (60.0, 30.0))


DOWN_GAINS = flat({BEST: (40.0, 20.0), FOR_DOWN: (52.0, 15.0)})


@pytest.fixture
def tune(make_landscape: Make, tmp_path: Path) -> Callable[..., TuneSummary]:
    """Replays a made landscape with these flags into tmp_path/out."""

    def tune(*flags: str, triton: str = "3.8.0", times: Times | None = None, **changes: Any) -> TuneSummary:
        def possible(num_tokens: int, shape: int, config: LaunchConfig) -> tuple[float, float]:
            """Ten times as long: under what the GPU's memory takes, a record is refused."""
            up_us, down_us = times(num_tokens, shape, config) if times else model_us(num_tokens, config)
            return 10 * up_us, 10 * down_us

        made = make_landscape((1, 64), times=possible)
        device = replace(REPORT, environment=replace(ENVIRONMENT, triton=triton))
        path = save(tmp_path / "landscape.jsonl", replace(made, device=device, **changes))
        request = parse(["--replay", str(path), "--output", str(tmp_path / "out"), *flags])
        return session.replay(request, path)

    return tune


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def document(path: Path) -> Any:
    return json.loads(path.read_bytes())


def findings(folder: Path) -> list[str]:
    rules = (record.RULE, down_twin.RULE)
    report = validate([folder], context(), Exceptions(frozenset()), rules)
    return [str(finding) for finding in report.findings if finding.rule in ("record", "down-twin")]


# ---------------------------------------------------------------
# What a replay writes


def test_writes_file_and_record_of_what_was_recorded(tune: Callable[..., TuneSummary], out: Path) -> None:
    summary = tune()
    assert [Path(name).relative_to(out).as_posix() for name in summary.files] == [NAME, f"records/{NAME}"]
    assert list(document(out / NAME)) == ["1", "64"]
    assert findings(out) == []


def test_the_record_is_of_the_landscapes_kernel_routing_and_machine(
    tune: Callable[..., TuneSummary], subject: Subject, out: Path
) -> None:
    tune(header=JournalHeader(subject, {"routing": "skew"}, {"triton": "3.8.0", "kernel_sha256": "cd" * 32}))
    found = document(out / "records" / NAME)
    assert found["kernel_sha256"] == "cd" * 32
    assert found["tuner"]["settings"]["routing"] == "skew"
    assert found["environment"] == ENVIRONMENT.to_json()


def test_without_output_nothing_is_written(
    make_landscape: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destination, "CONFIGS", tmp_path / "configs")
    path = save(tmp_path / "landscape.jsonl", replace(make_landscape((1,)), device=REPORT))
    summary = session.replay(parse(["--replay", str(path)]), path)
    assert summary.files == ()
    assert [file.name for file in tmp_path.iterdir()] == ["landscape.jsonl"]


def test_a_landscape_whose_machine_is_unknown_makes_no_record(make_landscape: Make, tmp_path: Path) -> None:
    path = save(tmp_path / "landscape.jsonl", make_landscape((1,)))
    with pytest.raises(
        JournalError, match=r"without the GPU's own report, which a record needs\. Fix: leave out --output"
    ):
        session.replay(parse(["--replay", str(path), "--output", str(tmp_path / "out")]), path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"python": None}, "environment / python: expected a version of three numbers, like 3.8.0 .* found null"),
        ({"sm_count": "many"}, "environment / sm_count: "),
        ({"device_name": "NVIDIA H200"}, "device_name: NVIDIA H200, but the workload is for NVIDIA_H100_80GB_HBM3"),
    ],
)
def test_a_machine_that_a_record_cannot_hold_makes_none(
    changes: dict[str, Any], told: str, make_landscape: Make, tmp_path: Path
) -> None:
    device = replace(REPORT, environment=replace(ENVIRONMENT, **changes))
    path = save(tmp_path / "landscape.jsonl", replace(make_landscape((1,)), device=device))
    with pytest.raises(JournalError, match=rf"expected a GPU's report that a record can hold, found {told}.* Fix"):
        session.replay(parse(["--replay", str(path), "--output", str(tmp_path / "out")]), path)
    assert not (tmp_path / "out").exists()


def test_batch_sizes_that_were_not_recorded_are_told(tune: Callable[..., TuneSummary], out: Path) -> None:
    summary = tune("--num-tokens", "1", "5", "64", "7")
    assert "not in the landscape: batch sizes 5, 7" in summary.notes
    assert [line.num_tokens for line in summary.lines] == [1, 64]


def thinned(journal: Journal, keep: Callable[[Event], bool]) -> Journal:
    return replace(journal, entries=tuple(entry for entry in journal.entries if keep(entry.event)))


class TestLandscapeThatLacksAPart:
    """It replays, says what is missing, and writes nothing."""

    @pytest.fixture
    def whole(self, make_landscape: Make, subject: Subject) -> Journal:
        """As a run that measured everything keeps it."""
        header = JournalHeader(subject, {"num_tokens": [1, 64], "exhaustive": True}, {"triton": "3.8.0"})
        made = make_landscape((1, 64))
        return replace(made, header=header, device=REPORT, events=len(made.entries))

    @pytest.fixture
    def replayed(self, tmp_path: Path) -> Callable[..., TuneSummary]:
        def replayed(journal: Journal, *flags: str, cut: int = 0) -> TuneSummary:
            path = tmp_path / "landscape.jsonl"
            data = "".join(json.dumps(line) + "\n" for line in journal.to_json()).encode()
            path.write_bytes(data[: len(data) - cut])
            return session.replay(parse(["--replay", str(path), *flags]), path)

        return replayed

    def test_a_whole_one_lacks_nothing(self, replayed: Callable[..., TuneSummary], whole: Journal) -> None:
        assert [line.num_tokens for line in replayed(whole).lines] == [1, 64]

    @pytest.mark.parametrize(
        ("changes", "cut", "told"),
        [
            ({}, 10, "the end of its last line and the GPU's own report, with which a finished run ends"),
            ({"device": None}, 0, "the GPU's own report, with which a finished run ends"),
            ({"thin": lambda event: not isinstance(event, Screened) or event.job.num_tokens == 64}, 0, "sizes 1"),
            ({"thin": lambda event: event.job.config.num_stages != 5}, 0, "events that its report counts ("),
            (
                {"thin": lambda event: event.job.config.num_warps == 4, "events": None},
                0,
                "launch configs that the search asked for",
            ),
        ],
        ids=["cut", "no report", "a batch size", "some of the events", "of old, some of the configs"],
    )
    def test_it_says_what_is_missing(
        self, replayed: Callable[..., TuneSummary], whole: Journal, changes: dict[str, Any], cut: int, told: str
    ) -> None:
        thin = changes.pop("thin", None)
        journal = replace(whole if thin is None else thinned(whole, thin), **changes)
        with pytest.raises(
            session.IncompleteLandscapeError, match="expected a whole landscape, found one without"
        ) as e:
            replayed(journal, cut=cut)
        assert told in str(e.value)
        assert e.value.summary.lines

    def test_where_a_row_cannot_be_decided_it_says_so_too(
        self, replayed: Callable[..., TuneSummary], whole: Journal
    ) -> None:
        without_heuristic = thinned(whole, lambda event: event.job.config.num_stages != 4)
        with pytest.raises(JournalError, match=r"found one without the .*: M=1: expected vLLM's heuristic to run"):
            replayed(without_heuristic)

    def test_it_is_never_written_from(
        self, replayed: Callable[..., TuneSummary], whole: Journal, tmp_path: Path
    ) -> None:
        with pytest.raises(JournalError, match=r"expected a whole landscape to write from.*leave out --output\.$"):
            replayed(thinned(whole, lambda event: event.job.config.num_stages != 5), "--output", str(tmp_path / "out"))
        old = replace(thinned(whole, lambda event: event.job.config.num_warps == 4), events=None)
        with pytest.raises(session.IncompleteLandscapeError, match="nothing was written"):
            replayed(old, "--output", str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    def test_a_short_run_measured_less_than_another_strategy_asks_for(
        self, replayed: Callable[..., TuneSummary], whole: Journal
    ) -> None:
        kept = thinned(whole, lambda event: event.job.config.num_warps == 4)
        settings = {**whole.header.settings, "exhaustive": False}
        short = replace(kept, header=replace(whole.header, settings=settings), events=len(kept.entries))
        assert any("that the search asked for" in note for note in replayed(short).notes)


def test_none_of_the_batch_sizes_was_recorded(tune: Callable[..., TuneSummary]) -> None:
    with pytest.raises(JournalError, match=r"batch size 5, found those of 1, 64\. Fix: --num-tokens 1, say\.$"):
        tune("--num-tokens", "5")


def test_of_a_run_that_ended_before_any_measurement_that_is_said(make_landscape: Make, tmp_path: Path) -> None:
    path = save(tmp_path / "landscape.jsonl", replace(make_landscape((1,)), entries=()))
    with pytest.raises(
        JournalError, match=r"landscape\.jsonl: expected a landscape with measurements, found none: its"
    ):
        session.replay(parse(["--replay", str(path)]), path)


# ---------------------------------------------------------------
# Some rows of a file that is there


def test_only_the_rows_asked_for_are_replaced(tune: Callable[..., TuneSummary], subject: Subject, out: Path) -> None:
    others = {m: LaunchConfig(32, 32, 64, 64, 8, 2) for m in (4, 64, 4096)}
    kept = record_of(subject, others, kernel_sha256=kernel_sha256())
    put_file(out, others, with_record=kept)
    tune("--num-tokens", "64")
    after = document(out / NAME)
    assert list(after) == ["4", "64", "4096"]
    assert (after["4"], after["4096"]) == (others[4].to_entry(), others[4096].to_entry())
    assert after["64"] != others[64].to_entry()
    rows = document(out / "records" / NAME)["rows"]
    assert rows["4"] == kept.rows[4].to_json()
    assert rows["64"]["incumbent_us"] is not None


# ---------------------------------------------------------------
# Other versions of Triton


TUNED = {1: LaunchConfig(16, 64, 128, 8, 4, 4), 64: LaunchConfig(16, 128, 128, 8, 4, 4)}
"""What is best on the made landscape."""


@pytest.fixture
def default(subject: Subject) -> Record:
    """The default file's record, with a line of before."""
    return record_of(subject, TUNED, verified_with=(VerifiedWith("3.6.0", "2025-01-01", 7.0),))


def test_a_version_file_that_gains_nothing_is_a_line_in_the_default_files_record(
    tune: Callable[..., TuneSummary], default: Record, out: Path
) -> None:
    put_file(out, TUNED, with_record=default)
    before = (out / NAME).read_bytes()
    summary = tune(triton="3.6.0")
    assert "the default file holds under Triton 3.6.0: no version file is written" in summary.notes
    assert not (out / "triton_3_6_0").exists()
    assert (out / NAME).read_bytes() == before
    found = document(out / "records" / NAME)
    (line,) = found["verified_with"]
    assert (line["triton"], line["worst_loss_pct"]) == ("3.6.0", 0.0)
    assert list(found)[-2:] == ["verified_with", "verified"]


@pytest.mark.parametrize("has_down", [False, True])
def test_one_that_gains_by_an_entry_for_down_is_written_where_the_default_has_none(
    tune: Callable[..., TuneSummary], subject: Subject, out: Path, has_down: bool
) -> None:
    best = dict.fromkeys((1, 64), replace(BEST, GROUP_SIZE_M=8))
    put_file(out, best, with_record=record_of(subject, best))
    if has_down:
        (out / DOWN).write_bytes(canonical_entries(best))
    tune("--separate-down", triton="3.6.0", times=DOWN_GAINS)
    assert (out / "triton_3_6_0" / DOWN).exists() is not has_down


def test_beside_the_file_of_another_patch_a_version_file_has_to_earn_its_place_too(
    tune: Callable[..., TuneSummary], default: Record, out: Path
) -> None:
    """At 3.6.1 the loader takes triton_3_6_0/, whatever the default file holds."""
    put_file(out, dict.fromkeys((1, 64), LaunchConfig(64, 256, 64, 1, 8, 2)), with_record=default)
    (out / "triton_3_6_0").mkdir()
    (out / "triton_3_6_0" / NAME).write_bytes(canonical_entries(TUNED))
    (out / "records" / "triton_3_6_0").mkdir()
    (out / "records" / "triton_3_6_0" / NAME).write_bytes(default.to_bytes())
    summary = tune(triton="3.6.1")
    assert "the file of triton_3_6_0/ holds under Triton 3.6.1: no version file is written" in summary.notes
    assert not (out / "triton_3_6_1").exists()
    lines = document(out / "records" / "triton_3_6_0" / NAME)["verified_with"]
    assert [line["triton"] for line in lines] == ["3.6.0", "3.6.1"]
    assert document(out / "records" / NAME) == default.to_json()


def test_a_version_file_that_gains_is_written_beside(
    tune: Callable[..., TuneSummary], default: Record, out: Path
) -> None:
    put_file(out, dict.fromkeys((1, 64), LaunchConfig(64, 256, 64, 1, 8, 2)), with_record=default)
    tune(triton="3.6.0")
    assert list(document(out / "triton_3_6_0" / NAME)) == ["1", "64"]
    assert findings(out / "triton_3_6_0") == []
    assert document(out / "records" / NAME) == default.to_json()


@pytest.mark.parametrize("forced", [True, False], ids=["asked for", "the default file has no record"])
def test_a_version_file_all_the_same(
    tune: Callable[..., TuneSummary], default: Record, out: Path, forced: bool
) -> None:
    put_file(out, TUNED, with_record=default if forced else None)
    tune(*(["--force-version-file"] if forced else []), triton="3.6.0")
    assert (out / "triton_3_6_0" / NAME).exists()


# ---------------------------------------------------------------
# Going on


def test_of_several_workloads_those_that_a_killed_run_had_not_begun_start_anew(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_journals, "JOURNALS", tmp_path)
    one, several = (replace(parse(["--model", "a/A", "--resume"]), sources=("a",) * number) for number in (1, 2))  # type: ignore[arg-type]
    assert resumes(one, subject), "and is refused, since there is nothing to resume"
    assert not resumes(several, subject)
    run_journals.journal_path(subject.workload.file_name()).write_text("")
    assert resumes(several, subject)
    assert not resumes(replace(several, effort=replace(several.effort, resume=False)), subject)


# ---------------------------------------------------------------
# A file for down


def test_down_has_its_own_file_where_it_gains(tune: Callable[..., TuneSummary], out: Path) -> None:
    summary = tune("--separate-down", times=DOWN_GAINS)
    assert len(summary.files) == 4
    assert {entry["BLOCK_SIZE_N"] for entry in document(out / DOWN).values()} == {128}
    assert findings(out) == []


def test_rows_alone_leave_the_other_rows_of_both_files(tune: Callable[..., TuneSummary], out: Path) -> None:
    tune("--separate-down", times=DOWN_GAINS)
    before = document(out / "records" / DOWN)["rows"]
    tune("--separate-down", "--num-tokens", "64", times=DOWN_GAINS)
    assert list(document(out / DOWN)) == ["1", "64"]
    assert document(out / "records" / DOWN)["rows"]["1"] == before["1"]
    assert findings(out) == []


# ---------------------------------------------------------------
# What to tune


def test_an_incumbent_is_what_an_engine_would_launch(tmp_path: Path) -> None:
    """vLLM clamps BLOCK_SIZE_K to the scales' block."""
    source = SizesSource(8, 1024, 4096, 2, Asked("fp8_w8a8", (128, 128)))
    subject = make_subject(source, "NVIDIA H100 80GB HBM3", load_models(), load_devices())
    place = Place(tmp_path, Path(subject.workload.file_name()))  # type: ignore[arg-type]
    existing = Existing(place, {64: LaunchConfig(64, 128, 256, 1, 4, 3)}, None, b"")
    task = session.make_task(request("--num-tokens", "1", "64"), subject, existing)
    assert task.incumbent == dict.fromkeys((1, 64), LaunchConfig(64, 128, 128, 1, 4, 3))


def test_a_workload_that_no_launch_config_runs_is_refused() -> None:
    source = SizesSource(8, 1024, 4096, 2, Asked("fp8_w8a8", (128, 48)))
    subject = make_subject(source, "NVIDIA H100 80GB HBM3", load_models(), load_devices())
    with pytest.raises(UserError, match=r"expected launch configs to try, found none\. .*power of two, found 48"):
        session.make_task(request(), subject, None)


def request(*flags: str) -> TuneRequest:
    return parse(["--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2", *flags])


# ---------------------------------------------------------------
# SGLang's kernel, for entries for down


def test_the_version_of_the_sglang_around_the_kernel_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineKernel, "check", lambda kernel: None)  # the stand-in lacks parameters that no test needs
    path = sglangs_kernel.write(tmp_path)
    asked = request("--separate-down", "--kernel", f"sglang={path}")
    alone = session.with_down_kernel(asked).settings
    assert (alone["down_kernel"], alone["down_kernel_sha256"]) == ("sglang", cut(path).sha256)
    (tmp_path / "elsewhere").mkdir()
    (link := tmp_path / "elsewhere" / "kernels.py").symlink_to(path)
    linked = session.with_down_kernel(request("--separate-down", "--kernel", f"sglang={link}")).down_kernel
    assert linked is not None
    assert linked.path == path.resolve(), "other processes read it too"
    (tmp_path / "sglang-0.5.23.dist-info").mkdir()
    (tmp_path / "sglang-0.5.23.dist-info" / "METADATA").write_text("Version: 0.5.23\n", "utf-8")
    assert session.with_down_kernel(asked).settings["down_kernel"] == "sglang-0.5.23"


def test_a_kernel_that_was_given_for_nothing_is_told(subject: Subject) -> None:
    sglangs = replace(subject, engines=((Flavour.SGLANG,),))
    asked = replace(request("--separate-down"), down_kernel=DownKernel(None))
    assert session.with_down_kernel(asked) == asked, "a replay's has nothing to read"
    told = "down isn't tried with USE_TMA: SGLang, whose key it is, doesn't read this name"
    assert session.untried(asked, subject) == [told]
    assert session.untried(asked, sglangs) == session.untried(replace(asked, down_kernel=None), subject) == []


def test_without_triton_a_kernel_is_cut_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its parameters are held against a launch, for which Triton's types are needed: on the GPU's machine they are."""
    asked = request("--separate-down", "--kernel", f"sglang={sglangs_kernel.write(tmp_path)}")
    with pytest.raises(UserError, match="expected the parameters of SGLang"):
        session.with_down_kernel(asked)
    monkeypatch.setattr(session, "installed_triton", lambda: None)
    assert session.with_down_kernel(asked).settings["down_kernel"] == "sglang"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "expected the engine's kernel there, found none"),
        ("x = 1\n", "fused_moe_kernel"),
        ("def f(:", "kernels.py"),
    ],
)
def test_a_source_without_sglangs_kernel_is_one_line_before_anything_is_measured(
    tmp_path: Path, text: str | None, told: str
) -> None:
    path = tmp_path / "kernels.py"
    if text is not None:
        path.write_text(text, "utf-8")
    with pytest.raises(UserError, match=told) as error:
        session.with_down_kernel(request("--separate-down", "--kernel", f"sglang={path}"))
    assert "\n" not in str(error.value)


@pytest.fixture
def with_down_kernel(make_landscape: Make, subject: Subject, tmp_path: Path) -> Path:
    """Everything that SGLang's flavour was measured in, by a run that tried down with USE_TMA behind other entries."""
    of = replace(subject, engines=((Flavour.SGLANG,),))
    settings = {"exhaustive": True, "down_kernel": "sglang-0.5.23", "down_kernel_sha256": "ab"}
    made = make_landscape((64,), of=of)
    events = [replace(entry, event=in_sglangs_flavour(of, entry.event)) for entry in made.entries]
    header = JournalHeader(of, settings, {"triton": "3.8.0"})
    return save(tmp_path / "landscape.jsonl", Journal(header, tuple(events), device=REPORT, events=len(events)))


def in_sglangs_flavour(subject: Subject, event: Event) -> Event:
    if isinstance(event, Compiled):
        return replace(event, job=subject.compile_job(event.job.config, 64, 0, Flavour.SGLANG))
    assert isinstance(event, Screened)
    return replace(event, job=replace(event.job, engine=Flavour.SGLANG))


def test_a_replay_asks_for_down_with_descriptors_where_the_recording_did_and_its_record_says_so(
    with_down_kernel: Path, out: Path
) -> None:
    flags = ["--replay", str(with_down_kernel), "--num-tokens", "64", "--separate-down"]
    summary = session.replay(parse([*flags, "--output", str(out)]), with_down_kernel)
    assert any("that the search asked for" in note for note in summary.notes), "told, and no gap in the landscape"
    lacking = thinned(Journal.read(with_down_kernel), lambda event: event.job.config.num_warps == 4)
    save(with_down_kernel, replace(lacking, device=REPORT, events=len(lacking.entries)))
    with pytest.raises(session.IncompleteLandscapeError, match="launch configs that the search asked for"):
        session.replay(parse(flags), with_down_kernel)
    settings = document(out / "records" / NAME)["tuner"]["settings"]
    assert (settings["down_kernel"], settings["down_kernel_sha256"]) == ("sglang-0.5.23", "ab")


def test_one_that_does_not_try_down_apart_says_nothing_of_descriptors(with_down_kernel: Path, out: Path) -> None:
    flags = ["--replay", str(with_down_kernel), "--num-tokens", "64", "--output", str(out)]
    session.replay(parse(flags), with_down_kernel)
    assert "down_kernel" not in document(out / "records" / NAME)["tuner"]["settings"]
