"""python -m tools.canary: on engines written for these tests, with the real child process and real exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import H100, Store
from tools.canary.__main__ import main

from .conftest import FakeEngine, add, engine

pytestmark = pytest.mark.usefixtures("small_grid")

FIRST_LINE = "part, whole = FOLDED"
"""Of what every look-up runs first."""

CHANGES = [
    ("vllm", 'f",block_shape={block_shape}".replace(" ", "")', 'f",block_shape={block_shape}"'),
    ("vllm", 'FOLDED = ("H200", "NVIDIA_H200")', 'FOLDED = ("no part", "")'),
    ("vllm", 'N = N * 2 if dtype == "int4_w4a16" else N', "pass"),
    ("vllm", "return {int(key): entry for key", 'return {int(key): {**entry, "num_warps": 8} for key'),
    ("vllm", "for key, entry in table.items()}", "for key, entry in table.items() if int(key) > 1}"),
    ("vllm", "key=lambda size: abs(size - M)", "key=lambda size: abs(size - M - 1)"),
    ("vllm", "key=lambda size: abs(size - M)", "key=lambda size: (abs(size - M), -size)"),
    ("vllm", "folders.insert(0, envs.VLLM_TUNED_CONFIG_FOLDER)", "folders = folders"),
    ("sglang", 'f"block_shape={block_shape}"', 'f"block_shape={block_shape}".replace(" ", "")'),
    ("sglang", '("_down" if down_moe else "")', '""'),
    ("sglang", "per_channel_quant=True", "per_channel=True"),
    ("sglang", "[triton.__version__, *sorted(versions, key=_numbers, reverse=True)]", "sorted(versions, key=_numbers)"),
    ("sglang", 'down["BLOCK_SIZE_M"] = config["BLOCK_SIZE_M"]', "pass"),
    ("sglang", "for key, entry in json.load(file).items()}", "for key, entry in json.load(file)['rows'].items()}"),
]


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_an_engine_that_reads_as_the_loader_does_has_no_difference(varied: Store, tmp_path: Path, capsys, name) -> None:
    out = tmp_path / "canary.md"
    assert main([f"{name}={engine(name).unpacked(tmp_path / 'unpacked')}", "--out", str(out)]) == 0
    assert capsys.readouterr().out.endswith(" 0 differences\n")
    assert f"| {name} | `9.8.7` |" in out.read_text("utf-8")


@pytest.mark.parametrize(("name", "old", "new"), CHANGES)
def test_a_change_in_how_an_engine_reads_is_a_finding(varied: Store, tmp_path: Path, capsys, name, old, new) -> None:
    out = tmp_path / "canary.md"
    changed = engine(name).changed(old, new).unpacked(tmp_path / "unpacked")
    assert main([f"{name}={changed}", "--out", str(out)]) == 1
    assert f"## {name} 9.8.7\n\n- `E=8," in out.read_text("utf-8")


def test_both_engines_as_wheels_in_one_run(varied: Store, tmp_path: Path, vllm: FakeEngine, sglang: FakeEngine) -> None:
    wheels = tmp_path / "wheels"
    assert main([f"vllm={vllm.wheel(wheels)}", f"sglang={sglang.wheel(wheels)}"]) == 0


def test_a_look_up_that_cannot_be_cut_out_is_a_finding(varied: Store, tmp_path: Path, vllm: FakeEngine) -> None:
    out = tmp_path / "canary.md"
    changed = vllm.changed("def get_moe_configs", "def get_tables").unpacked(tmp_path / "unpacked")
    assert main([f"vllm={changed}", "--out", str(out)]) == 1
    assert "found get_moe_configs (nothing of that name)" in out.read_text("utf-8")


def test_code_that_hangs_is_a_finding(varied: Store, tmp_path: Path, capsys, vllm: FakeEngine) -> None:
    hanging = vllm.changed(FIRST_LINE, f"{FIRST_LINE}\n    while True: pass")
    package = hanging.unpacked(tmp_path / "unpacked")
    assert main([f"vllm={package}", "--time-limit", "2"]) == 1
    assert "expected answers within 2 s, found the engine's code still running" in capsys.readouterr().out


def test_code_that_ends_its_process_is_a_finding(varied: Store, tmp_path: Path, capsys, vllm: FakeEngine) -> None:
    package = vllm.changed(FIRST_LINE, f"{FIRST_LINE}\n    os._exit(3)").unpacked(tmp_path / "unpacked")
    assert main([f"vllm={package}"]) == 1
    assert "found its process ended (exit code 3)" in capsys.readouterr().out


def test_the_code_sees_no_variable_of_ours(
    varied: Store, tmp_path: Path, capsys, vllm: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "a secret")
    curious = vllm.changed(FIRST_LINE, f"{FIRST_LINE}\n    raise ValueError(sorted(os.environ))")
    package = curious.unpacked(tmp_path / "unpacked")
    assert main([f"vllm={package}"]) == 1
    found = capsys.readouterr().out
    assert "ValueError: [" in found
    assert "'PATH'" in found
    assert "GITHUB_TOKEN" not in found


def test_what_the_code_says_cannot_leave_its_line(varied: Store, tmp_path: Path, vllm: FakeEngine) -> None:
    out = tmp_path / "canary.md"
    hostile = vllm.changed(FIRST_LINE, rf'{FIRST_LINE}; raise ValueError("`\n## a heading | <b>\x1b[2J" * 99)')
    assert main([f"vllm={hostile.unpacked(tmp_path / 'unpacked')}", "--out", str(out)]) == 1
    lines = out.read_text("utf-8").splitlines()
    assert any("ValueError: '" in line and "a heading" in line for line in lines)
    assert [line for line in lines if line.startswith("#")] == ["# Engine canary", "## vllm 9.8.7"]
    assert all(line.count("`") % 2 == 0 and "\x1b" not in line and len(line) < 1500 for line in lines)


def test_markdown_that_the_code_wrote_is_handed_on_by_nobody(varied: Store, tmp_path: Path, vllm: FakeEngine) -> None:
    """It writes beside its parent's files, and ends it as it likes: what another job reads is JSON, and checked."""
    handed_on, posted = tmp_path / "canary.json", tmp_path / "canary.md"
    lie = f"open({str(handed_on)!r}, 'w').write('# Engine canary\\n@everybody <b>'); os.kill(os.getppid(), 0)"
    hostile = vllm.changed(FIRST_LINE, f"{FIRST_LINE}\n    {lie}").unpacked(tmp_path / "unpacked")
    main([f"vllm={hostile}", "--json", str(handed_on)])
    assert main(["--report", str(handed_on), "--out", str(posted)]) == 0
    assert "everybody" not in posted.read_text("utf-8")
    handed_on.write_text("# Engine canary\n@everybody <b>")
    posted.unlink()
    assert main(["--report", str(handed_on), "--out", str(posted)]) == 2
    assert not posted.exists()


def test_a_version_that_is_none_is_not_repeated(varied: Store, tmp_path: Path, capsys) -> None:
    package = engine("vllm").unpacked(tmp_path / "unpacked")
    (metadata,) = package.glob("*.dist-info/METADATA")
    metadata.write_text("Name: vllm\nVersion: 1 @everybody <b>\n", "utf-8")
    main([f"vllm={package}"])
    assert capsys.readouterr().out.startswith("vllm of unknown version: ")


def test_a_store_without_a_file_has_nothing_to_differ_in(configs: Store, tmp_path: Path, capsys, sglang) -> None:
    assert main([f"sglang={sglang.unpacked(tmp_path / 'unpacked')}"]) == 0
    assert "0 exported files, 0 look-ups" in capsys.readouterr().out


def test_a_file_that_no_export_can_hold_is_not_asked_for(configs: Store, tmp_path: Path, vllm: FakeEngine) -> None:
    add(configs, f"E=8,N=64,device_name={H100},dtype=int8_w8a8.json")
    assert main([f"vllm={vllm.unpacked(tmp_path / 'unpacked')}"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vllm=nowhere.whl"], "nowhere.whl: expected a wheel or a folder, found nothing"),
        (["trt=x"], "ENGINE=PATH: expected vllm=PATH or sglang=PATH, found 'trt=x'"),
        (["vllm="], "found 'vllm='"),
        (["vllm=a", "vllm=b"], "ENGINE=PATH: expected vllm at most once, found it again. Fix: "),
        (["vllm=."], "expected vllm with its vllm-….dist-info, found none"),
    ],
)
def test_bad_use_is_one_line(configs: Store, tmp_path: Path, capsys, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_folder_of_the_users_own_is_refused(configs: Store, tmp_path: Path, capsys, vllm, monkeypatch) -> None:
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", "/somewhere")
    assert main([f"vllm={vllm.unpacked(tmp_path / 'unpacked')}"]) == 2
    assert "VLLM_TUNED_CONFIG_FOLDER: expected none, found /somewhere" in capsys.readouterr().err


def test_a_broken_file_of_the_store_is_said(configs: Store, tmp_path: Path, capsys, vllm: FakeEngine) -> None:
    (configs.root / f"E=8,N=64,device_name={H100}.json").write_text("{")
    assert main([f"vllm={vllm.unpacked(tmp_path / 'unpacked')}"]) == 2
    assert "not JSON" in capsys.readouterr().err
