"""What this checkout settles for all tools, and that a damaged file of its own is told as just that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import checkout
from tools.errors import MachineError

SETTINGS = '[tool.fused-moe-configs]\nreference-triton = "3.8.0"\ntriton-releases = ["3.8.0", "3.6.0"]\n'


@pytest.fixture
def pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a checkout of its own."""
    monkeypatch.setattr(checkout, "CHECKOUT", tmp_path)
    for setting in (checkout.reference_triton, checkout.triton_releases):
        monkeypatch.setattr(checkout, setting.__name__, setting.__wrapped__)
    return tmp_path / "pyproject.toml"


def test_pyproject_says_which_tritons_there_are(pyproject: Path) -> None:
    pyproject.write_text(SETTINGS, "utf-8")
    assert (checkout.reference_triton(), checkout.triton_releases()) == ("3.8.0", ("3.8.0", "3.6.0"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "found: No such file or directory"),
        (b"{", "found: Invalid statement"),
        (b"\xff", "found: 'utf-8' codec can't decode"),
        (b"[tool]\n", "found no key 'fused-moe-configs'"),
        (b"[tool.fused-moe-configs]\n", "found no key 'reference-triton'"),
        (b"tool = 1\n", "found: "),
        (SETTINGS.replace("3.8.0", "3.x").encode(), "found: a Triton '3.x', which is no X.Y.Z"),
        (SETTINGS.replace('"3.8.0"', "[]", 1).encode(), "found: a Triton '[]', which is no X.Y.Z"),
        (SETTINGS.replace('["3.8.0", "3.6.0"]', "38").encode(), "found: a Triton '38', which is no X.Y.Z"),
    ],
    ids=["missing", "cut", "not UTF-8", "no table", "no key", "no table at all", "no release", "a list", "no list"],
)
def test_a_damaged_pyproject_is_one_line_with_a_fix(content: bytes | None, found: str, pyproject: Path) -> None:
    if content is not None:
        pyproject.write_bytes(content)
    with pytest.raises(MachineError) as raised:
        checkout.reference_triton(), checkout.triton_releases()
    said = str(raised.value)
    assert said.startswith(f"{pyproject}: expected what belongs to the checkout, {found}")
    assert said.endswith("Fix: git checkout HEAD -- pyproject.toml")
