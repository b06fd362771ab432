"""What only the whole of a run can tell: an exported file that nothing leads the engine to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import H100, Store
from tools.canary import answers
from tools.canary.__main__ import main
from tools.checkout import reference_triton

from .conftest import FakeEngine, add


def test_an_exported_file_that_is_never_asked_for_is_a_finding(
    configs: Store, tmp_path: Path, capsys, vllm: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(configs, f"E=8,N=64,device_name={H100}.json")
    add(configs, f"E=8,N=96,device_name={H100}.json")
    all_of = answers.questions_of_store
    monkeypatch.setattr(answers, "questions_of_store", lambda *arguments: all_of(*arguments)[:1])
    assert main([f"vllm={vllm.unpacked(tmp_path / 'unpacked')}"]) == 1
    said = capsys.readouterr().out
    assert (
        f"E=8,N=96,device_name={H100}.json, exported for Triton {reference_triton()}: the engine never asks for it"
        in said
    )
    assert f"E=8,N=96,device_name={H100}.json, exported for Triton any: the engine never asks for it" in said
    assert "N=64" not in said
