"""What the README and the pages that it leads to show is what the code does: commands, outputs, links."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote

import pytest
import tomllib

from fused_moe_configs.cli import main
from fused_moe_configs.exporting.layout import DEAD_PARTS
from fused_moe_configs.exporting.overlay import PACKAGED
from fused_moe_configs.index import build, to_bytes
from fused_moe_configs.lookup import REFERENCE_TRITON
from tests.builders import table
from tools.checkout import CHECKOUT, CONFIGS
from tools.release.data import write_data
from tools.tune.__main__ import main as tune

WRITTEN_BY_A_COMMAND = {"docs/portfolio.md"}
DOCS = sorted({f"docs/{path.name}" for path in (CHECKOUT / "docs").glob("*.md")} - WRITTEN_BY_A_COMMAND)
PAGES = {name: (CHECKOUT / name).read_text("utf-8") for name in ("README.md", *DOCS)}
README = PAGES["README.md"]
REPOSITORY = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]


def blocks(language: str, *pages: str) -> list[str]:
    """Of these pages, or of all."""
    texts = "\n".join(PAGES[page] for page in pages or PAGES)
    return re.findall(rf"^```{language}\n(.*?)^```$", texts, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("session", ["validate", "tests"])
def test_one_command_sets_up_and_runs_the_session(session: str) -> None:
    command = f"./nox -s {session}"
    assert f"{command}\n" in blocks("sh", "README.md")
    assert (CHECKOUT / "nox").stat().st_mode & 0o111
    # Nothing before it in the README has made an environment.
    assert README.index(f"\n{command}\n") < README.index(".venv")


@pytest.mark.parametrize("path", [*PAGES, "CONTRIBUTING.md", "configs/README.md", ".github/pull_request_template.md"])
def test_nox_is_called_by_the_script_that_makes_its_environment(path: str) -> None:
    text = (CHECKOUT / path).read_text("utf-8")
    assert [line for line in text.splitlines() if re.search(r"(?<!\./)\bnox -|bin/nox", line)] == []


def test_python_example_prints_what_it_says() -> None:
    (example,) = blocks("python", "README.md")
    promised = re.search(r"^# (\{.*\})$", example, re.MULTILINE)
    assert promised is not None
    code = f"{example}\nprint(config)\n"
    environment = {"PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == promised[1]


@pytest.mark.parametrize("session", sorted(set(re.findall(r"nox -s ([\w-]+)", "\n".join(PAGES.values())))))
def test_every_session_that_a_page_names_exists(session: str) -> None:
    noxfile = (CHECKOUT / "noxfile.py").read_text("utf-8")
    assert re.search(rf'^def {session}\(session|name="{session}"', noxfile, re.MULTILINE)


COMMANDS = sorted(
    {
        line
        for block in blocks("sh")
        for line in block.splitlines()
        if re.match(r"\./nox -s .* -- .*--|fused-moe-configs ", line)
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_option_that_a_page_shows_is_one_of_the_command(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    call, _, arguments = line.partition(" -- ") if "nox" in line else line.partition(" ")
    words = shlex.split(arguments)
    run = main
    if "nox" in call:
        run = importlib.import_module(f"tools.{call.split()[-1].replace('-', '_')}.__main__").main
    with contextlib.suppress(SystemExit):
        run([*words[:1], "--help"] if words[0].isalpha() else ["--help"])
    known = re.findall(r"(?<!\S)\[?(--?[\w-]+)", capsys.readouterr().out)
    assert {"--help", *(word for word in words if word.startswith("-"))} <= set(known)


EXPORTS = sorted({*re.findall(r"fused-moe-configs (export \S[^\n\";&]*)", "\n".join(blocks(r"\w+")))})


@pytest.mark.parametrize("command", EXPORTS)
def test_every_export_that_a_page_shows_works(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As typed, but for the folder. The engine that `auto` finds is of the test's own making."""
    own = tmp_path / "sglang" / PACKAGED["sglang"][0] / "triton_3_6_0"
    own.mkdir(parents=True)
    (own / "E=8,N=1,device_name=D.json").write_text(json.dumps(table([1])), "utf-8")
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
    (block,) = (block for block in blocks("sh", "docs/deploying.md") if "curl" in block)
    version = re.findall(r"^VERSION=(\S+)$", block, re.MULTILINE)[0]
    dist, released, bin_ = (tmp_path / folder for folder in ("dist", "released", "bin"))
    dist.mkdir()
    with zipfile.ZipFile(dist / f"fused_moe_configs-{version}-py3-none-any.whl", "w") as wheel:
        for path in (*CONFIGS.glob("E=*.json"), CONFIGS / "registry" / "devices.json"):
            wheel.write(path, f"fused_moe_configs/configs/{path.relative_to(CONFIGS)}")
        index = to_bytes([entry for entry in build(CONFIGS) if "/" not in entry.file])
        wheel.writestr("fused_moe_configs/configs/index.json", index)
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
    here_now, names = (
        {path.name for path in (here / "moe-configs").iterdir()},
        {p.name for p in CONFIGS.glob("E=*.json")},
    )
    assert {name for name in names if not any(part in name for part in DEAD_PARTS["vllm"])} <= here_now
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
LINKING = {**PAGES, **{name: (CHECKOUT / name).read_text("utf-8") for name in ("CONTRIBUTING.md", "SECURITY.md")}} | {
    f"{folder}/README.md": (CHECKOUT / folder / "README.md").read_text("utf-8")
    for folder in ("configs", "schema", "schema/vectors", "docs/measurements")
}


def prose(text: str) -> str:
    """Without what stands there as code."""
    return re.sub(r"^ *```.*?^ *```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def leads_to_something(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    found = page.parent / unquote(path) if path else page
    return found.exists() and (not anchor or anchor in anchors(found))


@pytest.mark.parametrize("target", sorted(LINKS.values()))
def test_every_link_of_the_readme_holds_on_a_package_index_and_leads_to_something(target: str) -> None:
    """The package's page shows this README far from the files beside it."""
    assert target.startswith("https://")
    if target.startswith(REPOSITORY):
        kind, _, path = target.removeprefix(f"{REPOSITORY}/").partition("/main/")
        exists = {"blob": Path.is_file, "raw": Path.is_file, "tree": Path.is_dir}[kind]
        assert exists(CHECKOUT / path.partition("#")[0])
        assert leads_to_something(CHECKOUT / "README.md", path)


@pytest.mark.parametrize("page", sorted(LINKING))
def test_every_link_to_another_page_leads_to_something(page: str) -> None:
    text = prose(LINKING[page])
    found = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r"^\[.+\]: (\S+)$", text, re.MULTILINE)]
    here = [target for target in found if not target.startswith("https://")]
    assert [target for target in here if not leads_to_something(CHECKOUT / page, target)] == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_every_link_is_defined_at_the_end_of_its_page(page: str) -> None:
    links = dict(re.findall(r"^\[(.+)\]: (\S+)$", PAGES[page], re.MULTILINE))
    text = re.sub(r"^\[.+\]: \S+$", "", prose(PAGES[page]), flags=re.MULTILINE)
    if page == "README.md":
        assert "](" not in text
    text = re.sub(r"\[[^\]]+\]\([^)\s]+\)", "", text)
    used = {name or shown for shown, name in re.findall(r"\[([^\]]+)\](?:\[([^\]]+)\])?", text)}
    assert used == set(links)


def test_every_page_is_reached_from_the_readme() -> None:
    assert {f"{REPOSITORY}/blob/main/{page}" for page in (*DOCS, *WRITTEN_BY_A_COMMAND)} <= {
        target.partition("#")[0] for target in LINKS.values()
    }
