"""An engine's kernel is cut out of its source without importing the engine."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tools.measure.engine_kernel import EngineKernelError, cut, engine_version, load
from tools.measure.kernels import EngineKernel

FIXTURE = Path(__file__).with_name("fused_moe_fixture.txt")


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    path = tmp_path / "fused_moe.py"
    path.write_text(FIXTURE.read_text("utf-8"), "utf-8")
    return path


def test_the_kernel_and_what_it_calls_are_cut_and_nothing_else(engine_file: Path) -> None:
    source = cut(engine_file)
    assert re.findall(r"^def (\w+)", source.text, re.MULTILINE) == ["write_nothing", "fused_moe_kernel"]
    assert '@triton.jit(do_not_specialize=["N"])' in source.text
    assert "no_such_engine" not in source.text
    assert source.parameters == ("a_ptr", "c_ptr", "N", "BLOCK_SIZE_M", "USE_TD")
    assert source.optional == {"USE_TD"}
    assert source.constants == {"BLOCK_SIZE_M", "USE_TD"}


def test_the_cut_module_imports_as_a_jit_function_with_its_source(engine_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    module = load(cut(engine_file), tmp_path / "cut")
    assert module.fused_moe_kernel.arg_names == ["a_ptr", "c_ptr", "N", "BLOCK_SIZE_M", "USE_TD"]
    assert Path(str(module.__file__)).read_text("utf-8") == cut(engine_file).text


def test_a_module_left_half_written_is_written_again(
    engine_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    source = cut(engine_file)
    monkeypatch.delitem(sys.modules, f"engine_kernel_{source.sha256[:16]}", raising=False)
    broken = tmp_path / "again" / f"engine_kernel_{source.sha256[:16]}.py"
    broken.parent.mkdir()
    broken.write_text("import tri", "utf-8")
    load(source, broken.parent)
    assert broken.read_text("utf-8") == source.text


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace("def fused_moe_kernel", "def another"), "expected a JIT function fused_moe_kernel"),
        (lambda text: text.replace("rows = min(N", "rows = min(LIMIT"), "found LIMIT"),
        (lambda text: text + "\ndef broken(:\n", "expected Python source"),
        (lambda text: "", "found none"),
    ],
    ids=["no kernel", "needs a global of the engine", "no Python", "empty"],
)
def test_what_cannot_be_cut_is_said(engine_file: Path, edit, message: str) -> None:
    engine_file.write_text(edit(engine_file.read_text("utf-8")), "utf-8")
    with pytest.raises(EngineKernelError, match=re.escape(message)) as caught:
        cut(engine_file)
    assert str(engine_file) in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(EngineKernelError, match="No such file or directory"):
        cut(tmp_path / "fused_moe.py")


def test_a_kernel_with_other_parameters_is_refused_by_name(engine_file: Path) -> None:
    pytest.importorskip("triton")
    with pytest.raises(EngineKernelError, match=r"found none named .*'b_ptr'"):
        EngineKernel(engine_file).check()


def test_the_version_is_that_of_the_package_around_the_file(tmp_path: Path) -> None:
    file = tmp_path / "vllm" / "layers" / "fused_moe.py"
    metadata = tmp_path / "vllm-0.33.0.dist-info" / "METADATA"
    for path, text in ((file, ""), (metadata, "Metadata-Version: 2.4\nName: vllm\nVersion: 0.33.0\n")):
        path.parent.mkdir(parents=True)
        path.write_text(text, "utf-8")
    assert engine_version(file, "vllm") == "0.33.0"
    assert engine_version(file, "sglang") is None
    metadata.write_bytes(b"Author: Andr\xe9\nVersion: 0.33.0\n")
    assert engine_version(file, "vllm") == "0.33.0"
    metadata.write_bytes(b"Version: a | table's | cell\n")
    assert engine_version(file, "vllm") is None, "a report may repeat it"
    metadata.unlink()
    assert engine_version(file, "vllm") is None
