"""python -m tools.nightly: a night's plan, and what its results say, from files to files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.builders import H100, Store
from tools.nightly import sample as stock
from tools.nightly.__main__ import main
from tools.pull_request.documents import PlannedFile, PlannedShape
from tools.store.workload import Shape, Workload

from .conftest import add, head, leave, results, row

MIXTRAL = f"E=8,N=7168,device_name={H100}.json"
QWEN = f"E=128,N=768,device_name={H100}.json"
ON_H200 = "E=8,N=7168,device_name=NVIDIA_H200.json"


@pytest.fixture
def three(configs: Store) -> Store:
    for name in (MIXTRAL, QWEN, ON_H200):
        add(configs, name)
    return configs


def sample(store: Store, out: Path, *arguments: str) -> int:
    return main(["sample", "--configs", str(store.root), "--date", "2026-11-24", "--out", str(out), *arguments])


@pytest.fixture
def plan_path(three: Store, tmp_path: Path) -> Path:
    assert sample(three, tmp_path / "plan.json", "--count", "9") == 0
    return tmp_path / "plan.json"


@pytest.fixture
def plan(plan_path: Path) -> Any:
    return json.loads(plan_path.read_text())


def drift(store: Store, plan: Path, folder: Path, *arguments: str) -> tuple[int, Path]:
    out = plan.with_name("drift.md")
    command = ["drift", "--configs", str(store.root), "--plan", str(plan), "--results", str(folder)]
    return main([*command, "--out", str(out), *arguments]), out


def planned(path: Path) -> int:
    return sum(len(leg["workloads"]) for leg in json.loads(path.read_text())["legs"])


def test_a_sample_is_the_plan_of_mains_head(plan: Any, capsys) -> None:
    assert (plan["number"], plan["head_sha"]) == (0, head())
    assert [leg["device_name"] for leg in plan["legs"]] == [H100, "NVIDIA_H200"]


def test_github_is_told_the_devices(three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "output"
    output.write_text("before=1\n")
    monkeypatch.setenv("GITHUB_OUTPUT", str(output))
    sample(three, tmp_path / "plan.json", "--count", "1", "--all")
    assert output.read_text() == f'before=1\ndevices=["{H100}", "NVIDIA_H200"]\nany=true\ntriton=\n'


def test_github_is_told_that_nothing_is_measured(configs: Store, tmp_path: Path, monkeypatch) -> None:
    configs.config(name=MIXTRAL)
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    assert sample(configs, tmp_path / "plan.json", "--count", "2") == 0
    assert (tmp_path / "output").read_text() == "devices=[]\nany=false\ntriton=\n"


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ((), 1),
        (("--all",), 3),
        (("--newest", "99.0.0"), 3),
        (("--newest", "triton (99.0.0)"), 3),
        (("--newest", "3.0.0"), 0),  # the night's own sample is another run's
        (("--newest", "3.0.0", "--all"), 3),
    ],
)
def test_a_new_triton_measures_every_file(
    three: Store, tmp_path: Path, arguments: tuple[str, ...], number: int
) -> None:
    sample(three, tmp_path / "plan.json", "--count", "1", *arguments)
    assert planned(tmp_path / "plan.json") == number


def test_a_triton_that_has_its_folder_is_not_new(three: Store, tmp_path: Path) -> None:
    add(three, MIXTRAL, "triton_99_0_0")
    sample(three, tmp_path / "plan.json", "--count", "1", "--newest", "99.0.0")
    assert planned(tmp_path / "plan.json") == 0


def test_times_as_recorded_are_no_drift(three: Store, plan_path: Path, plan: Any, tmp_path: Path, capsys) -> None:
    folder = leave(tmp_path / "results", results(plan, lambda _, us: row(us * 1.01, us * 2)))
    code, out = drift(three, plan_path, folder)
    assert code == 0
    assert "| file |" not in out.read_text()
    assert "3 files, 0 drifted, 0 not measured" in capsys.readouterr().out


def test_drift_is_a_table_of_the_files_rows(three: Store, plan_path: Path, plan: Any, tmp_path: Path) -> None:
    documents = results(plan, lambda size, us: row(us * (1.2 if size == 64 else 1.0), us * 2))
    code, out = drift(three, plan_path, leave(tmp_path / "results", documents[:1]))
    assert code == 1
    text = out.read_text()
    assert f"| `{MIXTRAL}` | 1 | 100.0 | 100.0 | +0.0 % | +0.0 % | 5.5 % |  |" in text
    assert f"| `{MIXTRAL}` | 64 | 200.0 | 240.0 | +20.0 % | +0.0 % | 5.5 % | **slower** |" in text
    assert f"- `{ON_H200}`: its runner sent no results" in text
    assert f"{H100}, driver 580.159.04, triton 3.8.0, torch 2.13.0+cu130" in text


@pytest.mark.parametrize(("slower", "drifted"), [(1.2, "true"), (1.0, "false")])
def test_github_is_told_whether_it_drifted_or_was_only_not_measured(
    three: Store,
    plan_path: Path,
    plan: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slower: float,
    drifted: str,
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    documents = results(plan, lambda _, us: row(us * slower, us * 2))
    assert drift(three, plan_path, leave(tmp_path / "results", documents[:1]))[0] == 1
    assert (tmp_path / "output").read_text() == f"drifted={drifted}\n"


def test_a_slower_machine_is_told_and_is_no_drift(three: Store, plan_path: Path, plan: Any, tmp_path: Path) -> None:
    folder = leave(tmp_path / "results", results(plan, lambda _, us: row(us * 1.1, us * 2.2)))
    code, out = drift(three, plan_path, folder)
    assert code == 0
    assert "the heuristic reads +10.0 % against the records" in out.read_text()


def test_times_under_another_triton_than_was_asked_for_are_none(
    three: Store, plan_path: Path, plan: Any, tmp_path: Path
) -> None:
    documents = results(plan, lambda _, us: row(us, us * 2))
    documents[0]["environment"]["triton"] = "3.7.0"
    code, out = drift(three, plan_path, leave(tmp_path / "results", documents))
    assert code == 1
    text = out.read_text()
    assert "triton 3.7.0, torch 2.13.0+cu130): 2 files, 0 drifted, 2 not measured" in text
    assert f"- `{MIXTRAL}`: measured under Triton 3.7.0, expected triton_3_8_0\n" in text
    assert f"- `{ON_H200}`: " not in text


def test_under_a_new_triton_only_its_own_times_count(three: Store, plan_path: Path, plan: Any, tmp_path: Path) -> None:
    documents = results(plan, lambda _, us: row(us, us * 2))
    documents[0]["environment"]["triton"] = "99.0.0+git"
    code, out = drift(three, plan_path, leave(tmp_path / "results", documents), "--triton", "99.0.0")
    assert code == 1
    assert f"- `{ON_H200}`: measured under Triton 3.8.0, expected triton_99_0_0\n" in out.read_text()
    assert f"- `{MIXTRAL}`: " not in out.read_text()


def test_a_version_files_times_are_those_of_its_own_triton(configs: Store, tmp_path: Path) -> None:
    add(configs, MIXTRAL, "triton_3_7_0")
    add(configs, QWEN, "legacy_configs")
    assert sample(configs, tmp_path / "plan.json", "--count", "9") == 0
    documents = results(json.loads((tmp_path / "plan.json").read_text()), lambda _, us: row(us, us * 2))
    code, out = drift(configs, tmp_path / "plan.json", leave(tmp_path / "results", documents))
    assert code == 1
    assert f"- `triton_3_7_0/{MIXTRAL}`: measured under Triton 3.8.0, expected triton_3_7_0\n" in out.read_text()
    assert QWEN not in out.read_text(), "of a legacy file any Triton's count"


def test_a_triton_that_is_none_is_refused(three: Store, plan_path: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        drift(three, plan_path, tmp_path, "--triton", "newest")
    assert capsys.readouterr().err.endswith("expected a release as X.Y.Z, found 'newest'\n")


@pytest.mark.parametrize("us", [5e-324, 1e-320, 1.0])
def test_a_runner_that_says_the_impossible_costs_its_own_files_alone(
    three: Store, plan_path: Path, plan: Any, tmp_path: Path, us: float
) -> None:
    documents = results(plan, lambda _, own: row(own, own * 2))
    documents[0]["workloads"][0]["rows"]["64"]["heuristic_us"] = us
    code, out = drift(three, plan_path, leave(tmp_path / "results", documents))
    text = out.read_text()
    assert code == 1
    assert f"- `{MIXTRAL}`: its runner sent times that its memory can't reach" in text
    assert f"- `{ON_H200}`: " not in text


def test_results_of_a_device_without_a_runner_are_refused(
    three: Store, plan_path: Path, plan: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = leave(tmp_path / "results", results(plan, lambda _, us: row(us, us * 2)))
    assert drift(three, plan_path, folder, "--runners", H100)[0] == 2
    assert "results of NVIDIA_H200: expected none, its leg was handed on to no runner" in capsys.readouterr().err


def test_the_margin_can_be_set(three: Store, plan_path: Path, plan: Any, tmp_path: Path) -> None:
    folder = leave(tmp_path / "results", results(plan, lambda _, us: row(us * 1.1, us * 2)))
    assert drift(three, plan_path, folder)[0] == 1
    assert drift(three, plan_path, folder, "--margin-pct", "20")[0] == 0


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (lambda path: path.write_text("{"), "results.json: "),
        (lambda path: path.write_text("[]"), "results.json: top level: "),
        (
            lambda path: path.write_text(path.read_text().replace('"measured_us": 1', '"measured_us": NaN, "x": 1')),
            "results.json: ",
        ),
        (lambda path: path.write_text(path.read_text().replace(head(), "f" * 40)), f"nightly: results of {H100}: "),
        (
            lambda path: path.write_text(path.read_text().replace(H100, "NVIDIA_L4")),
            "nightly: results of NVIDIA_L4: ",
        ),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "results.json: "),
        (
            lambda path: (path.parents[1] / "results.json").write_text(path.read_text()),
            f"nightly: results of {H100}: ",
        ),
    ],
    ids=["no JSON", "another form", "NaN", "another commit", "another device", "a link", "twice"],
)
def test_results_that_cannot_be_used_are_one_line(
    three: Store, plan_path: Path, plan: Any, tmp_path: Path, capsys, spoil, where: str
) -> None:
    folder = leave(tmp_path / "results", results(plan, lambda _, us: row(us, us * 2)))
    spoil(folder / f"results-{H100}" / "results.json")
    code, out = drift(three, plan_path, folder)
    said = capsys.readouterr().err
    assert code == 2
    assert where in said
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda store: (store.root / MIXTRAL).write_text("{"), "expected a tuned file, found a broken one"),
        (lambda store: store.record_of(store.root / MIXTRAL).write_text("{}"), "expected a record, found a broken one"),
    ],
    ids=["file", "record"],
)
def test_a_broken_file_is_left_out_by_name_and_costs_no_other_its_night(
    three: Store, tmp_path: Path, capsys, spoil, message: str
) -> None:
    spoil(three)
    assert sample(three, tmp_path / "plan.json", "--count", "9") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nightly: left out: ")
    assert f"{MIXTRAL}: {message}" in line
    assert line.endswith("Fix: nox -s validate says what is wrong.")
    legs = json.loads((tmp_path / "plan.json").read_text())["legs"]
    files = {(leg["device_name"], file["workload"]["E"]) for leg in legs for file in leg["workloads"]}
    assert files == {(H100, 128), ("NVIDIA_H200", 8)}


def test_what_no_plan_can_hold_is_left_out_by_name(
    three: Store, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan's schema refuses a whole plan for one file of it."""
    real = stock.planned

    def planned_hugely(workload: Workload, *arguments: Any) -> PlannedFile:
        found = real(workload, *arguments)
        huge = (PlannedShape(Shape(2**20, 2), registered=False),)
        return replace(found, shapes=huge) if workload.E == 128 else found

    monkeypatch.setattr(stock, "planned", planned_hugely)
    assert sample(three, tmp_path / "plan.json", "--count", "9") == 0
    (line,) = capsys.readouterr().err.splitlines()
    expected = "shapes / 0 / K: expected an integer from 1 to 65536, found 1048576"
    assert f"{QWEN}: no plan can hold it: {expected}" in line
    assert planned(tmp_path / "plan.json") == 2


def test_a_record_that_broke_since_the_plan_was_made_is_one_line(
    three: Store, plan_path: Path, plan: Any, tmp_path: Path, capsys
) -> None:
    folder = leave(tmp_path / "results", results(plan, lambda _, us: row(us, us * 2)))
    three.record_of(three.root / MIXTRAL).write_text("{}")
    code, out = drift(three, plan_path, folder)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert f"{MIXTRAL}: expected a record, found a broken one" in line
    assert not out.exists()


def test_no_results_at_all_are_told(three: Store, plan_path: Path, tmp_path: Path) -> None:
    """Where there is no artifact, the download makes no folder."""
    code, out = drift(three, plan_path, tmp_path / "nowhere")
    assert code == 1
    assert out.read_text().count(": its runner sent no results") == 3


def test_a_device_without_a_runner_is_never_due(three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    sample(three, tmp_path / "plan.json", "--count", "9", "--runners", "NVIDIA_H200, NVIDIA_L4")
    assert planned(tmp_path / "plan.json") == 1
    assert (tmp_path / "output").read_text().startswith('devices=["NVIDIA_H200"]\nany=true\n')


def test_what_a_plan_has_no_room_for_is_said_and_costs_no_other_file_its_night(
    three: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.pull_request.documents.MAX_LEG_FILES", 1)
    assert sample(three, tmp_path / "plan.json", "--count", "9") == 0
    captured = capsys.readouterr()
    assert planned(tmp_path / "plan.json") == 2
    assert captured.out.startswith("2 of 3 measured files for 2 devices: ")
    assert captured.err == (
        "nightly: left out: 1 measured file, more than one plan holds. Another night begins elsewhere.\n"
    )


def test_a_configs_folder_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(Store(tmp_path / "nowhere"), tmp_path / "plan.json", "--count", "1") == 2
    assert capsys.readouterr().err == (
        f"nightly: {tmp_path}/nowhere: expected the configs folder, found none. "
        "Fix: correct --configs, or leave it out.\n"
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("--count", "0"), ("--count", "many"), ("--date", "yesterday")],
)
def test_bad_values_are_refused(three: Store, tmp_path: Path, capsys, option: str, value: str) -> None:
    arguments = [] if option == "--count" else ["--count", "1"]
    with pytest.raises(SystemExit) as end:
        sample(three, tmp_path / "plan.json", *arguments, option, value)
    assert end.value.code == 2
    assert f"found '{value}'" in capsys.readouterr().err


@contextmanager
def serving_index(uploads: Mapping[str, str | None]) -> Iterator[str]:
    """A package index of Triton alone: when each version was uploaded. Yields its address."""
    files = [
        {"filename": f"triton-{version}-py3-none-any.whl", "url": f"/triton-{version}-py3-none-any.whl", "hashes": {}}
        | ({"upload-time": uploaded} if uploaded else {})
        for version, uploaded in uploads.items()
    ]
    page = json.dumps({"meta": {"api-version": "1.1"}, "name": "triton", "files": files}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def alone(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Lets pip know this index and no setting of this machine."""
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", url)


class TestANewTriton:
    def triton(self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: str) -> str:
        monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
        assert sample(store, tmp_path / "plan.json", "--count", "1", "--newest", newest) == 0
        return (tmp_path / "output").read_text().splitlines()[-1]

    def test_files_are_measured_under_it(self, three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.triton(three, tmp_path, monkeypatch, "99.0.0") == "triton=99.0.0"

    def test_an_older_one_changes_nothing(self, three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.triton(three, tmp_path, monkeypatch, "3.0.0") == "triton=", "empty: the reference"

    @pytest.mark.parametrize(
        ("uploaded", "told"),
        [("2026-11-16T23:59:59Z", "99.1.0"), ("2026-11-17T00:00:01Z", "99.0.0"), ("2026-11-24T09:00:00Z", "99.0.0")],
    )
    def test_pip_is_asked_for_one_that_is_a_week_old(
        self, three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uploaded: str, told: str
    ) -> None:
        """By the real pip: 99.0.0 is old, 99.1.0 is as new as given; the day is 2026-11-24."""
        with serving_index({"99.0.0": "2026-10-01T00:00:00Z", "99.1.0": uploaded}) as url:
            alone(monkeypatch, url)
            assert self.triton(three, tmp_path, monkeypatch, "pip") == f"triton={told}"

    def test_an_index_that_tells_no_dates_has_no_new_release(
        self, three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with serving_index({"99.0.0": None}) as url:
            alone(monkeypatch, url)
            assert sample(three, tmp_path / "plan.json", "--count", "1", "--newest", "pip") == 2
        assert "Triton's releases before 2026-11-17, found none" in capsys.readouterr().err

    @pytest.mark.parametrize("newest", ["soon", "3.8.0rc1"])
    def test_what_is_no_release_is_refused(self, three: Store, tmp_path: Path, capsys, newest: str) -> None:
        assert sample(three, tmp_path / "plan.json", "--count", "1", "--newest", newest) == 2
        assert f"expected a release as X.Y.Z, found '{newest}'. Fix: give X.Y.Z, or pip.\n" in capsys.readouterr().err

    def test_where_pip_knows_none_is_one_line(
        self, three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setattr("sys.executable", "/nonexistent/python")
        assert sample(three, tmp_path / "plan.json", "--count", "1", "--newest", "pip") == 2
        assert capsys.readouterr().err.startswith("nightly: --newest: expected pip 26 or newer to know Triton's")
