"""The diff as people and programs read it. Foreign names can forge neither lines nor markdown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from tools.pull_request.diff import (
    CoveredModel,
    Diff,
    Edit,
    EvidenceKind,
    FileChange,
    Hidden,
    Kind,
    ModeChange,
    grouped,
)
from tools.pull_request.diff_report import FORMATS, as_github, as_json, as_markdown, as_text

GOLDEN = Path(__file__).parent / "diff.golden.md"
DEVICES = ("NVIDIA_H200", "NVIDIA_H100_80GB_HBM3", "NVIDIA_B200", "AMD_Instinct_MI300X")


def path(E: int, device: str = "NVIDIA_H200", folder: str = "") -> PurePosixPath:
    return PurePosixPath(folder, f"E={E},N=512,device_name={device}.json")


STAGES = frozenset({Edit("num_stages", "3", "4")})
MANY = frozenset(Edit(key, str(a), str(b)) for key in ("BLOCK_SIZE_N", "num_warps") for a, b in ((1, 2), (2, 4)))
FILES = (
    *(FileChange(Kind.ADDED, path(E), (1, 64), gain_pct=10.0 + E) for E in range(1, 6)),
    FileChange(Kind.ADDED, path(1, folder="triton_3_6_0"), (1, 64)),
    *(FileChange(Kind.RETUNED, path(E, device), (64, 128), STAGES, 1.5) for E in range(1, 51) for device in DEVICES),
    FileChange(Kind.RETUNED, path(60), (64,), MANY, -1e300),
    FileChange(Kind.RETUNED, path(61), (64, 128), frozenset({Edit("batch sizes", None, "2")})),
    FileChange(Kind.MOVED, path(8, folder="legacy_configs"), (), moved_from="default"),
    FileChange(Kind.MOVED, path(9), (64,), STAGES, 2.0, moved_from="triton_3_6_0"),
    FileChange(Kind.REMOVED, path(70, "NVIDIA_L4")),
    FileChange(Kind.RECORDED, path(7), record_keys=("date", "rows"), bench_lines=("engine_checked: engine vllm",)),
    FileChange(Kind.RECORDED, path(8), record_keys=("date", "rows")),
    FileChange(Kind.RECORDED, path(9)),
    FileChange(Kind.UNVERIFIED, path(10), record_keys=("verified", *(f"`{i}`\n::error::x" for i in range(20)))),
    FileChange(Kind.UNREADABLE, PurePosixPath("E=1,N=1,device_name=`|<img src=x>\n::error::@everyone.json")),
)
DIFF = Diff(
    base="0" * 40,
    head="1" * 40,
    groups=grouped(FILES),
    gained=tuple(CoveredModel(f"maker/model-{i:02}", "NVIDIA_H200") for i in range(12)),
    lost=(CoveredModel("maker/model-00", "NVIDIA_L4"),),
    covered=123,
    modes=(ModeChange("configs/a.json", "100644", "100755"), ModeChange("configs/`x`\n::error::b", None, "120000")),
    hidden=(
        Hidden(path(1, folder="triton_3_6_0"), path(1), EvidenceKind.VERIFIED, ("3.6.0",)),
        Hidden(path(1, "`\n::error::b"), path(2, folder="legacy_configs"), EvidenceKind.PUBLISHED, ("3.0.0", "3.8.0")),
    ),
    others=("configs/registry/models.json", "a\n<b>##[error]x.py"),
)
EMPTY = Diff("0" * 40, "1" * 40, (), (), (), 1, ())


def test_the_markdown_is_as_agreed() -> None:
    assert as_markdown(DIFF) + "\n" == GOLDEN.read_text("utf-8")


def test_a_key_that_comes_in_one_row_and_goes_in_another_is_both() -> None:
    """As USE_TMA does where a `_down` file is tuned again."""
    both = frozenset({Edit("USE_TMA", None, "true"), Edit("USE_TMA", "true", None), Edit("USE_TMA", "true", "false")})
    diff = replace(EMPTY, groups=grouped([FileChange(Kind.RETUNED, path(1), (1, 2), both)]))
    told = "USE_TMA absent → true, USE_TMA true → absent, USE_TMA true → false, 2 rows"
    assert told in as_text(diff)
    assert told in as_markdown(diff)
    (group,) = json.loads(as_json(diff))["groups"]
    assert [edit["before"] for edit in group["edits"]] == [None, "true", "true"]


def test_200_files_with_one_change_read_as_one_line() -> None:
    lines = [line for line in as_text(DIFF).splitlines() if "num_stages 3 → 4, 400 rows" in line]
    names = "E=1,N=512,device_name=AMD_Instinct_MI300X, E=1,N=512,device_name=NVIDIA_B200"
    assert len(lines) == 1
    assert lines[0].startswith(f"  num_stages 3 → 4, 400 rows on 4 devices: 200 files: {names}")
    assert lines[0].endswith("and 197 more; median gain over the earlier entries +1.5 % (claimed)")


def test_nothing_is_said_in_one_line() -> None:
    assert as_text(EMPTY) == "No tuned file changed. 1 pair of model and device covered."


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_names_forge_nothing(name: str) -> None:
    text = FORMATS[name](DIFF)
    assert not any(line.startswith("::error") for line in text.splitlines())
    assert "##[" not in text
    assert all(line.isprintable() for line in text.splitlines())
    assert name == "json" or "\n<b>" not in text


def test_markdown_holds_no_tag_mention_or_cell_of_a_foreign_name() -> None:
    text = as_markdown(DIFF)
    assert "<img" not in text
    assert "@everyone" not in text
    assert "|" not in text


def test_a_very_long_diff_is_cut() -> None:
    groups = grouped(FileChange(Kind.ADDED, path(1, f"GPU_{i}")) for i in range(200))
    lines = as_markdown(Diff("0", "1", groups, (), (), 0, ())).splitlines()
    assert len(lines) < 60
    assert "- and 150 more lines" in lines


def test_json_has_every_file() -> None:
    document = json.loads(as_json(DIFF))
    assert sum(len(group["files"]) for group in document["groups"]) == len(FILES)
    assert document["coverage"]["cells"] == 123
    assert document["coverage"]["lost"] == [{"model": "maker/model-00", "device_name": "NVIDIA_L4"}]
    assert document["groups"][0]["kind"] == "added"
    assert document["hidden"][0] == {
        "path": f"configs/{path(1)}",
        "by": f"configs/triton_3_6_0/{path(1)}",
        "standing": "verified",
        "triton": ["3.6.0"],
    }
    recorded = next(group for group in document["groups"] if group["kind"] == "recorded" and len(group["files"]) == 2)
    assert recorded["files"][0]["record_keys"] == ["date", "rows"]
    assert recorded["files"][0]["bench_lines"] == ["engine_checked: engine vllm"]
    assert document["modes"][0] == {"path": "configs/a.json", "before": "100644", "after": "100755"}


def test_github_has_an_annotation_for_each_group() -> None:
    lines = as_github(DIFF).splitlines()
    assert len(lines) == len(DIFF.groups) + len(DIFF.hidden) + 1
    first = "::notice file=configs/E=1%2CN=512%2Cdevice_name=NVIDIA_H200.json,title=added::"
    assert lines[0].startswith(first)
    warnings = [line.partition("title=")[2].partition("::")[0] for line in lines if line.startswith("::warning ")]
    assert warnings == ["unverified", "unreadable", "hides"]
