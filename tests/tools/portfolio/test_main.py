from __future__ import annotations

import subprocess
import sys

import pytest

from tools.checkout import CHECKOUT
from tools.portfolio.__main__ import COMMANDS, main


def test_without_a_command_it_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_describes_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert "Exit 0: " in capsys.readouterr().out


def test_what_is_refused_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["next", "-n", "0"]) == 2
    assert capsys.readouterr().err == "portfolio: -n: expected at least 1, found 0.\n"


def test_torch_and_triton_are_not_imported() -> None:
    code = (
        "import sys; sys.modules.update(torch=None, triton=None); from tools.portfolio.__main__ import main;"
        "sys.exit(main(['next', '--device-name', 'NVIDIA_H100_PCIe', '-n', '1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1), done.stderr
    assert done.stdout.startswith("E=")
