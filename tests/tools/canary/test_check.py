"""An engine's own look-up runs without it, and what only a whole run shows: a file that nothing leads the engine to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.builders import H100, Store
from tools.canary import answers
from tools.canary.__main__ import main
from tools.canary.child import stand_ins
from tools.canary.engines import ENGINES, WANTED
from tools.checkout import reference_triton
from tools.launch.source_cut import cut

from .conftest import FakeEngine, add, engine

pytestmark = pytest.mark.usefixtures("small_grid")


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_a_whole_look_up_needs_nothing_of_its_engine(name: str) -> None:
    found = cut(engine(name).modules.get, ENGINES[name].places, WANTED, stand_ins(name, "", "", ""))
    assert set(WANTED) <= set(re.findall(r"^def (\w+)", found.text, re.MULTILINE))
    imports = set(re.findall(r"^\s*(?:from|import) (\w+)", found.text, re.MULTILINE))
    assert imports <= {"functools", "json", "os"}
    assert found.modules == tuple(sorted(engine(name).modules))
    assert "unrelated" not in found.text


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
