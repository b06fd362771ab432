"""The README's commands and examples say what the code does."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

from fused_moe_configs.cli import main
from fused_moe_configs.exporting.overlay import PACKAGED
from fused_moe_configs.lookup import REFERENCE_TRITON
from tools.checkout import CHECKOUT, CONFIGS
from tools.release.data import write_data
from tools.tune.__main__ import main as tune

README = (CHECKOUT / "README.md").read_text("utf-8")
REPOSITORY = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("session", ["validate", "tests"])
def test_one_command_sets_up_and_runs_the_session(session: str) -> None:
    command = f"./nox -s {session}"
    assert f"{command}\n" in blocks("sh")
    assert (CHECKOUT / "nox").stat().st_mode & 0o111
    # Nothing before it in the README has made an environment.
    assert README.index(f"\n{command}\n") < README.index(".venv")


@pytest.mark.parametrize(
    "path", ["README.md", "CONTRIBUTING.md", "configs/README.md", ".github/pull_request_template.md"]
)
def test_nox_is_called_by_the_script_that_makes_its_environment(path: str) -> None:
    text = (CHECKOUT / path).read_text("utf-8")
    assert [line for line in text.splitlines() if re.search(r"(?<!\./)\bnox -|bin/nox", line)] == []


def test_python_example_prints_what_it_says() -> None:
    (example,) = blocks("python")
    promised = re.search(r"^# (\{.*\})$", example, re.MULTILINE)
    assert promised is not None
    code = f"{example}\nprint(config)\n"
    environment = {"PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == promised[1]


@pytest.mark.parametrize("session", sorted(set(re.findall(r"nox -s (\w+)", README))))
def test_every_session_that_the_readme_names_exists(session: str) -> None:
    noxfile = (CHECKOUT / "noxfile.py").read_text("utf-8")
    assert re.search(rf'^def {session}\(session|name="{session}"', noxfile, re.MULTILINE)


EXPORTS = sorted({*re.findall(r"fused-moe-configs (export \S[^\n\";&]*)", README)})


@pytest.mark.parametrize("command", EXPORTS)
def test_every_export_that_the_readme_shows_works(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As typed, but for the folder. The engine that `auto` finds is of the test's own making."""
    own = tmp_path / "sglang" / PACKAGED["sglang"][0] / "triton_3_6_0"
    own.mkdir(parents=True)
    (own / "E=8,N=1,device_name=D.json").write_text("{}", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    name, _, *options = shlex.split(command)
    assert main([name, str(tmp_path / "moe-configs"), *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("export ")


def test_exports_are_shown_for_both_engines() -> None:
    assert {tuple(shlex.split(command)[2:]) for command in EXPORTS} == {
        ("--engine", "vllm"),
        ("--engine", "sglang", "--overlay", "auto"),
    }


def test_without_python_the_commands_lead_to_the_files(tmp_path: Path) -> None:
    """As typed, on a release of the test's own making, with a curl that takes it from a folder."""
    (block,) = (block for block in blocks("sh") if "curl" in block)
    version = re.findall(r"^VERSION=(\S+)$", block, re.MULTILINE)[0]
    dist, released, bin_ = (tmp_path / folder for folder in ("dist", "released", "bin"))
    dist.mkdir()
    with zipfile.ZipFile(dist / f"fused_moe_configs-{version}-py3-none-any.whl", "w") as wheel:
        for path in (*CONFIGS.glob("E=*.json"), CONFIGS / "registry" / "devices.json"):
            wheel.write(path, f"fused_moe_configs/configs/{path.relative_to(CONFIGS)}")
        wheel.writestr("fused_moe_configs/configs/index.json", "{}")
    write_data(dist, released)
    bin_.mkdir()
    (bin_ / "curl").write_text(f'#!/bin/sh\ncp "{released}/$(basename "$2")" .\necho "$2" >> "{tmp_path}/asked"\n')
    (bin_ / "curl").chmod(0o755)
    environment = {"PATH": f"{bin_}:{os.environ['PATH']}"}
    here = tmp_path / "here"
    here.mkdir()
    shell = ["bash", "-euc", f'{block}printf %s "$VLLM_TUNED_CONFIG_FOLDER"']
    done = subprocess.run(shell, cwd=here, env=environment, capture_output=True, text=True, check=True)
    assert f"fused_moe_configs-{version}-vllm.tar.gz: OK" in done.stdout
    assert done.stdout.endswith(f"{here}/moe-configs")
    assert {path.name for path in CONFIGS.glob("E=*.json")} <= {path.name for path in (here / "moe-configs").iterdir()}
    asked = (tmp_path / "asked").read_text("utf-8").split()
    assert {line.rpartition("/")[0] for line in asked} == {f"{REPOSITORY}/releases/download/v{version}"}


SHOWN = [block for block in blocks("text") if block.startswith("$ ")]


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.splitlines()[0])
def test_a_shown_output_is_what_the_command_prints(
    block: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line for line, but for what `…` leaves out and for figures and days, which change with every file."""
    monkeypatch.setattr("fused_moe_configs.machine.version_of", {"triton": REFERENCE_TRITON}.get)
    shown, *lines = block.splitlines()
    command, _, arguments = shown.removeprefix("$ ").partition(" -- " if "nox" in shown else " ")
    run = {"fused-moe-configs": main, "./nox -s tune": tune}[command]
    assert run(shlex.split(arguments)) in (0, 1)
    printed = capsys.readouterr().out.splitlines()
    last = -1
    for line in lines:
        pattern = ".*".join(map(re.escape, line.split("…")))
        pattern = re.sub(r"(how\\ old:).*", r"\1.*", pattern)
        places = [i for i, found in enumerate(printed) if i > last and re.fullmatch(pattern, found)]
        assert places, line
        last = places[0]


def test_what_doctor_and_the_dry_run_print_is_shown() -> None:
    assert {block.split()[1] for block in SHOWN} == {"fused-moe-configs", "./nox"}


LINKS = dict(re.findall(r"^\[(.+)\]: (\S+)$", README, re.MULTILINE))


@pytest.mark.parametrize("target", sorted(LINKS.values()))
def test_every_link_holds_on_a_package_index_and_leads_to_something(target: str) -> None:
    """The package's page shows this README far from the files beside it."""
    assert target.startswith("https://")
    if target.startswith(REPOSITORY):
        kind, _, path = target.removeprefix(f"{REPOSITORY}/").partition("/main/")
        exists = {"blob": Path.is_file, "raw": Path.is_file, "tree": Path.is_dir}[kind]
        assert exists(CHECKOUT / path)


def test_every_link_is_defined_at_the_end() -> None:
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", README, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\[.+\]: \S+$", "", prose, flags=re.MULTILINE)
    used = {name or shown for shown, name in re.findall(r"\[([^\]]+)\](?:\[([^\]]+)\])?", text)}
    assert used == set(LINKS)
    assert "](" not in text
