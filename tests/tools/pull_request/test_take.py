"""Of a runner's folder only what was asked for gets into the store, and nothing where anything else lies beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import H100, Store, signed
from tools.pull_request import take
from tools.store.files import canonical_config, canonical_record
from tools.store.workload import parse_file_name

NAME = f"E=8,N=7168,device_name={H100}.json"
WORKLOAD = parse_file_name(NAME).workload
ASKED = ("--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "2", "--device", H100)


@pytest.fixture
def tuned(tmp_path: Path) -> Store:
    """What an honest runner hands on."""
    store = Store(tmp_path / "tuned")
    store.measured(store.config(name=NAME, record=False))
    return store


def run(tuned: Store, *arguments: str) -> tuple[int, list[str]]:
    """The exit code, and what then lies in the store."""
    configs = tuned.root.with_name("configs")
    code = take.main(["--tuned", str(tuned.root), "--configs", str(configs), *(arguments or ASKED)])
    return code, sorted(path.relative_to(configs).as_posix() for path in configs.rglob("*") if path.is_file())


def test_the_file_and_its_record_are_taken(tuned: Store) -> None:
    assert run(tuned) == (0, [NAME, f"records/{NAME}"])
    configs = tuned.root.with_name("configs")
    assert (configs / NAME).read_bytes() == (tuned.root / NAME).read_bytes()
    given, taken = (json.loads((root / "records" / NAME).read_bytes()) for root in (tuned.root, configs))
    assert taken == {**given, "verified": None}


def test_under_another_name_of_the_same_device_too(tmp_path: Path) -> None:
    store, name = Store(tmp_path / "tuned"), "E=8,N=7168,device_name=NVIDIA_H200_NVL.json"
    store.measured(store.config(name=name, record=False))
    assert run(store, *ASKED[:-1], "NVIDIA_H200") == (0, [name, f"records/{name}"])


def test_a_down_file_is_not_left_behind_another_up_file(tuned: Store, capsys: pytest.CaptureFixture[str]) -> None:
    down = NAME.replace(".json", "_down.json")
    store = Store(tuned.root.with_name("configs"))
    store.config(name=down, record=False)
    assert run(tuned) == (2, [down])
    assert f"{down}: expected no file for down beside" in capsys.readouterr().err


def test_a_file_keeps_the_shapes_that_it_is_measured_for(tuned: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run(tuned)
    configs = tuned.root.with_name("configs")
    path = configs / "records" / NAME
    document = json.loads(path.read_bytes())
    other = {**document["shapes"][0], "K": 2048}
    path.write_bytes(canonical_record({**document, "shapes": [other, *document["shapes"]]}))
    before = path.read_bytes()
    assert run(tuned)[0] == 2
    assert "found no K=2048, top_k=2. Fix: tune it by hand, with --all-shapes." in capsys.readouterr().err
    assert path.read_bytes() == before


def forged(tuned: Store) -> None:
    path = tuned.record_of(tuned.root / NAME)
    path.write_bytes(canonical_record(signed(json.loads(path.read_bytes()))))


def of_other_bytes(tuned: Store) -> None:
    document = json.loads((tuned.root / NAME).read_bytes())
    document["64"]["num_stages"] = 2
    (tuned.root / NAME).write_bytes(canonical_config(document))


def replaced_by_a_link(tuned: Store) -> None:
    (tuned.root / NAME).unlink()
    (tuned.root / NAME).symlink_to("/etc/hostname")


HOSTILE: dict[str, tuple[Callable[[Store], object], str]] = {
    "another tuned file": (lambda tuned: tuned.config(name=NAME.replace("E=8", "E=16")), " alone, found E=16"),
    "another device's file": (lambda t: t.config(name=NAME.replace(H100, "NVIDIA_L4")), " alone, found "),
    "a registry": (lambda tuned: tuned.file(b"{}", "models.json", folder="registry"), " alone, found "),
    "the same name in a tier": (lambda tuned: tuned.config(name=NAME, folder="triton_3_6_0"), " alone, found "),
    "a text": (lambda tuned: tuned.file(b"# hello", "README.md"), " alone, found "),
    "no record": (lambda tuned: tuned.record_of(tuned.root / NAME).unlink(), " alone, found "),
    "a link": (lambda tuned: (tuned.root / "x").symlink_to("/etc/passwd"), "expected plain files, found x"),
    "a link to a folder": (lambda tuned: (tuned.root / "x").symlink_to("/etc"), "expected plain files, found x"),
    "a link in the file's place": (replaced_by_a_link, "expected plain files, found E=8"),
    "no tuned file": (lambda tuned: (tuned.root / NAME).write_bytes(b"[" * 99_999), "expected a tuned file"),
    "main's own word": (forged, "verified: expected null"),
    "other bytes than were recorded": (of_other_bytes, "expected the record of these bytes, found another"),
    "a published record": (lambda tuned: tuned.record(tuned.root / NAME), "expected the record of these bytes"),
    "a name of two lines": (lambda tuned: tuned.file(b"", "a\n::error::b"), " alone, found "),
    "5,000 files": (lambda t: [t.file(b"", str(n)) for n in range(5000)], "expected two files, found over 4096"),
}


@pytest.mark.parametrize(("spoil", "told"), HOSTILE.values(), ids=HOSTILE)
def test_with_anything_else_nothing_is_taken(
    tuned: Store, capsys: pytest.CaptureFixture[str], spoil: Callable[[Store], object], told: str
) -> None:
    spoil(tuned)
    assert run(tuned) == (2, [])
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
    assert "Fix: " in line


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "nobody/nothing", "--device", H100),
        (*ASKED[:-1], "NVIDIA_L4"),
        (*ASKED[:-1], "no device"),
        (*ASKED, "--tp", "4"),
        (*ASKED, "--dtype", "fp8_w8a8"),
    ],
)
def test_what_was_not_asked_for_is_not_taken(
    tuned: Store, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert run(tuned, *arguments) == (2, [])
    assert len(capsys.readouterr().err.splitlines()) == 1
