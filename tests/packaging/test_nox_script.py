"""./nox makes its environment once, on whatever a newcomer's machine has, and then hands everything on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomllib

from tests.tools.processes import PATIENCE_S, wait_until
from tools.checkout import CHECKOUT

WANTED = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["dependency-groups"]["nox"][0]
PROGRAMS = ("sh", "bash", "cat", "cp", "dirname", "env", "id", "mkdir", "readlink", "rm", "sed", "sleep", "touch")

# Stands in for Python and, copied into .venv, for the Python there. A file beside it gives it a trait.
PYTHON = """#!/bin/sh
here=$(dirname "$0")
echo "$(dirname "$here" | sed 's,.*/,,')/${0##*/} $*" >>LOG
case "$*" in
    *"(3, 11)"*) ! [ -e "$0.old" ] ;;
    *python_version*) echo 3.9.2 ;;
    *ensurepip,*) ! [ -e "$0.bare" ] ;;
    "-m venv "*) ! [ -e "$0.slow" ] || {
            trap 'echo Traceback >&2; exit 1' INT
            touch BEGUN
            while :; do sleep 0.1; done # not one long sleep: it may start just after Ctrl-C, and is waited for
        }
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && ! [ -e "$0.killed" ] ;;
    *"install "*) ! [ -e OFFLINE ] ;;
esac
"""


@dataclass(frozen=True)
class Machine:
    """A checkout, and a folder of programs that is all of PATH. Where the file `offline` is, pip installs nothing."""

    checkout: Path
    programs: Path
    log: Path
    offline: Path

    def program(self, name: str, text: str) -> Path:
        path = self.programs / name
        path.write_text(
            text.replace("BEGUN", f'"{self.log}.begun"')
            .replace("LOG", f'"{self.log}"')
            .replace("OFFLINE", f'"{self.offline}"'),
            "utf-8",
        )
        path.chmod(0o755)
        return path

    def python(self, name: str = "python3", *traits: str) -> Path:
        """A Python on PATH. traits: old (3.9), bare (no venv), killed (in making one), slow (at that)."""
        path = self.program(name, PYTHON)
        for trait in traits:
            path.with_name(f"{name}.{trait}").touch()
        return path

    def nox(self, *arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.checkout / "nox", *arguments],
            cwd=cwd or self.checkout,
            env={"PATH": str(self.programs), "HOME": str(self.checkout), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        """What was run since the last time that this was asked: «folder above/name arguments»."""
        lines = self.log.read_text("utf-8").splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    @property
    def handed_on(self) -> str:
        """The last call."""
        return f".venv/python -P -m nox -f {self.checkout}/noxfile.py"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    checkout = tmp_path / "Größe mit Leer zeichen"
    programs = tmp_path / "programs" / "bin"
    for folder in (checkout, programs):
        folder.mkdir(parents=True)
    for name in ("nox", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, checkout)
    for name in PROGRAMS:
        (programs / name).symlink_to(shutil.which(name) or name)
    return Machine(checkout, programs, tmp_path / "log", tmp_path / "offline")


def test_the_first_call_makes_the_environment_and_the_second_only_hands_on(machine: Machine) -> None:
    machine.python()
    first = machine.nox("-s", "tests", "--", "-k", "a b")
    assert (first.returncode, first.stdout) == (0, "")
    assert first.stderr == "nox: making .venv with python3\n"
    calls = machine.calls
    assert f".venv/python -m pip install --quiet --disable-pip-version-check {WANTED}" in calls
    assert calls[-1] == f"{machine.handed_on} -s tests -- -k a b"
    second = machine.nox("-l", cwd=machine.programs)
    assert (second.returncode, second.stderr) == (0, "")
    assert machine.calls == [f"{machine.handed_on} -l"]


@pytest.mark.parametrize("target", ["{checkout}/nox", "../{name}/nox", "other link"])
def test_through_a_link_it_is_the_same_checkout(machine: Machine, tmp_path: Path, target: str) -> None:
    machine.python()
    links = tmp_path / "my programs"
    links.mkdir()
    (links / "other link").symlink_to(machine.checkout / "nox")
    (links / "nox").symlink_to(target.format(checkout=machine.checkout, name=machine.checkout.name))
    environment = {"PATH": str(machine.programs), "HOME": str(tmp_path)}
    done = subprocess.run([links / "nox", "-l"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "nox: making .venv with python3\n")
    assert machine.calls[-1] == f"{machine.handed_on} -l"


def test_ctrl_c_while_the_environment_is_made_is_one_line_and_the_next_call_makes_it(machine: Machine) -> None:
    slow = machine.python("python3", "slow").with_name("python3.slow")
    begun = machine.log.with_name(f"{machine.log.name}.begun")
    environment = {"PATH": str(machine.programs), "HOME": str(machine.checkout)}
    with subprocess.Popen(
        [machine.checkout / "nox"],
        env=environment,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as child:
        wait_until(begun.exists, "that the environment is being made")
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: all that run in it
        try:
            _, told = child.communicate(timeout=PATIENCE_S)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    assert child.returncode == 130
    assert told == "nox: making .venv with python3\nnox: interrupted; the next call goes on from here\n"
    slow.unlink()
    assert machine.nox().returncode == 0
    assert machine.calls[-1].startswith(machine.handed_on)


def test_every_argument_stays_one(machine: Machine) -> None:
    machine.python()
    machine.nox("--version")
    python = machine.checkout / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n', "utf-8")
    assert machine.nox("a b", "", "*").stdout.endswith("<a b><><*>")


def test_its_exit_code_is_noxs(machine: Machine) -> None:
    machine.python()
    machine.nox("--version")
    (machine.checkout / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 3\n", "utf-8")
    assert machine.nox("-s", "validate").returncode == 3


def test_a_newer_python_is_found_beside_an_old_one(machine: Machine) -> None:
    machine.python("python3", "old")
    machine.python("python3.12")
    assert machine.nox().stderr == "nox: making .venv with python3.12\n"


@pytest.mark.parametrize(("there", "found"), [([("python3", "old")], "3.9.2"), ([], "none")])
def test_no_python_that_is_new_enough_is_said_in_one_line(
    machine: Machine, there: list[tuple[str, str]], found: str
) -> None:
    for name, *traits in there:
        machine.python(name, *traits)
    result = machine.nox("-s", "validate")
    assert result.returncode == 2
    assert result.stderr.startswith(f"nox: expected Python 3.11 or newer on PATH, found {found}. Fix: ")
    assert result.stderr.count("\n") == 1
    assert not (machine.checkout / ".venv").exists()


class TestWithoutVenv:
    """Debian's and Ubuntu's Python."""

    def test_its_package_is_installed(self, machine: Machine) -> None:
        machine.python("python3", "bare")
        machine.program("id", "#!/bin/sh\necho 1000\n")
        machine.program("sudo", '#!/bin/sh\necho "sudo $*" >>LOG\n"$@"\n')
        machine.program("apt-get", '#!/bin/sh\necho "apt-get $*" >>LOG\necho "apt-get speaks"\n')
        result = machine.nox("--version")
        assert (result.returncode, result.stdout) == (0, ""), result.stderr
        update, install = "apt-get update", "apt-get install -y python3-venv"
        asked = [call for call in machine.calls if "apt-get" in call]
        assert asked == [f"sudo {update}", update, f"sudo {install}", install]

    def test_root_needs_no_sudo(self, machine: Machine) -> None:
        machine.python("python3.11", "bare")
        machine.program("id", "#!/bin/sh\necho 0\n")
        machine.program("apt-get", '#!/bin/sh\necho "apt-get $*" >>LOG\n')
        assert machine.nox("--version").returncode == 0
        assert "apt-get install -y python3.11-venv" in machine.calls

    @pytest.mark.parametrize("apt_get", [None, "#!/bin/sh\nexit 100\n"], ids=["no apt-get", "apt-get fails"])
    def test_where_that_can_not_be_it_is_said(self, machine: Machine, apt_get: str | None) -> None:
        machine.python("python3", "bare")
        machine.program("id", "#!/bin/sh\necho 0\n")
        if apt_get:
            machine.program("apt-get", apt_get)
        result = machine.nox("--version")
        assert result.returncode == 2
        assert "python3-venv" in result.stderr
        assert "Fix: install it" in result.stderr


class TestAVenvThatIsThere:
    def test_half_made_ones_are_made_anew(self, machine: Machine) -> None:
        python = machine.python("python3", "killed")
        assert machine.nox("--version").returncode != 0
        assert (machine.checkout / ".venv" / "bin" / "python").exists()
        python.with_name("python3.killed").unlink()
        (machine.checkout / ".venv" / "left over").touch()
        assert machine.nox("--version").returncode == 0
        assert not (machine.checkout / ".venv" / "left over").exists()

    def test_one_without_nox_is_made_anew_too(self, machine: Machine) -> None:
        python = machine.python()
        (machine.checkout / ".venv").mkdir()
        assert machine.nox("--version").stderr == "nox: making .venv with python3\n"
        venvs_python = machine.checkout / ".venv" / "bin" / "python"
        venvs_python.unlink()
        venvs_python.symlink_to(python.with_name("python that was uninstalled"))
        assert machine.nox("--version").stderr == "nox: making .venv with python3\n"

    def test_a_failed_install_is_said_and_tried_again(self, machine: Machine) -> None:
        machine.python()
        machine.offline.touch()
        result = machine.nox("--version")
        assert result.returncode == 2
        assert f"expected pip to install {WANTED}" in result.stderr
        machine.offline.unlink()
        assert machine.nox("--version").returncode == 0

    def test_somebody_elses_is_kept_and_gets_nox(self, machine: Machine) -> None:
        own = machine.checkout / ".venv" / "bin" / "python"
        own.parent.mkdir(parents=True)
        shutil.copy(machine.python("python3"), own)
        (own.parent / "torchrun").touch()
        assert machine.nox("--version").stderr == ""
        assert (own.parent / "torchrun").exists()
        assert f".venv/python -m pip install --quiet --disable-pip-version-check {WANTED}" in machine.calls

    def test_somebody_elses_with_an_old_python_is_left_alone(self, machine: Machine) -> None:
        own = machine.checkout / ".venv" / "bin" / "python"
        own.parent.mkdir(parents=True)
        shutil.copy(machine.python(), own)
        own.with_name("python.old").touch()
        result = machine.nox("--version")
        assert result.returncode == 2
        assert "expected Python 3.11 or newer, found an older one. Fix: remove that folder" in result.stderr
        assert own.exists()

    def test_nox_is_brought_up_to_what_pyproject_asks_for(self, machine: Machine) -> None:
        machine.python()
        machine.nox("--version")
        pyproject = machine.checkout / "pyproject.toml"
        pyproject.write_text(
            pyproject.read_text("utf-8").replace(f'nox = ["{WANTED}"]', 'nox = ["nox>=9999"]'), "utf-8"
        )
        machine.log.unlink()
        assert machine.nox("--version").stderr == ""
        assert ".venv/python -m pip install --quiet --disable-pip-version-check nox>=9999" in machine.calls

    @pytest.mark.parametrize("content", [None, b"", b"{\n"], ids=["missing", "empty", "cut"])
    def test_a_damaged_pyproject_is_one_line_with_a_fix(self, machine: Machine, content: bytes | None) -> None:
        machine.python()
        machine.nox("--version")
        pyproject = machine.checkout / "pyproject.toml"
        pyproject.unlink() if content is None else pyproject.write_bytes(content)
        result = machine.nox("--version")
        assert result.returncode == 2
        assert result.stderr == (
            f"nox: {pyproject}: expected the line «nox = […]», found none. Fix: git checkout HEAD -- pyproject.toml\n"
        )


def test_real_python_makes_a_real_environment_that_needs_no_network_again(machine: Machine, tmp_path: Path) -> None:
    """With a nox of our own, which prints what it is given, in the index's place."""
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "nox-2025.2.9-py3-none-any.whl", "w") as wheel:
        info = "nox-2025.2.9.dist-info"
        wheel.writestr("nox/__init__.py", "")
        wheel.writestr("nox/__main__.py", "import sys; print(*sys.argv[1:], sep='|')")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nox\nVersion: 2025.2.9\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (machine.programs / "python3").symlink_to(os.path.realpath(sys.executable))
    offline = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    first = machine.nox("-s", "validate", **offline, PIP_FIND_LINKS=index.as_uri())
    assert (first.returncode, first.stderr) == (0, "nox: making .venv with python3\n")
    expected = f"-f|{machine.checkout}/noxfile.py|-s|validate\n"
    assert first.stdout == expected
    second = machine.nox("-s", "validate", **offline, cwd=tmp_path)
    assert (second.returncode, second.stdout, second.stderr) == (0, expected, "")
