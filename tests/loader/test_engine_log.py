"""What a server's log says of tuned files: the wordings of both engines, and logs of every kind.

A message's wording is the engines' (vLLM 0.6 to 0.33, SGLang 0.4 to 0.5.23); what stands around it is made here.
"""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fused_moe_configs.engine_log import MOST_FILES, MOST_PLACES, EngineLog, statements

NAME = "E=8,N=1,device_name=NVIDIA_H100_80GB_HBM3,dtype=fp8_w8a8,block_shape=[128,128].json"
SPACED = NAME.replace("[128,128]", "[128, 128]")
DOWN = SPACED.replace(".json", "_down.json")
USERS = f"/srv/méine configs/{NAME}"
PACKAGED = f"/usr/lib/python3.12/site-packages/vllm/model_executor/layers/fused_moe/configs/{NAME}"
TRITON_UTILS = "/opt/sglang/srt/layers/moe/moe_runner/triton_utils/configs"
DEFAULT = "Using default MoE config. Performance might be sub-optimal! Config file not found at"
KERNEL = "Using default MoE kernel config. Performance might be sub-optimal! Config file not found at"
CREATE = ", you can create them with https://github.com/sgl-project/sglang/tree/main/benchmark/kernels/fused_moe_triton"
S38, S32 = (f"{TRITON_UTILS}/triton_{version}/{SPACED}" for version in ("3_8_0", "3_2_0"))
S38_DOWN = f"{TRITON_UTILS}/triton_3_8_0/{DOWN}"

WORDINGS = {
    "vllm read": (f"Using configuration from {USERS} for MoE layer.", [("vllm", True, USERS)]),
    "vllm missed": (f"{DEFAULT} {PACKAGED}", [("vllm", False, PACKAGED)]),
    "vllm missed in two places": (
        f"{DEFAULT} {USERS}, {PACKAGED}", [("vllm", False, USERS), ("vllm", False, PACKAGED)]
    ),
    "vllm 0.10 and 0.11, a list": (
        f"{DEFAULT} ['{USERS}', '{PACKAGED}']", [("vllm", False, USERS), ("vllm", False, PACKAGED)]
    ),
    "sglang read": (f"Using MoE kernel config from {S38}.", [("sglang", True, S38)]),
    "sglang read from a folder of one's own": (
        f"Using MoE kernel config from /moe-configs/{SPACED}.", [("sglang", True, f"/moe-configs/{SPACED}")]
    ),
    "sglang missed": (f"{KERNEL} {S38}{CREATE}", [("sglang", False, S38)]),
    "sglang 0.4 read": (f"Using configuration from {S38} for MoE layer.", [("sglang", True, S38)]),
    "sglang 0.4 missed": (f"{DEFAULT} {S38}", [("sglang", False, S38)]),
    "sglang another Triton's": (
        f"Config file not found at {S38}. Fallback to triton version 3.2.0 and use MoE kernel config from {S32}. "
        "Performance might be sub-optimal!",
        [("sglang", False, S38), ("sglang", True, S32)],
    ),
    "sglang down missed": (
        f"Down MoE config file not found at {S38_DOWN}; reusing the tuned up-projection config without TMA. "
        "Performance might be sub-optimal.",
        [("sglang", False, S38_DOWN)],
    ),
    "sglang 0.5.5 down missed": (
        "Using MoE kernel config with down_moe=False. Performance might be sub-optimal! Config file not found at "
        f"{S38_DOWN}{CREATE}",
        [("sglang", False, S38_DOWN)],
    ),
}  # fmt: skip

AROUND = {
    "alone": "{}",
    "vllm's process": "(EngineCore_DP0 pid=809) INFO 11-14 21:03:24 [fused_moe.py:887] {}",
    "vllm's colours": "\x1b[0;36m(Worker_TP0 pid=3)\x1b[0;0m \x1b[33mWARNING\x1b[0m \x1b[90m11-14 21:03:24\x1b[0m {}",
    "colours without their first byte": "(VllmWorker rank=0 pid=281) [0;0m WARNING 05-15 11:07:08 [fused_moe.py:65] {}",
    "sglang's ranks": "[2026-11-26 09:13:29 DP0 TP3 EP3] {}",
    "a container's name": "moe-1  | (EngineCore pid=310) WARNING 06-01 21:42:14 [fused_moe.py:1071] {}",
    "Kubernetes": "2026-11-26T09:13:29.123456789Z stderr F [2026-11-26 09:13:29 TP0] {}",
    "Docker's JSON": '{{"log":"\\u001b[33mWARNING\\u001b[0m {}\\n","stream":"stderr"}}',
    "after a progress bar": "Loading: 100%|███| 4/4 [00:05<00:00]\r{}\r",
    "a shell's highlights": "\x1b[01;31m\x1b[K{}\x1b[m\x1b[K",
}


def read(*chunks: bytes) -> EngineLog:
    log = EngineLog()
    log.read(chunks)
    return log


def found(log: EngineLog) -> list[tuple[str, str, bool, str | None, list[str]]]:
    return [(file.engine, file.name, file.was_read, file.path, file.places) for file in log.files.values()]


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND.keys())
@pytest.mark.parametrize(("line", "said"), WORDINGS.values(), ids=WORDINGS.keys())
def test_every_wording_is_understood_whatever_stands_around_it(line, said, around):
    text = around.format(line)
    if "é" in line and "JSON" in around:
        text = text.replace("é", "\\u00e9")
    log = read(f"first\n{text}\nlast\n".encode())
    expected: dict[tuple[str, str], tuple[bool, str | None, list[str]]] = {}
    for engine, was_read, path in said:
        key = (engine, path.rpartition("/")[2])
        _, before, places = expected.get(key, (False, None, []))
        expected[key] = (was_read, path if was_read else before, places if was_read else [*places, path])
    assert found(log) == [(*key, *value) for key, value in expected.items()]


@pytest.mark.parametrize("line", [line for line, _ in WORDINGS.values()], ids=WORDINGS.keys())
def test_what_many_processes_say_counts_once(line):
    once = found(read(f"{line}\n".encode()))
    assert found(read(*(f"(Worker_TP{rank} pid={rank}) {line}\n".encode() for rank in range(64)))) == once


@pytest.mark.parametrize("cut", range(1, 400, 7))
def test_it_is_no_matter_where_the_chunks_end(cut):
    line, _ = WORDINGS["sglang another Triton's"]
    data = f"é\n{line}\n{WORDINGS['vllm missed in two places'][0]}".encode()
    assert found(read(*(data[at : at + cut] for at in range(0, len(data), cut)))) == found(read(data))


@pytest.mark.parametrize("before", [0, 10, 2**16 - 100, 2**16, 2**20 - 50])
def test_a_line_without_an_end_is_read_in_pieces(before):
    line, _ = WORDINGS["vllm missed in two places"]
    data = b"x" * before + b" " + line.encode() + b" " + b"y" * 2**20
    (file,) = read(*(data[at : at + 2**16] for at in range(0, len(data), 2**16))).files.values()
    assert (file.name, file.places) == (NAME, [USERS, PACKAGED])


@pytest.mark.parametrize("separator", [b"\n", b" "])
def test_memory_stays_the_same_however_long_the_log_or_its_line(separator):
    chunk = (b"(APIServer pid=1) INFO POST /v1/chat/completions HTTP/1.1 200 OK" + separator) * 1000

    def peak(count: int) -> int:
        tracemalloc.start()
        read(*(chunk for _ in range(count)))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(4)
    assert peak(100) < peak(20) + 2**19


def test_a_log_that_names_thousands_of_files_keeps_some_and_counts_the_rest():
    lines = [f"{DEFAULT} /a/E={E},N=1,device_name=D.json\n".encode() for E in range(1, MOST_FILES + 11)]
    log = read(*lines, *lines[:5])
    assert (len(log.files), log.left_out) == (MOST_FILES, 10)
    many = read(*(f"{DEFAULT} /{place}/{NAME}\n".encode() for place in range(100)))
    assert [len(file.places) for file in many.files.values()] == [MOST_PLACES]


@pytest.mark.parametrize(
    "line",
    ["", "Using configuration from /a/b.json for MoE layer.", f"reading {PACKAGED}",
     f"Config file not found at\n{PACKAGED}", f"Using configuration from {'x' * 5000}/{NAME} for MoE layer.",
     "Config file not found at E=8,N=1,device_name=",
     "Using configuration from /a/N=7168,K=2048,device_name=D,dtype=fp8_w8a8.json for W8A8 Block FP8 kernel."],
)  # fmt: skip
def test_what_speaks_of_no_tuned_file_is_none(line):
    assert found(read(line.encode())) == []


def test_other_kernels_files_are_known_and_told_apart():
    log = read(
        b"Using default FlyDSL MoE config. Performance might be sub-optimal! Config file not found at "
        b"/a/E=8,N=1,device_name=D,dtype=int4_w4a16,backend=flydsl.json\n"
        b"Using default Mamba SSU config. Performance might be sub-optimal! Config file not found at "
        b"/a/headdim=64,dstate=128,device_name=D,cache_dtype=float32.json\n"
        b"No LoRA kernel configs found in /a/D_SHRINK.json\n"
    )
    assert (found(log), [*log.other_kernels]) == ([], ["FlyDSL", "Mamba", "LoRA"])


def test_the_last_line_about_a_file_counts():
    read_line, missed_line = (f"{WORDINGS[key][0]}\n".encode() for key in ("vllm read", "vllm missed"))
    (later_read,) = read(missed_line, read_line).files.values()
    (later_missed,) = read(read_line, missed_line).files.values()
    assert (later_read.was_read, later_missed.was_read) == (True, False)


def test_the_servers_own_settings_are_read_from_vllms_first_lines():
    log = read(
        b"(APIServer pid=1) INFO 11-26 09:00:00 [u.py:1] non-default args: {'model_tag': 'a/B', 'model': 'a/B', "
        b"'tensor_parallel_size': 2, 'data_parallel_size': 4, 'enable_expert_parallel': True}\n"
        b"(EngineCore_DP0 pid=2) INFO 11-26 09:00:01 [core.py:140] Initializing a V1 LLM engine (v0.33.0) with config: "
        b"model='a/B', speculative_config=SpeculativeConfig(model='draft'), tokenizer='a/B', tensor_parallel_size=2\n"
        b"INFO [fp8.py:422] Using FLASHINFER_CUTLASS Fp8 MoE backend out of potential backends: ['TRITON'].\n"
        b"INFO [unquantized.py:266] Using FlashInfer CUTLASS Unquantized MoE backend out of potential backends: [].\n"
        b"INFO [nvfp4.py:242] Using 'MARLIN' NvFp4 MoE backend out of potential backends: [].\n"
    )
    assert (str(log.server), log.vllm_version) == ("a/B tp=2 ep=8", "0.33.0")
    assert [*log.backends] == ["FLASHINFER_CUTLASS Fp8", "FlashInfer CUTLASS Unquantized", "MARLIN NvFp4"]


@pytest.mark.parametrize(
    "line",
    ["server_args={'model_path': '/models/a b', 'tp_size': 4, 'ep_size': 2, 'speculative_draft_model_path': 'x'}",
     "server_args=ServerArgs(model_path='/models/a b', tp_size=4, ep_size=2, speculative_draft_model_path='x')"],
)  # fmt: skip
def test_the_servers_own_settings_are_read_from_sglangs_first_line(line):
    log = read(f"[2026-11-26 09:00:00] {line}\n[2026-11-26 09:00:00 TP0] x".encode())
    assert str(log.server) == "/models/a b tp=4 ep=2"


@pytest.mark.parametrize("tp", ["", "x", "0", "99999999999", "-1"])
def test_a_size_that_is_none_counts_as_one(tp):
    assert read(f"server_args={{'model_path': 'a/B', 'tp_size': {tp}}}".encode()).server.tp == 1


SGLANG_STARTS = b"server_args={'model_path': 'a/B', 'tp_size': 4, 'ep_size': 4}\n"
VLLM_STARTS = (
    b"non-default args: {'model': 'c/D', 'tensor_parallel_size': 2, 'enable_expert_parallel': True}\n"
    b"Initializing a V1 LLM engine (v0.33.0) with config: model='c/D', tensor_parallel_size=2\n"
)
"""With a line of each data parallel engine, which all are the server's."""


def test_each_file_is_of_the_server_that_started_last():
    first, then = (f"{DEFAULT} /a/{NAME.replace('E=8', E)}\n".encode() for E in ("E=16", "E=32"))
    log = read(SGLANG_STARTS, first, VLLM_STARTS, VLLM_STARTS.splitlines(keepends=True)[1], then)
    assert [str(log.server_of(file)) for file in log.files.values()] == ["a/B tp=4 ep=4", "c/D tp=2 ep=2"]
    log = read(VLLM_STARTS, first, SGLANG_STARTS, then)
    assert [str(log.server_of(file)) for file in log.files.values()] == ["c/D tp=2 ep=2", "a/B tp=4 ep=4"]


def test_a_log_whose_beginning_is_gone_has_the_server_that_it_names():
    log = read(f"{DEFAULT} /a/{NAME}\n".encode(), SGLANG_STARTS)
    assert [str(log.server_of(file)) for file in log.files.values()] == ["a/B tp=4 ep=4"]


def test_vllms_engine_alone_names_its_model_after_another_engines_server():
    assert str(read(SGLANG_STARTS, VLLM_STARTS.splitlines()[1]).server) == "c/D tp=2"


def test_sglang_says_that_it_runs_deterministically():
    assert read(b"Deterministic inference is enabled, using default MoE kernel config.\n").is_deterministic


def test_bytes_that_are_no_utf_8_leave_a_path_that_can_be_asked_for():
    log = read(f"\xff\x00\xc3{DEFAULT} ".encode("latin-1"), b"/caf\xe9/" + NAME.encode())
    (file,) = log.files.values()
    assert file.places == [f"/caf\udce9/{NAME}"]


def test_a_log_that_powershell_wrote_is_read():
    (file,) = read(f"{DEFAULT} {PACKAGED}\r\n".encode("utf-16")).files.values()
    assert file.places == [PACKAGED]


@pytest.mark.parametrize(("data", "lines"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2)])
def test_lines_are_counted(data, lines):
    assert (read(data).lines, read(data).bytes) == (lines, len(data))


@settings(max_examples=200)
@given(st.lists(st.binary() | st.sampled_from([f"{line}".encode() for line, _ in WORDINGS.values()]), max_size=6))
def test_no_bytes_break_it(parts):
    log = read(*parts)
    assert all(name == file.name for (_, name), file in log.files.items())


TOKENS = [*"E=8,N=1,device_name=.json", " ", "config from ", "onfig file not found at ", "/", NAME, ", '"]


@given(st.lists(st.sampled_from(TOKENS)).map("".join))
def test_no_line_breaks_it(line):
    for engine, _, path in statements(line):
        assert engine in ("vllm", "sglang")
        assert path in line
