"""Runs an engine's cut look-up code, in a process of its own: python -I child.py REQUEST ANSWERS.

The request (JSON): {"engine", "source", "last_token", "settings": [{"folder", "triton_version", "driver_name",
"questions": [{"E", "N", "w2_N", "dtype", "block_shape", "per_channel_quant"}]}]}, N as the engine's names have it,
w2_N the last size of the down projection's weights.
The answers (JSON), one list a setting: {"file_name", "rows", "nearest", "down_file_name", "down_rows", "down_nearest"}
or {"error"}. rows: batch size → entry. nearest: [M, entry] for each M from which on another entry serves; the entry
is null where the engine would run its heuristic. What begins with `down` is null where the engine knows none.

Or, of what runs without a file: {"engine", "source", "machines": [{"is_rocm", "smem_bytes", "questions": [{"E", "N",
"K", "topk", "dtype", "block_shape", "tokens"}]}]}. An answer is then what `nearest` is above, over the tokens.

Standard library only, and nothing of this project: it runs with whatever the engine's code does to it.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import resource
import sys
from types import SimpleNamespace
from typing import Any

MAX_ANSWER_BYTES = 1 << 28
MAX_MEMORY_BYTES = 4 << 30


class Silent:
    """Stands in for the engine's logger: takes any call."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def stand_ins(engine: str, folder: str, triton_version: str, driver_name: str) -> dict[str, Any]:
    """What the cut code finds instead of the engine's logger, settings, GPU, override and heuristic."""
    both = {"logger": Silent(), "get_config": lambda: None, "get_default_config": lambda *_, **__: None}
    if engine == "vllm":
        settings = SimpleNamespace(VLLM_BATCH_INVARIANT=False, VLLM_TUNED_CONFIG_FOLDER=folder)
        platform = SimpleNamespace(get_device_name=lambda *_, **__: driver_name)
        return {**both, "envs": settings, "current_platform": platform, "re": re}  # vLLM imports regex as re
    execution = SimpleNamespace(deterministic=SimpleNamespace(enable_deterministic_inference=False))
    return {
        **both,
        "get_exec": lambda: execution,
        "get_device_name": lambda *_, **__: driver_name,
        "triton": SimpleNamespace(__version__=triton_version),
    }


Runs = list[list[Any]]


def answer(
    code: dict[str, Any], question: dict[str, Any], last_token: int, known: dict[str, tuple[Runs, Runs]]
) -> dict[str, Any]:
    """What the engine finds for one workload, and which entry it takes for each M; `known` by the tables found."""
    w2_N = question["w2_N"]  # of packed weights half of the model's own, which vLLM doubles for the name
    block_n, block_k = question["block_shape"] or (0, 0)
    get_configs, get_name = (tolerant(code[name]) for name in ("get_moe_configs", "get_config_file_name"))
    choose = tolerant(code["try_get_optimal_moe_config"])
    has_down = "down_moe" in inspect.signature(code["get_moe_configs"]).parameters
    common = {key: question[key] for key in ("E", "N", "dtype", "per_channel_quant")}
    shapes = {"w1_shape": (question["E"], 2 * w2_N, 4096), "w2_shape": (question["E"], 4096, w2_N), "top_k": 2}

    def rows(down: bool) -> Any:
        return get_configs(**common, block_n=block_n, block_k=block_k, down_moe=down)

    def file_name(down: bool) -> Any:
        return get_name(**common, block_shape=[block_n, block_k], down_moe=down)

    def chosen(M: int) -> tuple[Any, Any]:
        found = choose(**common, **shapes, M=M, block_shape=question["block_shape"], return_down_config=True)
        return (found[0], found[1][0]) if isinstance(found, tuple) else (found, None)

    table, down_table = rows(False), rows(True) if has_down else None
    # Which entry is nearest depends on the tables alone: most questions repeat those of another device or Triton.
    key = json.dumps([question["dtype"], question["block_shape"], table, down_table], default=repr)
    if key not in known:
        keys = sorted(size for size in {*(table or ()), *(down_table or ())} if size > last_token)
        choices = [(M, *chosen(M)) for M in (*range(1, last_token + 1), *keys)]
        known[key] = runs([(M, up) for M, up, _ in choices]), runs([(M, down) for M, _, down in choices])
    nearest, down_nearest = known[key]
    return {
        "file_name": file_name(False),
        "rows": table,
        "nearest": nearest,
        "down_file_name": file_name(True) if has_down else None,
        "down_rows": down_table,
        "down_nearest": down_nearest if has_down else None,
    }


def runs(choices: list[tuple[int, Any]]) -> Runs:
    """[M, entry] wherever the entry differs from that of the M before."""
    found: Runs = []
    for M, entry in choices:
        if not found or found[-1][1] != entry:
            found.append([M, entry])
    return found


def tolerant(function: Any) -> Any:
    """The function, called with those of the arguments that this version of it takes."""
    known = frozenset(inspect.signature(function).parameters)
    return lambda **arguments: function(**{name: value for name, value in arguments.items() if name in known})


def main(request_path: str, answers_path: str) -> None:
    """Reads the request, runs the code for each setting anew (its caches with it), writes the answers."""
    for limit, most in ((resource.RLIMIT_FSIZE, MAX_ANSWER_BYTES), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (most, most))
    with contextlib.suppress(ValueError, OSError):  # macOS has no limit of memory
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    with open(request_path, encoding="utf-8") as file:  # noqa: PTH123
        request = json.load(file)
    code = compile(request["source"], "engine", "exec")
    known: dict[str, tuple[Runs, Runs]] = {}
    answers = [_answers(request, code, setting, known) for setting in request.get("settings", ())]
    answers += [_defaults(request["engine"], code, machine) for machine in request.get("machines", ())]
    with open(answers_path, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(answers, file, default=repr)


def default_stand_ins(engine: str, is_rocm: bool, smem_bytes: int | None) -> dict[str, Any]:
    """What a cut default function finds instead of the engine's settings and the machine. smem_bytes None: no word."""
    if engine == "vllm":
        platform = SimpleNamespace(is_rocm=lambda: is_rocm, is_cuda=lambda: not is_rocm)
        return {"envs": SimpleNamespace(VLLM_BATCH_INVARIANT=False), "current_platform": platform}
    known = {} if smem_bytes is None else {"shared_memory_per_block_optin": smem_bytes}
    cuda = SimpleNamespace(
        is_available=lambda: True,
        current_device=lambda: 0,
        get_device_properties=lambda *_, **__: SimpleNamespace(**known),
    )
    execution = SimpleNamespace(deterministic=SimpleNamespace(enable_deterministic_inference=False))
    return {"get_exec": lambda: execution, "is_hip": lambda: is_rocm, "torch": SimpleNamespace(cuda=cuda)}


def _defaults(engine: str, code: Any, machine: dict[str, Any]) -> list[Any]:
    """What runs without a file on one machine."""
    namespace: dict[str, Any] = {"__name__": "engine"}
    found: list[Any] = []
    try:
        namespace |= default_stand_ins(engine, machine["is_rocm"], machine["smem_bytes"])
        exec(code, namespace)  # the engine's own code: what this process is for
        default = tolerant(namespace["get_default_config"])
    except Exception as error:
        return [{"error": f"{type(error).__name__}: {error}"[:300]} for _ in machine["questions"]]
    for question in machine["questions"]:
        tokens = question.pop("tokens")
        try:
            found.append(runs([(M, default(M=M, is_marlin=False, **question)) for M in tokens]))
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {error}"[:300]})
    return found


def _answers(
    request: dict[str, Any], code: Any, setting: dict[str, Any], known: dict[str, tuple[Runs, Runs]]
) -> list[dict[str, Any]]:
    engine, folder = request["engine"], setting["folder"]
    os.environ["SGLANG_MOE_CONFIG_DIR"] = folder
    # The packaged folder lies beside the module: here there is none.
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "no-engine", "module.py")  # noqa: PTH100, PTH118, PTH120
    namespace: dict[str, Any] = {"__name__": "engine", "__file__": beside}
    found = []
    try:
        namespace |= stand_ins(engine, folder, setting["triton_version"], setting["driver_name"])
        exec(code, namespace)  # the engine's own code: what this process is for
    except Exception as error:
        return [{"error": f"{type(error).__name__}: {error}"[:300]} for _ in setting["questions"]]
    for question in setting["questions"]:
        try:
            found.append(answer(namespace, question, request["last_token"], known))
        except Exception as error:
            found.append({"error": f"{type(error).__name__}: {error}"[:300]})
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
