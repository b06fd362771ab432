"""Loads every file of an installed wheel through its loader: python -I -S load_everything.py FOLDER.

FOLDER: where the wheel was installed to. Standard library only and Python 3.10: it runs on every Python that the wheel
claims, and imports nothing of this repository.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

NAME = re.compile(
    r"E=(?P<E>\d+),N=(?P<N>\d+),device_name=(?P<device_name>[^,]+?)"
    r"(?:,dtype=(?P<dtype>\w+))?"
    r"(?:,block_shape=\[(?P<block_n>\d+),(?P<block_k>\d+)\])?"
    r"(?P<per_channel_quant>,per_channel_quant=True)?"
    r"(?P<down>_down)?\.json"
)


def call_for(file: Path, folder: str) -> dict[str, Any]:
    """What the loader is asked for to read this file of a folder below configs/ ("": configs itself)."""
    match = NAME.fullmatch(file.name)
    assert match, f"{file}: expected the name of a tuned file"
    block = (int(match["block_n"]), int(match["block_k"])) if match["block_n"] else None
    version = folder.removeprefix("triton_").replace("_", ".") if folder.startswith("triton_") else "0.0.1"
    return {
        "E": int(match["E"]),
        "N": int(match["N"]),
        "dtype": match["dtype"],
        "block_shape": block,
        "per_channel_quant": bool(match["per_channel_quant"]),
        "down": bool(match["down"]),
        "device_name": match["device_name"],
        "triton_version": version,
    }


def main(folder: str) -> None:
    """AssertionError: a file that the loader doesn't find, or reads otherwise than it stands there."""
    sys.path.insert(0, folder)
    import fused_moe_configs as loader

    assert Path(loader.__file__).is_relative_to(Path(folder).resolve()), (
        f"expected the wheel's loader, found {loader.__file__}"
    )
    configs = loader.where()
    files = [file for pattern in ("E=*.json", "*/E=*.json") for file in sorted(configs.glob(pattern))]
    assert files, f"{configs}: expected tuned files, found none"
    for file in files:
        tier = file.parent.relative_to(configs).as_posix().strip(".")
        call = call_for(file, tier)
        config = loader.get_moe_configs(**call)
        winner = loader.explain(**call).winner
        if tier == "legacy_configs" and (configs / file.name).exists():
            assert winner == configs / file.name, f"{file}: expected the default tier's to win, found {winner}"
            continue
        assert winner == file, f"{file}: expected it to win, found {winner}"
        found = {str(num_tokens): dict(entry) for num_tokens, entry in config.items()}
        assert found == json.loads(file.read_bytes()), f"{file}: expected its own rows, found {found}"
    print(f"{len(files)} files loaded by Python {sys.version.split()[0]}")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
