"""Lines that the registry of engines cites, looked up in a wheel, packed or unpacked."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from fused_moe_configs.backends import BackendRule, Citation, EngineRelease
from tools.errors import UserError
from tools.registry import __main__ as command
from tools.registry.citations import check_citations, open_wheel

FILES = {
    "vllm/oracle.py": "import torch\nBACKEND = Backend.TRITON\nTRITON_MXFP8 = 1\n",
    "vllm-0.33.0.dist-info/METADATA": "Name: vllm\nRequires-Dist: torch==2.14.0\n",
}


def release(*citations: Citation) -> EngineRelease:
    rule = BackendRule(("bf16",), ("sm_90",), "TRITON", True, "So.", citations)
    return EngineRelease("vllm", "0.33.0", "2.14.0", "3.8.0", False, (), (rule,))


@pytest.fixture(params=["folder", "wheel"])
def wheel(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "wheel":
        path = tmp_path / "vllm-0.33.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in FILES.items():
                archive.writestr(name, text)
        return path
    for name, text in FILES.items():
        file = tmp_path / "site" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    return tmp_path / "site"


@pytest.mark.parametrize(
    ("citation", "told"),
    [
        (Citation("vllm/oracle.py", 2, "TRITON"), None),
        (Citation("vllm-0.33.0.dist-info/METADATA", 2, "torch"), None),
        (
            Citation("vllm/oracle.py", 1, "TRITON"),
            "vllm/oracle.py:1: expected a line with TRITON, found it on line 2. Fix",
        ),
        (Citation("vllm/oracle.py", 3, "TRITON"), "found it on line 2."),  # a whole word
        (Citation("vllm/oracle.py", 9, "TRITON"), "found it on line 2."),
        (Citation("vllm/oracle.py", 2, "MARLIN"), "found it nowhere in the file. Fix: "),
        (Citation("vllm/gone.py", 2, "TRITON"), "found no such file. Fix: "),
    ],
)
def test_a_citation_holds_where_its_symbol_stands_on_its_line(
    wheel: Path, citation: Citation, told: str | None
) -> None:
    check = check_citations(open_wheel("vllm", wheel), [release(citation)])
    assert check.note is None
    assert [told in str(moved) for moved in check.moved if told] == [True] * bool(told)
    assert len(check.moved) == bool(told)


def test_many_lines_are_counted(tmp_path: Path) -> None:
    (tmp_path / "vllm-0.33.0.dist-info").mkdir()
    (tmp_path / "a.py").write_text("\n" + "x\n" * 8, "utf-8")
    (moved,) = check_citations(open_wheel("vllm", tmp_path), [release(Citation("a.py", 1, "x"))]).moved
    assert "found it on line 2, 3, 4, 5, 6 and 3 more." in str(moved)


def test_a_wheel_of_another_release_is_checked_against_the_one_below_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "vllm-0.34.2.dist-info").mkdir()
    check = check_citations(open_wheel("vllm", tmp_path), [release(Citation("a.py", 1, "x"))])
    assert check.note == "vllm 0.34.2 is not known here: 0.33.0 answers, the nearest release below it."


def test_an_engine_whose_name_is_no_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected a wheel of v\["):
        open_wheel("v[", tmp_path)


@pytest.mark.parametrize("make", ["nothing", "text", "another", "both"])
def test_what_is_no_wheel_of_the_engine_is_refused(tmp_path: Path, make: str) -> None:
    path = tmp_path / "a"
    if make == "text":
        path.write_text("no zip")
    elif make != "nothing":
        names = ["sglang-0.5.23"] if make == "another" else ["vllm-0.33.0", "vllm-0.34.0"]
        for name in names:
            (path / f"{name}.dist-info").mkdir(parents=True)
    with pytest.raises(UserError, match=r"a: expected a wheel of vllm.* Fix: name one"):
        open_wheel("vllm", path)


class TestCommand:
    def test_moved_lines_are_listed_and_end_with_1(
        self, wheel: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        citations = (Citation("vllm/oracle.py", 2, "TRITON"), Citation("vllm/oracle.py", 1, "TRITON"))
        monkeypatch.setattr(command, "load_engines", lambda: (release(*citations),))
        assert command.main(["--citations", f"vllm={wheel}"]) == 1
        moved, summary = capsys.readouterr().out.splitlines()
        assert moved.startswith("vllm/oracle.py:1: expected a line with TRITON")
        assert summary == "vllm 0.33.0: 2 citations, 1 stand"
        assert command.main(["--citations", f"vllm={wheel}", "--format", "json"]) == 1
        (row,) = json.loads(capsys.readouterr().out)["engines"]
        assert (row["engine"], row["version"], row["checked"], row["note"]) == ("vllm", "0.33.0", 2, None)
        assert row["moved"][0]["citation"] == {"file": "vllm/oracle.py", "line": 1, "symbol": "TRITON"}
        assert row["moved"][0]["lines"] == [2]
        monkeypatch.setattr(command, "load_engines", lambda: (release(citations[0]),))
        assert command.main(["--citations", f"vllm={wheel}"]) == 0

    @pytest.mark.parametrize("wheels", [["vllm=/no/such/wheel"], ["sglang={wheel}"]])
    def test_bad_use_ends_with_2_and_a_way_out(
        self, wheels: list[str], wheel: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main(["--citations", *(each.replace("{wheel}", str(wheel)) for each in wheels)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Fix: " in captured.err

    @pytest.mark.parametrize("named", ["vllm-0.33.0.whl", "trt=trt-1.0.whl"])
    def test_a_wheel_without_an_engine_that_is_known_is_bad_use(
        self, named: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert command.main(["--citations", named]) == 2
        assert f"--citations: expected vllm=PATH or sglang=PATH, found {named!r}." in capsys.readouterr().err
