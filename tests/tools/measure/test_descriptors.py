"""Entries with USE_TMA, launched: tensor descriptors, and rows in the alignment's order between up and down.

On a stand-in with SGLang's arguments; where SGLANG_KERNEL names fused_moe_triton_kernels.py, on a GPU on that as well.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from kernels.launch_config import LaunchConfig
from kernels.problem import Descriptors, Flavour, QuantMode
from tests.tools.measure.sglangs_kernel import write
from tools.checkout import CHECKOUT
from tools.compile.outcome import Status
from tools.compile.pool import CompilePool
from tools.launch.layer_config import LayerConfig
from tools.measure.inputs import RowInputs, make_weights
from tools.measure.kernels import EngineKernel, KernelTask, OwnKernel, problems_of
from tools.measure.layer import DOWN, UP, LayerShape
from tools.measure.recorded_routing import RoutingSource
from tools.measure.row import RowBench
from tools.registry.devices import Target, load_devices

SGLANGS_OWN = os.environ.get("SGLANG_KERNEL", "")
BF16, BLOCKS = QuantMode(), QuantMode("fp8_w8a8", block_shape=(128, 128))
CONFIG = LaunchConfig(16, 64, 64, 1, 4, 3)
MODES = {
    "pointers": LayerConfig.of(CONFIG),
    "up": LayerConfig(replace(CONFIG, USE_TMA=True), replace(CONFIG, USE_TMA=False)),
    "down": LayerConfig(CONFIG, replace(CONFIG, BLOCK_SIZE_N=128, num_stages=2, USE_TMA=True)),
    "both": LayerConfig.of(replace(CONFIG, USE_TMA=True)),
}
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch.cuda.is_available() is False")


@pytest.fixture
def kernel(tmp_path: Path) -> EngineKernel:
    return EngineKernel(write(tmp_path), Flavour.SGLANG)


def check(kernel: EngineKernel, shape: LayerShape, num_tokens: int, mode: str, device: str, arch: str) -> None:
    """AssertionError: wrong numbers of up or down."""
    weights = make_weights(shape, torch.device(device))
    inputs = RowInputs(shape, weights, num_tokens, 2, RoutingSource(), seed=1)
    row = RowBench(shape, weights, inputs, arch, num_checked=8)
    for projection in (UP, DOWN):
        row.check(kernel, MODES[mode], projection)


class TestProblems:
    SHAPE = LayerShape(8, 1024, 4096, 2, BF16)

    def descriptors(self, kernel: EngineKernel, mode: str) -> tuple[Descriptors, Descriptors]:
        up, down = problems_of(kernel, self.SHAPE, 64, MODES[mode], "sm90")
        assert up.config.USE_TMA is down.config.USE_TMA is None  # SGLang takes the key out before it launches
        return up.descriptors, down.descriptors

    def test_ups_key_is_of_its_weights_and_downs_of_all_that_down_reads(self, kernel: EngineKernel) -> None:
        none, both = Descriptors(), Descriptors(a=True, b=True)
        assert self.descriptors(kernel, "pointers") == (none, none)
        assert self.descriptors(kernel, "up") == (Descriptors(b=True), none)
        assert self.descriptors(kernel, "down") == (Descriptors(sorted_c=True), both)
        assert self.descriptors(kernel, "both") == (Descriptors(b=True, sorted_c=True), both)

    def test_padded_rows_may_be_too_many_to_let_the_next_launch_start_early(self, kernel: EngineKernel) -> None:
        plain, sorted_rows = (
            problems_of(kernel, self.SHAPE, 224, MODES[mode], "sm90")[DOWN] for mode in ("up", "down")
        )
        assert (plain.rows_of_a, plain.gdc) == (448, "early")
        assert (sorted_rows.rows_of_a, sorted_rows.gdc) == (448 + 9 * 15, "late")

    @pytest.mark.parametrize("value", [True, False])
    def test_vllms_kernel_knows_no_such_key(self, tmp_path: Path, value: bool) -> None:
        config = LayerConfig.of(replace(CONFIG, USE_TMA=value))
        with pytest.raises(ValueError, match=r"found \['USE_TMA'\]\. Fix: remove them"):
            problems_of(EngineKernel(tmp_path), self.SHAPE, 64, config, "sm90")

    @pytest.mark.parametrize("flavour", list(Flavour))
    def test_our_kernel_has_no_such_path(self, flavour: Flavour) -> None:
        with pytest.raises(ValueError, match=r"found \['USE_TMA'\]"):
            problems_of(OwnKernel(flavour=flavour), self.SHAPE, 64, MODES["both"], "sm90")

    @pytest.mark.parametrize(
        ("sizes", "faulty"),
        [((256, 512), set()), ((252, 512), {"down", "both"}), ((256, 516), {"up", "both"}), ((248, 504), set())],
    )
    def test_rows_that_start_at_no_multiple_of_16_bytes_are_refused(
        self, kernel: EngineKernel, sizes: tuple[int, int], faulty: set[str]
    ) -> None:
        """Triton's own check is an assertion, by which a whole run would end."""
        layer = LayerShape(8, *sizes, 2, BF16)
        for mode in faulty:
            with pytest.raises(ValueError, match="expected rows of a multiple of 16 bytes for USE_TMA, found"):
                problems_of(kernel, layer, 64, MODES[mode], "sm90")
        for mode in MODES.keys() - faulty:
            assert all(kernel.key(problem) for problem in problems_of(kernel, layer, 64, MODES[mode], "sm90"))

    def test_binaries_differ_by_what_goes_through_descriptors(self, kernel: EngineKernel) -> None:
        problems = {mode: problems_of(kernel, self.SHAPE, 64, MODES[mode], "sm90") for mode in MODES}
        assert len({kernel.key(up) for up, _ in problems.values()}) == 4
        assert kernel.key(problems["pointers"][DOWN]) == kernel.key(problems["up"][DOWN])
        assert kernel.key(problems["both"][DOWN]) != kernel.key(problems["pointers"][DOWN])


def test_what_a_launch_hands_over_compiles_for_an_h100(
    kernel: EngineKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    problems = problems_of(kernel, LayerShape(8, 256, 512, 2, BF16), 64, MODES["both"], "sm90")
    with CompilePool(2) as pool:
        outcomes = [outcome for _, outcome in pool.run(KernelTask(p, Target("cuda", 90, 32), kernel) for p in problems)]
    assert [(outcome.status, outcome.message) for outcome in outcomes] == [(Status.OK, "")] * 2
    compiled = [path.read_text("utf-8") for path in (tmp_path / "cache").rglob("*.ptx")]
    assert ["cp.async.bulk.tensor" in ptx for ptx in compiled] == [True] * 2


IN_THE_INTERPRETER = """
import sys
from pathlib import Path
from tests.kernels.interpreter import repair_interpreter
repair_interpreter()
from kernels.problem import Flavour, QuantMode
from tests.tools.measure.test_descriptors import MODES, check
from tools.measure.kernels import EngineKernel
from tools.measure.layer import LayerShape
kernel = EngineKernel(Path(sys.argv[1]), Flavour.SGLANG)
for ep in (1, 2):
    for mode in MODES:
        check(kernel, LayerShape(4, 64, 128, 2, QuantMode(), ep=ep), 12, mode, "cpu", "cpu")
"""


def test_the_numbers_are_right_in_tritons_interpreter(kernel: EngineKernel) -> None:
    run = [sys.executable, "-c", IN_THE_INTERPRETER, str(kernel.path)]
    done = subprocess.run(
        run, cwd=CHECKOUT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("num_tokens", [1, 64, 1024])
@pytest.mark.parametrize("ep", [1, 2])
@pytest.mark.parametrize("whose", ["stand-in", "SGLang's, bf16", "SGLang's, block fp8"])
def test_the_numbers_are_right_on_a_gpu(kernel: EngineKernel, whose: str, ep: int, num_tokens: int, mode: str) -> None:
    if whose != "stand-in":
        if not SGLANGS_OWN:
            pytest.skip("needs SGLANG_KERNEL=PATH/fused_moe_triton_kernels.py")
        kernel = EngineKernel(Path(SGLANGS_OWN).resolve(), Flavour.SGLANG)
        kernel.check()
    device = load_devices().find(torch.cuda.get_device_name())
    assert device.target is not None
    shape = LayerShape(16, 768, 2048, 4, BLOCKS if "fp8" in whose else BF16, ep=ep)
    with torch.cuda.stream(torch.cuda.Stream()):
        check(kernel, shape, num_tokens, mode, "cuda", device.target.kernel_arch)
