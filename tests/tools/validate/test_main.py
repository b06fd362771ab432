"""The command: exit codes, formats, streams. Run as a process where encodings or hanging matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fused_moe_configs.exporting import write_export
from tests.builders import H100, NAME, Store, table
from tools.checkout import CHECKOUT, CONFIGS
from tools.launch.kernel_hash import EARLIER
from tools.registry.devices import load_devices
from tools.registry.reading import RegistryError
from tools.store.files import canonical_config
from tools.validate import __main__ as command

load_exceptions = command.Exceptions.load


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-m", "tools.validate", *map(str, arguments)],
        cwd=CHECKOUT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=60,
        check=False,
    )


class TestExitCodes:
    def test_0_where_nothing_is_wrong(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        store.config()
        assert command.main([str(store.root)]) == 0
        assert capsys.readouterr().out == "1 file: 0 errors, 0 warnings, 0 infos\n"

    def test_0_with_warnings_alone(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        store.config()
        store.config(folder="triton_3_6_0")
        assert command.main([str(store.root)]) == 0
        assert "2 files: 0 errors, 1 warning, 0 infos" in capsys.readouterr().out

    def test_1_with_an_error(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        store.config(table([1]))
        assert command.main([str(store.root)]) == 1
        out = capsys.readouterr().out
        assert "coverage (1)" in out.splitlines()
        assert ". Fix: tune the missing batch sizes" in out

    def test_2_for_a_missing_path(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main([str(tmp_path / "no where\n")]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("validate: no such file or folder: ")
        assert captured.err.count("\n") == 1

    def test_a_layout_that_is_none_is_told_in_words(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            command.main(["--layout", "foo"])
        assert "argument --layout: expected repo, vllm or sglang, found 'foo'" in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [["--layout", "tgi"], ["--format", "xml"], ["--no-such-flag"]])
    def test_2_for_bad_use(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as raised:
            command.main(arguments)
        assert raised.value.code == 2

    @pytest.mark.parametrize("layout", ["vllm", "sglang"])
    def test_2_for_fix_on_an_engines_folder(
        self, store: Store, layout: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = store.file(json.dumps(table()).encode())
        assert command.main(["--fix", "--layout", layout, str(store.root)]) == 2
        assert "--layout repo" in capsys.readouterr().err
        assert path.read_bytes() == json.dumps(table()).encode()

    def test_the_projects_own_configs_are_the_default(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main([]) == 0, capsys.readouterr().out

    @pytest.mark.parametrize("load", ["load_devices", "load_models", "load_engines"])
    def test_a_broken_registry_is_one_finding(
        self, store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, load: str
    ) -> None:
        def broken() -> None:
            raise RegistryError("devices[3]: no name")

        store.config()
        monkeypatch.setattr(command, load, broken)
        assert command.main([str(store.root), "--format", "json"]) == 1
        (finding,) = json.loads(capsys.readouterr().out)["findings"]
        assert (finding["rule"], finding["message"]) == ("registry", "devices[3]: no name")

    @pytest.mark.parametrize("layout", ["repo", "vllm", "sglang"])
    @pytest.mark.parametrize("name", ["empty", "README.md"])
    def test_2_and_one_line_where_there_is_no_tuned_file(
        self, store: Store, name: str, layout: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (store.root / "empty").mkdir()
        store.file(b"", "README.md")
        assert command.main([str(store.root / name), "--layout", layout]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("validate: ")
        assert f"{name}: expected tuned files in the {layout} layout, found none. Fix: name a file, " in captured.err
        assert captured.err.count("\n") == 1

    def test_2_with_a_warning_each_where_the_layout_is_another(
        self, store: Store, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store.config(record=False)
        assert command.main([str(store.root), "--layout", "sglang"]) == 2
        assert "skipped-file (1)" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["records", f"records/{NAME}"])
    def test_a_named_record_is_checked_through_its_file(
        self, store: Store, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = store.config(table([1]))
        assert command.main([str(store.root / name)]) == 0
        assert capsys.readouterr().out == "1 file: 0 errors, 0 warnings, 0 infos\n"
        store.record(path, config_sha256="0" * 64)
        assert command.main([str(store.root / name), "--format", "json"]) == 1
        (finding,) = json.loads(capsys.readouterr().out)["findings"]
        assert (finding["rule"], finding["path"]) == ("record", str(store.record_of(path)))

    def test_2_for_an_empty_path(self) -> None:
        with pytest.raises(SystemExit) as raised:
            command.main([""])
        assert raised.value.code == 2

    def test_a_file_named_in_two_ways_counts_once(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        store.config()
        assert command.main([str(store.root), str(store.root / ".." / store.root.name)]) == 0
        assert capsys.readouterr().out.startswith("1 file: ")

    def test_a_registry_that_is_a_pipe_is_one_finding_and_nobody_waits(
        self, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        os.mkfifo(tmp_path / "devices.json")
        monkeypatch.setattr(command, "load_devices", lambda: load_devices(tmp_path / "devices.json"))
        assert command.main([str(store.root)]) == 1
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "devices.json" in line]
        assert line.count("devices.json") == line.count("Fix: ") == 1
        assert "not a regular file" in line

    def test_2_and_a_line_where_the_exceptions_are_gone(
        self, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(command.Exceptions, "load", lambda: load_exceptions(tmp_path / "exceptions.json"))
        assert command.main([str(store.root)]) == 2
        assert capsys.readouterr().err.endswith("exceptions.json: not found. Fix: restore it\n")


class TestFormats:
    def test_json_is_alone_on_stdout_and_has_the_contracts_fields(self, store: Store) -> None:
        store.config(table([1]))
        store.file(json.dumps(table()).encode(), NAME.replace("E=8", "E=4"))
        done = run("--format", "json", "--fix", store.root)
        assert done.returncode == 1
        document = json.loads(done.stdout)
        assert document.keys() == {"files", "findings"}
        assert document["files"] == 2
        assert {frozenset(f) for f in document["findings"]} == {
            frozenset({"path", "rule", "severity", "message", "fix"})
        }
        assert {f["severity"] for f in document["findings"]} <= {"error", "warning", "info"}
        assert "fixed " in done.stderr

    def test_json_of_a_good_store(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        store.config()
        command.main([str(store.root), "--format", "json"])
        assert json.loads(capsys.readouterr().out) == {"files": 1, "findings": []}

    def test_github_annotations_are_one_escaped_line_each(
        self, store: Store, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store.file(b"{}", "E=8,N=1,device_name=a:b%\n::error::x.json")
        assert command.main([str(store.root), "--format", "github"]) == 1
        *annotations, summary = capsys.readouterr().out.splitlines()
        assert summary.startswith("1 file: ")
        assert annotations
        for line in annotations:
            assert line.startswith("::error file=")
            properties, _, _ = line.removeprefix("::error ").partition("::")
            assert "%2C" in properties
            assert "a%3Ab%25" in properties

    @pytest.mark.parametrize("severity", ["warning", "notice"])
    def test_githubs_words_for_severities(
        self, store: Store, severity: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store.config()
        if severity == "warning":
            store.config(folder="triton_3_6_0")
        else:
            store.measured(store.root / NAME, kernel_sha256=min(EARLIER))
        command.main([str(store.root), "--format", "github"])
        assert capsys.readouterr().out.startswith(f"::{severity} file=")


class TestFix:
    def test_it_rewrites_says_so_and_judges_the_result(self, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
        path = store.file(json.dumps(table()).encode())
        sound = canonical_config(table())
        path.write_bytes(sound)
        store.record(path)
        path.write_bytes(sound.replace(b"\n", b"\r\n"))
        assert command.main([str(store.root)]) == 1
        capsys.readouterr()
        assert command.main([str(store.root), "--fix"]) == 0
        assert path.read_bytes() == sound
        assert capsys.readouterr().err.startswith("fixed ")

    def test_values_are_never_repaired(self, store: Store) -> None:
        document = table([1], num_warps=3)
        path = store.config(document)
        assert command.main([str(store.root), "--fix"]) == 1
        assert json.loads(path.read_bytes()) == document


class TestStreams:
    """A finding's text holds signs outside ASCII, and so may paths; no terminal or pipe may stop the command."""

    @pytest.fixture
    def faulty(self, store: Store) -> Store:
        name = f"E=8,N=1024,device_name={H100},dtype=fp8_w8a8,block_shape=[128,128].json"
        store.config(table(BLOCK_SIZE_K=256, num_stages=8), name)
        store.file(b'{"\\ud800": "\xc3\xa9"}', os.fsdecode(b"caf\xe9.json"))
        store.file(b"{}", "größe 形.json")
        return store

    @pytest.mark.parametrize("form", ["text", "json", "github"])
    @pytest.mark.parametrize(
        "environment",
        [
            {"PYTHONIOENCODING": "ascii"},
            {"PYTHONIOENCODING": "latin-1"},
            {"LC_ALL": "C"},
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        ],
        ids=["ascii", "latin-1", "C", "C without UTF-8"],
    )
    def test_any_encoding_will_do(self, faulty: Store, form: str, environment: dict[str, str]) -> None:
        done = run(faulty.root, "--format", form, **environment)
        assert done.returncode == 1
        assert done.stderr == ""
        assert done.stdout.isascii() == (
            form == "json" or environment.get("PYTHONIOENCODING") == "ascii" or "PYTHONUTF8" in environment
        )
        if form == "json":
            assert json.loads(done.stdout)["files"] == 3

    def test_nobody_waits_for_a_pipe(self, store: Store) -> None:
        os.mkfifo(store.root / NAME)
        for layout in ("repo", "vllm"):
            done = run(store.root, "--layout", layout)
            assert done.returncode == 1
            assert "Traceback" not in done.stderr


class TestAnExport:
    @pytest.mark.parametrize("layout", ["vllm", "sglang"])
    def test_for_both_engines_in_one_folder_is_proved_as_each_of_them_reads_it(
        self, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Without a word on the export's own list, or on the other engine's files."""
        for engine in ("vllm", "sglang"):
            write_export(CONFIGS, tmp_path, engine)
        assert command.main([str(tmp_path), "--layout", layout]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        assert line.endswith(" files: 0 errors, 0 warnings, 0 infos")
