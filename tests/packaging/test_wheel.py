"""The built wheel, installed into an empty environment: every shipped file is found and loaded through it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from fused_moe_configs import index
from tools.checkout import CHECKOUT, CONFIGS
from tools.store.files import discover
from tools.store.tiers import REGISTRIES, Found, Role, version_of_folder
from tools.store.workload import Layout, parse_file_name

LOAD_EVERYTHING = """
import json, sys
import fused_moe_configs as loader
for wanted in json.load(sys.stdin):
    config = loader.get_moe_configs(**wanted["call"])
    found = {str(key): dict(value) for key, value in config.items()}
    assert found == wanted["entries"], wanted["call"]
    assert str(loader.explain(**wanted["call"]).winner).startswith(str(loader.where())), wanted["call"]
    print(wanted["call"])
"""


def build(source: Path, folder: Path, *kinds: str) -> None:
    command = [sys.executable, "-m", "build", *kinds, "--no-isolation", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built here, or the one in $FUSED_MOE_CONFIGS_DIST: a release tests the file that it publishes."""
    if dist := os.environ.get("FUSED_MOE_CONFIGS_DIST"):
        (given,) = Path(dist).glob("*.whl")
        return given
    folder = tmp_path_factory.mktemp("dist")
    build(CHECKOUT, folder, "--wheel")
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment, in a folder with a space and an umlaut, that holds nothing but the wheel."""
    folder = tmp_path_factory.mktemp("leere Umgebung für den Lader")
    venv.create(folder, with_pip=False)
    interpreter = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return interpreter


def run(python: Path, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(python), "-I", *arguments]
    return subprocess.run(command, input=given, capture_output=True, text=True, cwd=python.parent, check=False)


def shipped_files() -> list[Found]:
    return [found for found in discover([CONFIGS], Layout.REPO) if found.role is Role.CONFIG]


def call_for(found: Found) -> dict[str, object]:
    workload = parse_file_name(found.path.name).workload
    assert workload is not None
    version = version_of_folder(found.folder) or (0, 0, 1)
    return {**asdict(workload), "triton_version": ".".join(map(str, version))}


def test_every_shipped_file_loads_through_the_installed_wheel(python: Path) -> None:
    files = shipped_files()
    wanted = [{"call": call_for(found), "entries": json.loads(found.path.read_bytes())} for found in files]
    result = run(python, "-c", LOAD_EVERYTHING, given=json.dumps(wanted))
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == len(files) > 0


def load_everything(python: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """As the nox session `wheel` runs it on every Python that the wheel claims."""
    return run(python, "-S", str(Path(__file__).with_name("load_everything.py")), str(site))


@pytest.fixture
def site(wheel: Path, tmp_path: Path) -> Path:
    """The wheel, unpacked."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    return tmp_path / "site"


def test_every_shipped_file_loads_with_the_standard_library_alone(python: Path, site: Path) -> None:
    result = load_everything(python, site)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{len(shipped_files())} files loaded by Python 3.")


@pytest.mark.parametrize("name", ["E=8,N=1,device_name=NVIDIA H100.json", "E=8,N=one.json"])
def test_a_file_that_no_name_leads_to_is_noticed(python: Path, site: Path, name: str) -> None:
    shutil.copy(
        next((site / "fused_moe_configs" / "configs").glob("E=*.json")), site / "fused_moe_configs" / "configs" / name
    )
    result = load_everything(python, site)
    assert result.returncode == 1
    assert f"{name}: expected" in result.stderr


def test_wheel_holds_the_data_and_leaves_the_evidence_at_home(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.removeprefix("fused_moe_configs/configs/") for name in names if "/configs/" in name}
    registries = {f"registry/{name}" for name in REGISTRIES}
    expected = {found.relative.as_posix() for found in shipped_files()} | registries | {"index.json"}
    assert inside == expected
    assert {"fused_moe_configs/py.typed", "fused_moe_configs/__init__.pyi"} <= set(names)


def test_the_wheels_index_says_what_the_records_say(wheel: Path) -> None:
    written = zipfile.ZipFile(wheel).read("fused_moe_configs/configs/index.json")
    assert written == index.to_bytes(index.build(CONFIGS))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    build(CHECKOUT, folder, "--sdist")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(folder)
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


def test_the_sdist_holds_the_index_instead_of_the_records(sdist: Path) -> None:
    assert (sdist / "configs" / "index.json").read_bytes() == index.to_bytes(index.build(CONFIGS))
    assert not (sdist / "configs" / "records").exists()
    assert not (CONFIGS / "index.json").exists()


def test_a_wheel_of_the_sdist_has_the_same_index(sdist: Path, tmp_path: Path) -> None:
    build(sdist, tmp_path, "--wheel")
    (built,) = tmp_path.glob("*.whl")
    written = zipfile.ZipFile(built).read("fused_moe_configs/configs/index.json")
    assert written == (sdist / "configs" / "index.json").read_bytes()


def test_data_that_lies_in_the_wheels_own_place_is_not_taken(sdist: Path, tmp_path: Path) -> None:
    """It would stand beside the proved files, or instead of them."""
    shutil.copytree(sdist, tmp_path / "two")
    for name in ("index.json", "triton_3_7_0/E=8.json"):
        path = tmp_path / "two" / "fused_moe_configs" / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    build(tmp_path / "two", tmp_path, "--wheel")
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        assert "fused_moe_configs/configs/triton_3_7_0/E=8.json" not in archive.namelist()
        written = archive.read("fused_moe_configs/configs/index.json")
    assert written == (sdist / "configs" / "index.json").read_bytes()


def test_a_folder_with_neither_records_nor_an_index_is_not_built(sdist: Path, tmp_path: Path) -> None:
    shutil.copytree(sdist, tmp_path / "half")
    (tmp_path / "half" / "configs" / "index.json").unlink()
    with pytest.raises(subprocess.CalledProcessError) as raised:
        build(tmp_path / "half", tmp_path, "--wheel")
    assert "expected records, as a checkout has them, or index.json" in raised.value.stdout


def test_the_installed_command_lists_with_the_standard_library_alone(python: Path) -> None:
    result = run(python, "-m", "fused_moe_configs", "list", "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == index.to_json(index.build(CONFIGS))


def test_wheel_needs_nothing(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    text = archive.read(metadata).decode()
    assert "Requires-Dist" not in text
    assert "Requires-Python: >=3.10" in text


def test_its_page_names_the_repository(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    assert "Project-URL: Repository, https://github.com/" in archive.read(metadata).decode()


def test_installed_command_runs(python: Path) -> None:
    command = [str(python.parent / "fused-moe-configs"), "where"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).is_dir()
