"""From an engine's folder to this store: the same figures, the store's names, and a record that says whose they are."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NAME, Store, entry, table
from tools.checkout import reference_triton
from tools.convert import converter
from tools.convert.converter import Attribution, Taken
from tools.errors import UserError
from tools.findings import Finding, Severity
from tools.registry.models import ModelRegistry, load_models
from tools.store import schemas
from tools.store.files import canonical_config, discover, lock, sha256
from tools.store.workload import Layout, Workload, parse_file_name

DAY = date(2026, 1, 2)
SGLANG = Attribution(Layout.SGLANG, "Somebody, MIT", DAY)
VLLM = Attribution(Layout.VLLM, "Somebody, MIT", DAY)
STEM = NAME.removesuffix(".json")


@pytest.fixture(scope="module")
def models() -> ModelRegistry:
    return load_models()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "größe und 形"
    path.mkdir()
    return path


def put(folder: Path, name: str, document: Any = None, data: bytes | None = None) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(table() if document is None else document).encode() if data is None else data)
    return path


def convert(folder: Path, source: Attribution, models: ModelRegistry) -> tuple[tuple[Taken, ...], tuple[Finding, ...]]:
    return converter.convert(discover([folder], source.layout), source, models)


def one(folder: Path, source: Attribution, models: ModelRegistry) -> Taken:
    (taken,), findings = convert(folder, source, models)
    assert findings == ()
    return taken


class TestNamesAndFolders:
    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            (NAME, NAME),
            (f"{STEM}_down.json", f"{STEM}_down.json"),
            (f"{STEM},dtype=int8_w8a8.json", f"{STEM},dtype=int8_w8a8.json"),
            (f"{STEM},dtype=fp8_w8a8,block_shape=[128, 128].json", f"{STEM},dtype=fp8_w8a8,block_shape=[128,128].json"),
            (f"{STEM},dtype=int4_w4a16.json", f"{STEM},dtype=int4_w4a16.json".replace("1024", "2048")),
            (
                f"{STEM},dtype=fp8_w8a8,per_channel_quant=True.json",
                f"{STEM},dtype=fp8_w8a8,per_channel_quant=True.json",
            ),
        ],
    )
    def test_sglangs_names_become_the_stores(self, folder: Path, models: ModelRegistry, theirs: str, ours: str) -> None:
        put(folder, f"triton_3_6_0/{theirs}")
        assert one(folder, SGLANG, models).relative.as_posix() == f"triton_3_6_0/{ours}"

    @pytest.mark.parametrize(
        ("version", "tier"),
        [(None, "legacy_configs/"), ("3.6.0", "triton_3_6_0/"), ("3.6.0+git12", "triton_3_6_0/"), ("reference", "")],
    )
    def test_vllms_version_key_becomes_the_folder(
        self, folder: Path, models: ModelRegistry, version: str | None, tier: str
    ) -> None:
        key = {} if version is None else {"triton_version": version.replace("reference", reference_triton())}
        put(folder, NAME, {**key, **table()})
        taken = one(folder, VLLM, models)
        assert taken.relative.as_posix() == f"{tier}{NAME}"
        assert json.loads(taken.config) == table()

    @pytest.mark.parametrize(("version", "tier"), [(reference_triton(), ""), ("3.6.0", "triton_3_6_0/")])
    def test_sglangs_folder_of_the_reference_becomes_the_default_tier(
        self, folder: Path, models: ModelRegistry, version: str, tier: str
    ) -> None:
        put(folder, f"triton_{version.replace('.', '_')}/{NAME}")
        assert one(folder, SGLANG, models).relative.as_posix() == f"{tier}{NAME}"

    def test_a_dead_name_is_kept_so_that_validate_can_say_what_is_wrong(
        self, folder: Path, models: ModelRegistry
    ) -> None:
        put(folder, f"triton_3_6_0/{STEM},dtype=bf16.json")
        assert one(folder, SGLANG, models).relative.name == f"{STEM},dtype=bf16.json"

    @given(
        E=st.integers(1, 512),
        N=st.integers(1, 10_000),
        dtype=st.sampled_from([None, "fp8_w8a8", "int8_w8a8", "int4_w4a16"]),
        block=st.none() | st.sampled_from([(128, 128), (64, 32)]),
        down=st.booleans(),
    )
    def test_names_come_back(
        self, tmp_path_factory: pytest.TempPathFactory, E: int, N: int, dtype: str | None, block: Any, down: bool
    ) -> None:
        """SGLang's name → ours → SGLang's."""
        workload = Workload(
            E, 2 * N, "NVIDIA_H200", dtype, block if dtype in {"fp8_w8a8", "int8_w8a8"} else None, down=down
        )
        theirs = workload.file_name(Layout.SGLANG)
        folder = tmp_path_factory.mktemp("sglang")
        put(folder, f"triton_3_6_0/{theirs}")
        taken = one(folder, SGLANG, ModelRegistry(()))
        ours = parse_file_name(taken.relative.name)
        assert ours.faults == ()
        assert ours.workload == workload
        assert ours.workload.file_name(Layout.SGLANG) == theirs


class TestFiguresAndRecords:
    def test_values_stay_and_bytes_are_canonical(self, folder: Path, models: ModelRegistry) -> None:
        document = {"4096": entry(USE_TMA=True, SPLIT_K=1), "1": dict(reversed(entry(num_ctas=1).items()))}
        put(folder, f"triton_3_6_0/{NAME}", document)
        taken = one(folder, SGLANG, models)
        assert json.loads(taken.config) == document
        assert taken.config == canonical_config(document)

    def test_the_record_is_valid_and_says_whose_and_which(self, folder: Path, models: ModelRegistry) -> None:
        name = "E=8,N=3584,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128].json"
        put(folder, f"triton_3_6_0/{name}")
        taken = one(folder, SGLANG, models)
        record = json.loads(taken.record)
        assert schemas.faults("record", record) == []
        assert (record["source"], record["attribution"], record["date"]) == ("published", "Somebody, MIT", "2026-01-02")
        assert record["config_sha256"] == sha256(taken.config)
        assert record["workload"]["block_shape"] == [128, 128]
        assert record["verified"] is None
        (mixtral,) = [s for s in record["shapes"] if (s["K"], s["top_k"], s.get("ep", 1)) == (4096, 2, 1)]
        assert "mistralai/Mixtral-8x7B-v0.1 tp=4" in mixtral["models"]

    def test_a_packed_workload_is_explained_by_its_unpacked_size(self, folder: Path, models: ModelRegistry) -> None:
        for name in (
            "E=8,N=3584,device_name=NVIDIA_H200.json",
            "E=8,N=1792,device_name=NVIDIA_H200,dtype=int4_w4a16.json",
        ):
            put(folder, f"triton_3_6_0/{name}")
        taken, _ = convert(folder, SGLANG, models)
        plain, packed = (json.loads(file.record) for file in taken)
        if plain["workload"]["dtype"] is not None:
            plain, packed = packed, plain
        shapes = [{(shape["K"], shape["top_k"]) for shape in record["shapes"]} for record in (plain, packed)]
        assert shapes[0] == shapes[1] != set()
        assert (plain["workload"]["N"], packed["workload"]["N"]) == (3584, 3584)

    def test_a_bf16_files_record_names_no_checkpoint_that_exists_in_fp8_only(
        self, folder: Path, models: ModelRegistry
    ) -> None:
        put(folder, "triton_3_6_0/E=256,N=128,device_name=NVIDIA_H200.json")
        shapes = json.loads(one(folder, SGLANG, models).record)["shapes"]
        named = [name for shape in shapes for name in shape["models"]]
        assert named
        assert not any(name.startswith("deepseek-ai/DeepSeek-V3") for name in named)

    def test_a_size_of_no_known_model_has_no_shapes(self, folder: Path, models: ModelRegistry) -> None:
        put(folder, "triton_3_6_0/E=7,N=13,device_name=NVIDIA_H200.json")
        assert json.loads(one(folder, SGLANG, models).record)["shapes"] == []


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "data", "reason"),
        [
            ("x.json", None, "the name stands for no workload: expected E=…,N=…,device_name=…"),
            ("E=0,N=1,device_name=A.json", None, "the name stands for no workload: E: expected a decimal number"),
            (f"{STEM},dtype=fp8_w8a8,block_shape=[128x128].json", None, "the name says more than"),
            (f"{STEM},per_channel_quant=False.json", None, "lost: per_channel_quant: expected True"),
            (NAME, b"", "found an empty file"),
            (NAME, b"{", "not JSON"),
            (NAME, b"[]", "expected an object"),
            (NAME, b"{}", "top level: "),
            (NAME, b"\xff", "expected UTF-8"),
            (NAME, b'{"1": {"BLOCK_SIZE_M": 1e999}}', "no finite number"),
            (
                NAME,
                json.dumps(table(num_warps=4.0)).encode(),
                "num_warps: expected an integer of at least 1, found 4.0",
            ),
            (NAME, json.dumps(table(BLOCK_SIZE_K=None)).encode(), "1: BLOCK_SIZE_K is missing"),
            (NAME, json.dumps({**table(), "note": "x"}).encode(), "note"),
        ],
    )
    def test_what_can_not_be_taken_is_a_finding_and_the_rest_is_taken(
        self, folder: Path, models: ModelRegistry, name: str, data: bytes | None, reason: str
    ) -> None:
        path = put(folder, f"triton_3_6_0/{name}", data=data)
        put(folder, "triton_3_7_0/E=4,N=4,device_name=NVIDIA_H200.json")
        taken, (finding,) = convert(folder, SGLANG, models)
        assert len(taken) == 1
        assert reason in finding.message
        assert finding.path.endswith(path.name)

    @pytest.mark.parametrize("version", ["3.6", "0.0.0", "", "x", 3, None, ["3.6.0"]])
    def test_a_version_that_is_none_is_refused_unless_absent(
        self, folder: Path, models: ModelRegistry, version: Any
    ) -> None:
        put(folder, NAME, {"triton_version": version, **table()})
        taken, findings = convert(folder, VLLM, models)
        assert len(taken) == (version is None)
        assert len(findings) == (version is not None)

    def test_a_folder_that_is_no_version_is_refused(self, folder: Path, models: ModelRegistry) -> None:
        put(folder, f"triton_3_6_0_rc1/{NAME}")
        taken, (finding,) = convert(folder, SGLANG, models)
        assert taken == ()
        assert "expected a folder named triton_X_Y_Z, found 'triton_3_6_0_rc1'" in finding.message

    def test_the_folder_that_export_gives_the_legacy_tier_is_refused(self, folder: Path, models: ModelRegistry) -> None:
        put(folder, f"triton_0_0_0/{NAME}")
        taken, (finding,) = convert(folder, SGLANG, models)
        assert taken == ()
        assert "found 0.0.0, which `export` gives the legacy tier" in finding.message

    def test_two_spellings_of_one_workload_are_taken_once_and_only_if_they_agree(
        self, folder: Path, models: ModelRegistry
    ) -> None:
        for space in ("", " "):
            put(folder, f"triton_3_6_0/{STEM},dtype=fp8_w8a8,block_shape=[128,{space}128].json")
        taken, findings = convert(folder, SGLANG, models)
        assert (len(taken), findings) == (1, ())
        put(folder, f"triton_3_6_0/{STEM},dtype=fp8_w8a8,block_shape=[128,128].json", table(num_stages=4))
        taken, (finding,) = convert(folder, SGLANG, models)
        assert len(taken) == 1
        assert finding.message.startswith("stands for the same workload as ")

    def test_odd_files_are_findings_and_nobody_waits(self, folder: Path, models: ModelRegistry) -> None:
        tier = folder / "triton_3_6_0"
        tier.mkdir()
        os.mkfifo(tier / NAME)
        (tier / NAME.replace("E=8", "E=9")).mkdir()
        (tier / NAME.replace("E=8", "E=10")).symlink_to("nothing")
        os.truncate(put(tier, NAME.replace("E=8", "E=11"), data=b""), 50 * 1024**2)
        taken, findings = convert(folder, SGLANG, models)
        assert (len(taken), len(findings)) == (0, 4)

    @pytest.mark.parametrize("name", [NAME, f"triton_3_6_0/deeper/{NAME}", f"triton_3_6_0/{NAME}.bak"])
    def test_what_the_engine_does_not_read_is_a_warning(self, folder: Path, models: ModelRegistry, name: str) -> None:
        put(folder, name)
        put(folder, "triton_3_6_0/README")
        taken, (finding,) = convert(folder, SGLANG, models)
        assert taken == ()
        assert finding.severity is Severity.WARNING
        assert finding.message.startswith("not read by SGLang ")


class TestWrite:
    def test_files_and_records_lie_where_the_store_keeps_them(self, folder: Path, models: ModelRegistry) -> None:
        put(folder / "from", f"triton_3_6_0/{NAME}")
        taken, _ = convert(folder / "from", SGLANG, models)
        assert converter.write(taken, folder / "to") == (taken, ())
        assert (folder / "to" / "triton_3_6_0" / NAME).read_bytes() == taken[0].config
        assert (folder / "to" / "records" / "triton_3_6_0" / NAME).read_bytes() == taken[0].record

    def test_other_figures_that_are_there_stay(self, folder: Path, models: ModelRegistry) -> None:
        put(folder / "from", f"triton_3_6_0/{NAME}")
        old = put(folder / "to", f"triton_3_6_0/{NAME}", table(num_stages=4))
        before = old.read_bytes()
        taken, _ = convert(folder / "from", SGLANG, models)
        written, (finding,) = converter.write(taken, folder / "to")
        assert written == ()
        assert "is there with other figures" in finding.message
        assert finding.fix == "remove one of them first"
        assert old.read_bytes() == before
        assert not (folder / "to" / "records").exists()

    def test_measured_figures_give_way_to_no_others(self, folder: Path, models: ModelRegistry) -> None:
        put(folder / "from", f"triton_3_6_0/{NAME}")
        store = Store(folder / "to")
        store.measured(store.config(table(num_stages=4), NAME, folder="triton_3_6_0"))
        _, (finding,) = converter.write(convert(folder / "from", SGLANG, models)[0], store.root)
        assert finding.fix.startswith("leave yours out: that one has a measurement")

    def test_a_file_is_explained_by_a_models_sizes(self, folder: Path, models: ModelRegistry) -> None:
        put(folder / "from", "triton_3_6_0/E=8,N=7168,device_name=NVIDIA_H200.json")
        put(folder / "from", "triton_3_6_0/E=8,N=7169,device_name=NVIDIA_H200.json")
        taken, _ = convert(folder / "from", SGLANG, models)
        assert {file.name[:10]: file.is_explained for file in taken} == {"E=8,N=7168": True, "E=8,N=7169": False}

    def test_a_second_run_changes_nothing_and_keeps_an_older_record(self, folder: Path, models: ModelRegistry) -> None:
        put(folder / "from", f"triton_3_6_0/{NAME}")
        converter.write(convert(folder / "from", SGLANG, models)[0], folder / "to")
        record = folder / "to" / "records" / "triton_3_6_0" / NAME
        before = record.read_bytes()
        later = Attribution(Layout.SGLANG, SGLANG.attribution, date(2027, 1, 1))
        again, _ = convert(folder / "from", later, models)
        assert converter.write(again, folder / "to") == (again, ())
        assert record.read_bytes() == before

    def test_an_older_record_with_another_attribution_stays_and_is_named_until_it_is_removed(
        self, folder: Path, models: ModelRegistry
    ) -> None:
        put(folder / "from", f"triton_3_6_0/{NAME}")
        converter.write(convert(folder / "from", SGLANG, models)[0], folder / "to")
        record = folder / "to" / "records" / "triton_3_6_0" / NAME
        before = record.read_bytes()
        again, _ = convert(folder / "from", Attribution(Layout.SGLANG, "A team, MIT", DAY), models)
        written, (said,) = converter.write(again, folder / "to")
        assert written == again
        assert record.read_bytes() == before
        assert said.severity is Severity.INFO
        assert f"{record} is there and stays as it is, with attribution 'Somebody, MIT'" in said.message
        record.unlink()
        assert converter.write(again, folder / "to") == (again, ())
        assert json.loads(record.read_bytes())["attribution"] == "A team, MIT"

    def test_a_record_of_what_was_measured_here_stays_and_is_named(self, folder: Path, models: ModelRegistry) -> None:
        put(folder / "from", f"triton_3_6_0/{NAME}")
        taken, _ = convert(folder / "from", SGLANG, models)
        measured = {"config_sha256": sha256(taken[0].config), "source": "measured"}
        put(folder / "to", f"records/triton_3_6_0/{NAME}", measured)
        _, (said,) = converter.write(taken, folder / "to")
        assert said.severity is Severity.INFO
        assert "with source 'measured': this attribution isn't written" in said.message

    def test_no_other_process_writes_there_between_looking_and_writing(
        self, folder: Path, models: ModelRegistry, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(folder / "from", f"triton_3_6_0/{NAME}")
        taken, _ = convert(folder / "from", SGLANG, models)
        write, written = converter.write_file, []

        def while_held(path: Path, data: bytes) -> None:
            with pytest.raises(UserError, match="no other process that writes there"), lock(folder / "to", 0.0):
                pass
            written.append(path)
            write(path, data)

        monkeypatch.setattr(converter, "write_file", while_held)
        assert converter.write(taken, folder / "to") == (taken, ())
        assert len(written) == 2

    def test_one_that_can_not_be_written_stops_no_other(self, folder: Path, models: ModelRegistry) -> None:
        for version in ("3_6_0", "3_7_0"):
            put(folder / "from", f"triton_{version}/{NAME}")
        put(folder / "to", "triton_3_6_0", data=b"a file in the way")
        taken, _ = convert(folder / "from", SGLANG, models)
        written, (finding,) = converter.write(taken, folder / "to")
        assert len(written) == 1
        assert finding.path.endswith(f"from/triton_3_6_0/{NAME}")
        assert f"to/triton_3_6_0/{NAME} can't be written: a file stands where a folder is needed" in finding.message
        records = [path.parent.name for path in (folder / "to" / "records").rglob("*.json")]
        assert records == ["triton_3_7_0"]

    def test_no_config_is_ever_without_its_record(self, folder: Path, models: ModelRegistry) -> None:
        put(folder / "from", f"triton_3_6_0/{NAME}")
        put(folder / "to", "records", data=b"a file in the way")
        taken, _ = convert(folder / "from", SGLANG, models)
        written, (finding,) = converter.write(taken, folder / "to")
        assert written == ()
        assert "a file stands where a folder is needed" in finding.message
        assert [path.name for path in (folder / "to").rglob("*")] == ["records"]

    def test_a_record_of_other_figures_stays(self, folder: Path, models: ModelRegistry) -> None:
        put(folder / "from", f"triton_3_6_0/{NAME}")
        old = put(folder / "to", f"records/triton_3_6_0/{NAME}", {"config_sha256": "0" * 64})
        before = old.read_bytes()
        written, (finding,) = converter.write(convert(folder / "from", SGLANG, models)[0], folder / "to")
        assert written == ()
        assert "speaks of other figures" in finding.message
        assert old.read_bytes() == before
        assert not (folder / "to" / "triton_3_6_0").exists()
