"""fused-moe-configs doctor --engine-log: whose each file is, and which line answers each miss."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import fused_moe_configs
from fused_moe_configs.cli import main
from fused_moe_configs.naming import spelled
from tests.loader.conftest import ENTRY, H100
from tools.checkout import CHECKOUT
from tools.tune.request import parse as parse_tune

NAME = f"E=8,N=7168,device_name={H100}.json"
FP8 = NAME.replace(".json", ",dtype=fp8_w8a8,block_shape=[128,128].json")
PACKAGE = "/usr/lib/python3.12/site-packages/vllm/model_executor/layers/fused_moe/configs"
TRITON_UTILS = "/opt/sglang/srt/layers/moe/moe_runner/triton_utils"
MODEL = "(EngineCore pid=2) INFO [core.py:140] Initializing a V1 LLM engine (v0.33.0) with config: model='a/B', tensor_parallel_size=2"  # noqa: E501


def read(path: object) -> str:
    return f"Using configuration from {path} for MoE layer."


def missed(*paths: object) -> str:
    return f"Using default MoE config. Performance might be sub-optimal! Config file not found at {', '.join(map(str, paths))}"  # noqa: E501


def sglang_missed(path: object) -> str:
    return f"Using default MoE kernel config. Performance might be sub-optimal! Config file not found at {path}, you can create them"  # noqa: E501


@pytest.fixture
def doctor(store, tmp_path, capsys):
    """The command's answer to a log of these lines: (exit code, lines, error)."""

    def run(*lines: str, options: tuple[str, ...] = (), data: bytes | None = None):
        path = tmp_path / "server.log"
        path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape") if data is None else data)
        code = main(["doctor", "--engine-log", str(path), *options])
        output = capsys.readouterr()
        return code, output.out.splitlines(), output.err

    return run


@pytest.fixture
def verdicts(doctor):
    """As `doctor`: (exit code, the files of its JSON)."""

    def run(*lines: str):
        code, out, _ = doctor(*lines, options=("--format", "json"))
        return code, json.loads("\n".join(out))["files"]

    return run


# ---------------------------------------------------------------
# Whose a file is


def test_a_file_that_export_wrote_is_ours(store, tmp_path, verdicts):
    store.add(NAME)
    fused_moe_configs.export(tmp_path / "moe", "vllm")
    code, (file,) = verdicts(read(tmp_path / "moe" / NAME))
    assert (code, file["status"], file["whose"], file["commands"]) == (0, "read", "ours", [])


def test_a_file_that_export_copied_from_the_engine_is_the_engines(store, tmp_path, verdicts):
    folder = tmp_path / "sglang" / "configs" / "triton_3_8_0"
    folder.mkdir(parents=True)
    (folder / NAME).write_text(json.dumps({"1": ENTRY}))
    store.add(FP8)
    fused_moe_configs.export(tmp_path / "moe", "sglang", overlay=tmp_path / "sglang" / "configs")
    at = tmp_path / "moe" / "configs" / "triton_3_8_0"
    code, (theirs, ours) = verdicts(
        f"Using MoE kernel config from {at / NAME}.",
        f"Using MoE kernel config from {at / FP8.replace('128,128', '128, 128')}.",
    )
    assert (code, theirs["whose"], ours["whose"]) == (0, "copied", "ours")


@pytest.mark.parametrize("manifest", [None, b"{", b"[]", b'{"vllm": 1}', b'{"vllm": {}}'])
def test_a_file_in_a_folder_that_no_export_wrote_is_another_hands(store, tmp_path, verdicts, manifest):
    (tmp_path / "own").mkdir()
    if manifest is not None:
        (tmp_path / "own" / ".fused_moe_configs.json").write_bytes(manifest)
    code, (file,) = verdicts(read(tmp_path / "own" / NAME))
    assert (code, file["whose"]) == (0, "other")


def test_a_file_of_the_engines_own_package_is_theirs_and_one_of_ours_is_offered(store, verdicts):
    code, (file,) = verdicts(read(f"{PACKAGE}/{NAME}"))
    assert (code, file["whose"], file["commands"], file["note"]) == (0, "engine", [], None)
    store.add(NAME)
    code, (file,) = verdicts(read(f"{PACKAGE}/{NAME}"))
    assert (code, file["here"]) == (0, NAME)
    assert file["commands"][0] == "fused-moe-configs export ./moe-configs --engine vllm"
    assert file["note"] == f"this package has one for it too: {NAME}"


def test_a_folder_of_another_machine_is_said_to_be_one(verdicts):
    _, (file,) = verdicts(read(f"/no/such/folder/{NAME}"))
    assert file["whose"] == "unknown"


def test_what_is_not_known_to_be_ours_is_counted_apart(doctor):
    _, lines, _ = doctor(read(f"/no/such/folder/{NAME}"))
    assert lines[-1] == "1 read, 0 of them ours, 1 not known whose; 0 missed"


# ---------------------------------------------------------------
# What answers a miss


def typed(commands: list[str], folder: Path) -> str:
    """Runs the lines in a shell, as they stand, and prints both variables."""
    script = f'fused-moe-configs() {{ "{sys.executable}" -m fused_moe_configs "$@"; }}\nset -e\n'
    script += "\n".join(commands) + '\nprintf "%s" "$VLLM_TUNED_CONFIG_FOLDER$SGLANG_MOE_CONFIG_DIR"'
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def shipped() -> str:
    return next(path.name for path in sorted((CHECKOUT / "configs").glob("E=*block_shape*.json")))


@pytest.fixture
def real(store, monkeypatch):
    """This repository's own files."""
    monkeypatch.setattr("fused_moe_configs.api.CONFIGS", CHECKOUT / "configs")


@pytest.mark.usefixtures("real")
def test_the_lines_for_vllm_typed_as_they_stand_put_the_file_where_the_variable_points(verdicts, tmp_path):
    code, (file,) = verdicts(missed(f"{PACKAGE}/{shipped()}"))
    assert (code, file["status"], file["here"]) == (1, "missed", shipped())
    assert (Path(typed(file["commands"], tmp_path)) / shipped()).is_file()


@pytest.mark.usefixtures("real")
def test_the_lines_for_sglang_typed_as_they_stand_keep_its_own_files_too(verdicts, tmp_path):
    own = tmp_path / "mit lücke" / "sglang" / "srt" / "layers" / "configs"
    (own / "triton_3_8_0").mkdir(parents=True)
    (own / "triton_3_8_0" / NAME.replace("8", "9", 1)).write_text(json.dumps({"1": ENTRY}))
    by_sglang = spelled(shipped(), "sglang")
    code, (file,) = verdicts(sglang_missed(own / "triton_3_8_0" / by_sglang))
    assert code == 1
    folder = Path(typed(file["commands"], tmp_path)) / "configs" / "triton_3_8_0"
    assert (folder / by_sglang).is_file()
    assert (folder / NAME.replace("8", "9", 1)).is_file()


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_where_the_variable_is_set_its_own_folder_is_exported_to(verdicts, tmp_path, engine):
    folder = tmp_path / "eigener ordner; rm -rf x"
    name = shipped() if engine == "vllm" else f"configs/triton_3_8_0/{spelled(shipped(), engine)}"
    line = missed(folder / name, f"{PACKAGE}/{name}") if engine == "vllm" else sglang_missed(folder / name)
    _, (file,) = verdicts(line)
    (command,) = file["commands"]
    typed([command, "true"], tmp_path)
    assert (folder / name).is_file()


def test_a_file_for_one_triton_is_exported_for_it(store, doctor, tmp_path):
    store.add(NAME, tier="triton_3_6_0")
    _, lines, _ = doctor(missed(f"{PACKAGE}/{NAME}"), options=("--triton-version", "3.6.1"))
    (command,) = (line for line in lines if " export " in line and "--engine" in line)
    assert command == "  $ fused-moe-configs export ./moe-configs --engine vllm --triton-version 3.6.0"


def test_sglangs_own_folder_says_for_which_triton_it_looked(store, verdicts):
    store.add(NAME, tier="triton_3_6_0")
    _, (file,) = verdicts(sglang_missed(f"{TRITON_UTILS}/configs/triton_3_6_0/{NAME}"))
    assert file["here"] == f"triton_3_6_0/{NAME}"
    _, (file,) = verdicts(sglang_missed(f"{TRITON_UTILS}/configs/triton_3_8_0/{NAME}"))
    assert file["here"] is None


def tuned(command: str) -> list[str]:
    """The tune line's arguments, which the tuner's own command line accepts."""
    start, _, arguments = command.partition(" -- ")
    assert start == "./nox -s tune"
    words = arguments.replace("HIDDEN_SIZE", "4096").replace("EXPERTS_PER_TOKEN", "2").split()
    parse_tune(words)
    return words


def dry_run(*words: str) -> str:
    """What the tuner says that it would do where nothing lies yet."""
    with tempfile.TemporaryDirectory() as output:
        where = ("--device-name", H100, "--output", output)
        command = (sys.executable, "-m", "tools.tune", "--dry-run", *where, *words)
        return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("before", "arguments"),
    [
        ((MODEL,), "--model a/B --tp 2"),
        (("server_args={'model_path': 'a/B', 'tp_size': 4, 'ep_size': 2}",), "--model a/B --tp 4 --ep 2"),
        (("non-default args: {'model': 'a/B', 'tensor_parallel_size': 2, 'enable_expert_parallel': True}",),
         "--model a/B --tp 2 --ep 2"),
        ((), "--E 8 --N 7168 --K 4096 --top-k 2 --dtype fp8_w8a8 --block-shape 128,128"),
    ],
)  # fmt: skip
def test_a_miss_without_a_file_here_is_answered_by_a_tune_line(verdicts, before, arguments):
    code, (file,) = verdicts(*before, missed(f"{PACKAGE}/{FP8}"))
    assert (code, file["here"]) == (1, None)
    (command,) = file["commands"]
    assert " ".join(tuned(command)) == arguments


GLM = "server_args={'model_path': 'zai-org/GLM-4.5-Air-FP8', 'tp_size': 4}"
QWEN = "non-default args: {'model': 'Qwen/Qwen3-30B-A3B', 'tensor_parallel_size': 2}"


def name_of(E: int, N: int, quantisation: str = "") -> str:
    return f"E={E},N={N},device_name={H100}{quantisation}.json"


@pytest.mark.parametrize(
    ("start", "engine", "name", "arguments"),
    [
        # SGLang fuses the shared expert and names channels, vLLM doesn't
        (GLM, "sglang", name_of(129, 352, ",dtype=fp8_w8a8,per_channel_quant=True"),
         "--model zai-org/GLM-4.5-Air-FP8 --tp 4 --engine sglang"),
        (GLM, "vllm", name_of(128, 352, ",dtype=fp8_w8a8"), "--model zai-org/GLM-4.5-Air-FP8 --tp 4"),
        (QWEN, "vllm", name_of(128, 384), "--model Qwen/Qwen3-30B-A3B --tp 2"),
        (QWEN.replace("}", ", 'data_parallel_size': 2}"), "vllm", name_of(128, 192),
         "--model Qwen/Qwen3-30B-A3B --tp 4"),
        # quantised while loading
        (QWEN, "vllm", name_of(128, 384, ",dtype=fp8_w8a8"), "--model Qwen/Qwen3-30B-A3B --tp 2 --dtype fp8_w8a8"),
        (QWEN, "sglang", name_of(128, 384, ",dtype=int8_w8a8,per_channel_quant=True"),
         "--model Qwen/Qwen3-30B-A3B --tp 2 --dtype int8_w8a8 --per-channel-quant --engine sglang"),
    ],
)  # fmt: skip
def test_the_tune_line_makes_the_file_that_was_missed(verdicts, start, engine, name, arguments):
    """By the tuner's own dry run."""
    line = missed(f"{PACKAGE}/{name}") if engine == "vllm" else sglang_missed(f"{TRITON_UTILS}/triton_3_8_0/{name}")
    _, (file,) = verdicts(start, line)
    (command,) = file["commands"]
    assert " ".join(tuned(command)) == arguments
    assert f"this tunes {name}" in dry_run(*tuned(command))


def test_a_model_that_asks_for_another_file_is_not_the_one_to_tune(verdicts):
    _, (file,) = verdicts(QWEN, missed(f"{PACKAGE}/{name_of(64, 384)}"))
    (command,) = file["commands"]
    assert " ".join(tuned(command)) == "--E 64 --N 384 --K 4096 --top-k 2"
    assert file["note"] == (
        "Qwen/Qwen3-30B-A3B tp=2 doesn't ask for it: take both words from the config.json of the model that does"
    )


def test_experts_without_a_gate_are_not_tuned_here(verdicts):
    start = QWEN.replace("Qwen/Qwen3-30B-A3B", "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    _, (file,) = verdicts(start, missed(f"{PACKAGE}/{name_of(128, 928)}"))
    assert (file["commands"], file["note"]) == ([], "not tuned here: experts without a gate")


def test_sizes_alone_make_the_file_that_was_missed(verdicts):
    name = name_of(8, 7168, ",dtype=int8_w8a8,per_channel_quant=True")
    _, (file,) = verdicts(sglang_missed(f"{TRITON_UTILS}/triton_3_8_0/{name}"))
    (command,) = file["commands"]
    assert f"this tunes {name}" in dry_run(*tuned(command))


def test_each_server_of_a_log_has_its_own_line(doctor):
    sglang = sglang_missed(f"{TRITON_UTILS}/x/{name_of(129, 352, ',dtype=fp8_w8a8,per_channel_quant=True')}")
    _, lines, _ = doctor(GLM, sglang, QWEN, missed(f"{PACKAGE}/{name_of(128, 384)}"))
    assert lines[0].endswith("; zai-org/GLM-4.5-Air-FP8 tp=4; Qwen/Qwen3-30B-A3B tp=2")
    assert [line for line in lines if "./nox -s tune" in line] == [
        "  $ ./nox -s tune -- --model zai-org/GLM-4.5-Air-FP8 --tp 4 --engine sglang",
        "  $ ./nox -s tune -- --model Qwen/Qwen3-30B-A3B --tp 2",
    ]


@pytest.mark.parametrize("model", ["/models/mit lücke", "./b", "-x/y", "a/b;rm -rf x", "gpt2"])
def test_a_model_that_is_a_folder_is_tuned_by_its_config(verdicts, model):
    _, (file,) = verdicts(f"server_args={{'model_path': '{model}'}}", missed(f"{PACKAGE}/{NAME}"))
    (command,) = file["commands"]
    printed = typed([f"printf '%s' {command.partition('--config-json ')[2].removesuffix(' --tp 1')}; exit"], Path("/"))
    assert printed == f"{model}/config.json"


@pytest.mark.parametrize(
    ("name", "note"),
    [(NAME.replace(".json", ",dtype=int4_w4a16.json"), "not tuned here: another kernel runs int4_w4a16"),
     (NAME.replace(".json", ",dtype=fp8_w8a16.json"), "not tuned here: another kernel runs fp8_w8a16"),
     (NAME.replace(".json", ",dtype=fp4_w4a4.json"), "no file of this repository can have this name: ask in an issue")],
)  # fmt: skip
def test_what_nothing_here_answers_says_why(verdicts, name, note):
    code, (file,) = verdicts(missed(f"{PACKAGE}/{name}"))
    assert (code, file["commands"], file["note"]) == (1, [], note)


def test_sglangs_half_of_int4s_n_is_the_models_own_here(store, verdicts):
    store.add(NAME.replace(".json", ",dtype=int4_w4a16.json"))
    half = NAME.replace("7168", "3584").replace(".json", ",dtype=int4_w4a16.json")
    _, (file,) = verdicts(sglang_missed(f"{TRITON_UTILS}/configs/triton_3_8_0/{half}"))
    assert file["here"] == NAME.replace(".json", ",dtype=int4_w4a16.json")


def test_a_down_file_needs_no_answer_of_its_own(store, doctor, verdicts):
    up, down = (f"{TRITON_UTILS}/configs/triton_3_8_0/{name}" for name in (NAME, NAME.replace(".json", "_down.json")))
    lines = (f"Using MoE kernel config from {up}.", f"Down MoE config file not found at {down}; reusing the tuned")
    code, files = verdicts(*lines)
    assert (code, [file["status"] for file in files]) == (0, ["read", "shared"])
    code, files = verdicts(sglang_missed(up), sglang_missed(down))
    assert (code, [file["status"] for file in files]) == (1, ["missed", "shared"])
    assert not any("_down" in line for line in doctor(*lines)[1])


def test_a_file_of_another_triton_says_so(verdicts):
    asked, taken = (f"{TRITON_UTILS}/configs/triton_{version}/{NAME}" for version in ("3_8_0", "3_2_0"))
    _, (file,) = verdicts(
        f"Config file not found at {asked}. Fallback to triton version 3.2.0 and use MoE kernel config from {taken}. x"
    )
    assert (file["status"], file["note"]) == ("read", "it is for Triton 3.2.0; the engine runs 3.8.0")


# ---------------------------------------------------------------
# What is printed


def test_it_reads_well(store, doctor, tmp_path):
    store.add(NAME)
    fused_moe_configs.export(tmp_path / "moe", "vllm")
    code, lines, error = doctor(
        MODEL,
        read(tmp_path / "moe" / NAME),
        read(tmp_path / "moe" / NAME),
        missed(tmp_path / "moe" / FP8, f"{PACKAGE}/{FP8}"),
    )
    assert (code, error) == (1, "")
    assert lines == [
        "4 lines, 2 tuned MoE files named in them; vLLM 0.33.0; a/B tp=2",
        f"read    vllm  {NAME}",
        f"        from {tmp_path / 'moe' / NAME}: written by fused-moe-configs export",
        f"missed  vllm  {FP8}",
        f"        not at {tmp_path / 'moe' / FP8}",
        f"        not at {PACKAGE}/{FP8}",
        "1 read, 1 of them ours; 1 missed",
        "next, and then start the server again:",
        "  $ ./nox -s tune -- --model a/B --tp 2",
        "(./nox: in a clone of the repository, on a machine with this GPU; then export from there)",
    ]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((), "the log is empty. Fix: send the server's stderr to it too, where engines log: 2>&1"),
        (("INFO hello",), "- where the experts run on another backend than Triton, or the model has none"),
        (("Using FLASHINFER_CUTLASS Fp8 MoE backend out of potential backends: [].",),
         "- where the experts run on another backend, as here: FLASHINFER_CUTLASS Fp8"),
        (("server_args={'model_path': 'a/B', 'moe_runner_backend': 'deep_gemm'}",),
         "- where the experts run on another backend than triton; here moe_runner_backend is deep_gemm"),
        (("Deterministic inference is enabled, using default MoE kernel config.",),
         "SGLang runs deterministically: it reads no tuned file then"),
        (("No LoRA kernel configs found in /a/D_SHRINK.json",),
         "the log also speaks of other kernels' files (LoRA), which this package has none of"),
    ],
)  # fmt: skip
def test_a_log_without_such_a_line_says_what_that_may_mean(doctor, lines, said):
    code, out, _ = doctor(*lines)
    assert code == 1
    assert said in out


@pytest.mark.parametrize(("lines", "first"), [((), "0 lines"), (("a",), "1 line, 0"), (("a", "b"), "2 lines, 0")])
def test_how_long_it_is_stands_first(doctor, lines, first):
    assert doctor(*lines)[1][0].startswith(first)


@pytest.mark.parametrize("data", [bytes(range(256)) * 999, b"\x00" * 10**6, b"\xff" * 10**6])
def test_garbage_is_a_log_without_such_a_line(doctor, data):
    code, out, error = doctor(data=data)
    assert (code, error) == (1, "")
    assert "no line says that a tuned file was read or missed. That is so" in out


def test_what_a_log_says_is_printed_on_one_line_and_typed_as_no_other_command(doctor, store):
    store.add(NAME)
    code, out, _ = doctor(missed(f"/srv/\x1b]0;x\x07$(touch x)/{NAME}"), MODEL.replace("a/B", "a\x1b[2J/B"))
    assert code == 1
    assert all(line.isprintable() for line in out)
    assert "  $ fused-moe-configs export ./moe-configs --engine vllm" in out


# ---------------------------------------------------------------
# Where logs lie


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_a_packed_log_is_unpacked_whatever_it_is_called(doctor, pack):
    code, out, _ = doctor(data=pack(f"{missed(f'{PACKAGE}/{NAME}')}\n".encode()))
    assert (code, out[1]) == (1, f"missed  vllm  {NAME}")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_a_packed_log_that_breaks_off_counts_as_far_as_it_goes(doctor, pack):
    packed = pack(f"{missed(f'{PACKAGE}/{NAME}')}\n".encode() + os.urandom(2**21))
    code, out, _ = doctor(data=packed[: len(packed) // 2])
    assert (code, out[1]) == (1, f"missed  vllm  {NAME}")
    assert any("packed data end or break in the middle" in line for line in out)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_a_packed_log_with_a_wrong_byte_counts_as_far_as_it_goes(doctor, pack):
    packed = bytearray(pack(f"{missed(f'{PACKAGE}/{NAME}')}\n".encode() + os.urandom(2**22)))
    packed[len(packed) * 3 // 4] ^= 0xFF
    code, out, _ = doctor(data=bytes(packed))
    assert (code, out[1]) == (1, f"missed  vllm  {NAME}")
    assert any("packed data end or break in the middle" in line for line in out)


def test_packed_data_that_hold_nothing_are_not_called_an_empty_log(doctor):
    code, out, _ = doctor(data=b"\x1f\x8b" + b"z" * 20)
    assert code == 1
    assert "packed data end or break in the middle" in out[-1]


def test_zstandard_says_how_to_unpack_it(doctor):
    code, out, error = doctor(data=b"\x28\xb5\x2f\xfd" + b"x" * 99)
    assert (code, out) == (2, [])
    assert "Fix: unpack it on the way: zstdcat FILE | fused-moe-configs doctor --engine-log -" in error


def test_the_parts_of_a_rotated_log_are_read_oldest_first(store, tmp_path, capsys):
    old, new = tmp_path / "a.log.1", tmp_path / "a.log"
    old.write_text(missed(f"{PACKAGE}/{NAME}"))
    new.write_text(read(f"{PACKAGE}/{NAME}"))
    os.utime(old, (1, 1))
    for named in ([old, new], [new, old]):
        assert main(["doctor", "--format", "json", "--engine-log", *map(str, named)]) == 0
        (file,) = json.loads(capsys.readouterr().out)["files"]
        assert (file["status"], file["note"]) == ("read", "elsewhere in the log it was missed")


@pytest.mark.parametrize(
    "data", [f"{read(f'/x/{NAME}')}\n".encode(), gzip.compress(f"{read(f'/x/{NAME}')}\n".encode())]
)
def test_a_log_comes_from_standard_input(data):
    command = [sys.executable, "-m", "fused_moe_configs", "doctor", "--engine-log", "-"]
    done = subprocess.run(command, input=data, capture_output=True, cwd=CHECKOUT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"read    vllm  {NAME}" in done.stdout.decode()


def test_a_closed_standard_input_is_named():
    command = f'"{sys.executable}" -m fused_moe_configs doctor --engine-log - <&-'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=CHECKOUT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --engine-log: expected a log on standard input, found it closed. Fix: ")


@pytest.mark.parametrize("place", ["nothing", ".", "x" * 300])
def test_a_log_that_can_not_be_read_is_named(store, tmp_path, capsys, place):
    assert main(["doctor", "--engine-log", str(tmp_path / place)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    wish = "error: --engine-log: expected a server's log, found"
    assert line.startswith(f"{wish} {tmp_path / place}, which can't be read: ")
    assert "Errno" not in line


def test_a_disk_that_fails_in_the_middle_is_no_traceback(store, tmp_path, capsys, monkeypatch):
    class Failing:
        def read1(self, size):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("fused_moe_configs.commands.engine_log._unpacked", lambda file, place: Failing())
    (tmp_path / "log").write_text("x")
    assert main(["doctor", "--engine-log", str(tmp_path / "log")]) == 2
    assert "which can't be read: Input/output error" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--engine-log", "x", "--model", "a/B"], ["--engine-log", "x", "--dtype", "fp8_w8a8"],
                  ["--engine-log", "x", "--device-name", "D"], ["--format", "json"], ["--engine-log"]],
)  # fmt: skip
def test_what_would_have_no_effect_is_refused(store, capsys, arguments):
    assert main(["doctor", *arguments]) == 2
    assert "error: " in capsys.readouterr().err
