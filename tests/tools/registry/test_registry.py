"""The registries: what is stored, how it is found, and what a broken one says."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tools.checkout import CHECKOUT
from tools.registry.__main__ import main, report
from tools.registry.devices import DeviceRegistry, Target, load_devices, normalise_device_name
from tools.registry.engines import load_engines
from tools.registry.models import ModelRegistry, Placement, load_models, unknown_device_classes
from tools.registry.reading import REGISTRY_FOLDER, RegistryError
from tools.registry.sharding import Explanation
from tools.store.files import MAX_BYTES
from tools.store.workload import Layout

FIXTURES = CHECKOUT / "tests" / "schema" / "fixtures"
LOADERS: dict[str, Any] = {"devices": load_devices, "engines": load_engines, "models": load_models}
KINDS = list(LOADERS)


@pytest.fixture(scope="module")
def devices() -> DeviceRegistry:
    return load_devices()


@pytest.fixture(scope="module")
def models() -> ModelRegistry:
    return load_models()


def validator(kind: str) -> jsonschema_rs.Draft202012Validator:
    schema = json.loads((CHECKOUT / "schema" / f"{kind}.schema.json").read_text(encoding="utf-8"))
    return jsonschema_rs.Draft202012Validator(schema)


def fixtures(kind: str) -> list[Any]:
    paths = sorted(path for registry in KINDS for path in (FIXTURES / registry / kind).glob("*.json"))
    assert paths
    return [pytest.param(path, id=f"{path.parent.parent.name}-{path.stem}") for path in paths]


class TestSchemas:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_registry_follows_its_schema(self, kind: str) -> None:
        registry = json.loads((REGISTRY_FOLDER / f"{kind}.json").read_text(encoding="utf-8"))
        assert [str(error) for error in validator(kind).iter_errors(registry)] == []

    @pytest.mark.parametrize("path", fixtures("valid"))
    def test_a_valid_fixture_is_accepted(self, path: Path) -> None:
        assert validator(path.parent.parent.name).is_valid(json.loads(path.read_text(encoding="utf-8")))

    @pytest.mark.parametrize("path", fixtures("invalid"))
    def test_an_invalid_fixture_has_one_violation(self, path: Path) -> None:
        document = json.loads(path.read_text(encoding="utf-8"))
        errors = list(validator(path.parent.parent.name).iter_errors(document))
        assert len(errors) == 1, [str(error) for error in errors]

    @pytest.mark.parametrize("path", fixtures("valid"))
    def test_the_reader_takes_what_the_schema_takes(self, path: Path, tmp_path: Path) -> None:
        load = LOADERS[path.parent.parent.name]
        document = json.loads(path.read_text(encoding="utf-8"))
        (key,) = document.keys() - {"schema_version"}
        first = "id" if key == "models" else "name"
        document[key].sort(key=lambda row: row[first].casefold())
        copy = tmp_path / path.name
        copy.write_text(json.dumps(document), encoding="utf-8")
        assert len(list(load(copy))) == len(document[key])


class TestFindMeasurable:
    @pytest.mark.parametrize("reported", ["NVIDIA H100 80GB HBM3", "AMD Instinct MI300X"])
    def test_gpus_of_nvidia_and_amd_by_the_drivers_own_name(self, reported: str) -> None:
        device = load_devices().find_measurable(reported)
        assert reported.replace(" ", "_") == device.name
        assert device.target is not None
        assert device.smem_bytes_per_block is not None

    @pytest.mark.parametrize(
        ("reported", "told"),
        [
            (
                "Toaster 3000",
                "found 'Toaster 3000'. Fix: add \"Toaster_3000\" there, with vendor, family, arch and smem_",
            ),
            ("AMD Radeon Graphics", "found 'AMD Radeon Graphics' without. Fix: give arch and smem_bytes_per_block in"),
            ("Intel(R) Arc(TM) Pro B60 Graphics", "expected one of NVIDIA or AMD, found 'Intel(R) Arc(TM) Pro B60"),
        ],
    )
    def test_others_are_refused_with_what_is_missing(self, reported: str, told: str) -> None:
        with pytest.raises(RegistryError) as raised:
            load_devices().find_measurable(reported)
        assert str(raised.value).startswith("GPU: expected one of ")
        assert told in str(raised.value)


class TestDevices:
    @pytest.mark.parametrize(
        ("reported", "name"),
        [
            ("NVIDIA H100 80GB HBM3", "NVIDIA_H100_80GB_HBM3"),
            ("NVIDIA_H200", "NVIDIA_H200"),
            ("NVIDIA H200 NVL", "NVIDIA_H200"),
            ("AMD Instinct MI300X VF", "AMD_Instinct_MI300X"),
        ],
    )
    def test_a_device_is_found_by_any_name_a_driver_reports(
        self, devices: DeviceRegistry, reported: str, name: str
    ) -> None:
        assert devices.find(reported).name == name

    @pytest.mark.parametrize(
        "other", ["NVIDIA_H100_PCIe", "NVIDIA_H100_NVL", "NVIDIA_H100", "NVIDIA_H800", "NVIDIA_L20Y"]
    )
    def test_relatives_of_the_h100_share_its_family_and_no_name(self, devices: DeviceRegistry, other: str) -> None:
        h100 = devices.find("NVIDIA_H100_80GB_HBM3")
        assert devices.find(other) != h100
        assert devices.find(other).family == h100.family

    def test_an_unknown_device_is_told_the_nearest(self, devices: DeviceRegistry) -> None:
        assert devices.get("NVIDIA_H100_80GB_HBM4") is None
        with pytest.raises(RegistryError, match=r"'NVIDIA_H100_80GB_HBM4'\. Did you mean NVIDIA_H100_80GB_HBM3"):
            devices.find("NVIDIA_H100_80GB_HBM4")

    @pytest.mark.parametrize(
        ("name", "target"),
        [
            ("NVIDIA_A100-SXM4-80GB", Target("cuda", 80, 32)),
            ("NVIDIA_B200", Target("cuda", 100, 32)),
            ("AMD_Instinct_MI355X", Target("hip", "gfx950", 64)),
            ("AMD_Radeon_Graphics", None),
            ("Intel(R)_Arc(TM)_Pro_B60_Graphics", None),
        ],
    )
    def test_the_compile_target_follows_the_architecture(
        self, devices: DeviceRegistry, name: str, target: Target | None
    ) -> None:
        assert devices.find(name).target == target

    @pytest.mark.parametrize(
        ("target", "arch"), [(Target("cuda", 90, 32), "sm90"), (Target("hip", "gfx942", 64), "gfx942")]
    )
    def test_the_kernels_spell_an_architecture_without_the_line(self, target: Target, arch: str) -> None:
        assert target.kernel_arch == arch

    @pytest.mark.parametrize(
        ("arch", "kib"),
        [
            *[("sm_80", 163), ("sm_86", 99), ("sm_89", 99), ("sm_90", 227), ("sm_100", 227), ("sm_103", 227)],
            *[("sm_75", 64), ("sm_110", 227), ("sm_120", 99), ("sm_121", 99)],
            *[("gfx942", 64), ("gfx950", 160), ("gfx1151", 64), ("gfx1201", 64)],
        ],
    )
    def test_shared_memory_is_the_architectures(self, devices: DeviceRegistry, arch: str, kib: int) -> None:
        limits = {device.smem_bytes_per_block for device in devices if device.arch == arch}
        assert limits == {kib * 1024}

    @pytest.mark.parametrize(
        ("oam", "name"),
        [
            ("AMD_Instinct_MI325_OAM", "AMD_Instinct_MI325X"),
            ("AMD_Instinct_MI350_OAM", "AMD_Instinct_MI350X"),
            ("AMD_Instinct_MI355_OAM", "AMD_Instinct_MI355X"),
        ],
    )
    def test_an_accelerator_module_is_the_same_hardware(self, devices: DeviceRegistry, oam: str, name: str) -> None:
        assert devices.find(oam) == devices.find(name)

    def test_an_h100_reads_what_was_measured_to_carry_over_and_an_h200_reads_its_own_only(
        self, devices: DeviceRegistry
    ) -> None:
        assert devices.find("NVIDIA_H100_80GB_HBM3").siblings == ("NVIDIA_H200",)
        assert devices.find("NVIDIA_H200").siblings == ()

    def test_names_are_spelt_as_in_file_names(self, devices: DeviceRegistry) -> None:
        names = [name for device in devices for name in device.names]
        assert names == [normalise_device_name(name) for name in names]

    def test_white_space_runs_and_slashes_become_one_underscore_each(self) -> None:
        assert normalise_device_name(" AMD  Radeon/Pro\tX ") == "AMD_Radeon_Pro_X"


class TestModels:
    @pytest.mark.parametrize(
        "name", ["deepseek-ai/DeepSeek-V3", "DEEPSEEK-AI/deepseek-r1", "deepseek-ai/DeepSeek-V3.1"]
    )
    def test_a_model_is_found_by_any_of_its_ids_in_any_case(self, models: ModelRegistry, name: str) -> None:
        model = models.find(name)
        assert (model.E, model.N, model.K, model.top_k) == (256, 2048, 7168, 8)
        assert model.quantisation.block_shape == (128, 128)

    @pytest.mark.parametrize("name", ["Qwen/Qwen3-30B-A3B-FP", "Qwen3-30B-A3B-FP"])
    def test_an_unknown_model_is_told_the_nearest_with_or_without_owner(self, models: ModelRegistry, name: str) -> None:
        assert models.get(name) is None
        with pytest.raises(RegistryError, match="Did you mean Qwen/Qwen3-30B-A3B-FP8"):
            models.find(name)

    def test_a_name_like_no_other_gets_no_hint(self, models: ModelRegistry) -> None:
        with pytest.raises(RegistryError) as raised:
            models.find("zzz/§§§§§")
        assert "Did you mean" not in str(raised.value)


def _devices(*rows: dict[str, Any]) -> str:
    base = {"vendor": "nvidia", "family": "f", "aliases": []}
    return json.dumps({"schema_version": 1, "devices": [base | row for row in rows]})


def _siblings(h200: dict[str, Any], h100: dict[str, Any] | None = None) -> str:
    """A registry in which H100 reads the H200's files, with some facts of either changed; None takes one away."""
    build = {"arch": "sm_90", "smem_bytes_per_block": 232448, "sm_count": 132}
    reader = {"name": "H100", **build, "siblings": ["NVIDIA_H200"], "siblings_source": "Measured.", **(h100 or {})}
    read = {"name": "NVIDIA_H200", "family": "H200", "aliases": ["NVIDIA_H200_NVL"], **build, **h200}
    return _devices(reader, {key: value for key, value in read.items() if value is not None})


def _models(*rows: dict[str, Any]) -> str:
    base = {"E": 8, "N": 64, "K": 64, "top_k": 2, "dtype": "bf16", "source": "s"}
    return json.dumps({"schema_version": 1, "models": [base | row for row in rows]})


def _placed(*others: dict[str, Any], **placement: Any) -> str:
    return _models({"id": "o/a", "placements": [placement, *others]})


class TestBrokenRegistry:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "can't be read"),
            ('{"schema_version": 1, "schema_version": 1}', "can't be read: duplicate keys: 'schema_version'"),
            ('{"schema_version": NaN}', "can't be read: NaN is no finite number"),
            ("[" * 100_000, "can't be read"),
            ("[]", "top level: expected an object, found"),
            ('{"schema_version": 2, "devices": []}', "schema_version: expected 1, found 2"),
            (
                '{"schema_version": 1, "devices": {}}',
                "devices: expected a list of at least 1 item, found an empty object",
            ),
            ('{"schema_version": 1, "devices": [3]}', "devices / 0: expected an object, found 3"),
            (_devices({}), "devices / 0: name is missing"),
            (_devices({"name": "A", "aliases": "B"}), 'A / aliases: expected a list, found "B"'),
            (_devices({"name": "A", "vendor": "ati"}), 'A / vendor: expected "nvidia", "amd" or "intel", found "ati"'),
            (_devices({"name": "A", "arch": "gfx942"}), "A / arch: expected .* for nvidia, found 'gfx942'"),
            (
                _devices({"name": "A", "memory_gib": True}),
                "A / memory_gib: expected an integer from 1 to 4096, found true",
            ),
            (_devices({"name": "B"}, {"name": "A"}), "sorted entries, found 'A' after 'B'"),
            (_devices({"name": "A"}, {"name": "B", "aliases": ["A"]}), "each name once, found 'A' twice"),
            (_devices({"name": "A"}, {"name": "B", "aliases": ["a"]}), "each name once, found 'A' twice"),
            (
                _devices({"name": "A", "smem_bytes_per_block": 2**60}),
                "smem_bytes_per_block: .* from 1 to 524288, found",
            ),
            (_devices({"name": "A", "memory_gib": 10**12}), "memory_gib: expected an integer from 1 to 4096, found"),
            (
                _devices(
                    {"name": "A", "arch": "sm_90", "smem_bytes_per_block": 232448},
                    {"name": "B", "arch": "sm_90", "smem_bytes_per_block": 524288},
                ),
                "B / smem_bytes_per_block: expected 232448 as of A, which is sm_90 too, found 524288",
            ),
            (
                _devices({"name": "NVIDIA_L4", "aliases": ["NVIDIA_L4_H200_X"]}),
                "NVIDIA_L4: expected a name without the part H200, which vLLM reads as NVIDIA_H200, found",
            ),
            (_devices({"name": "H200_X"}), "H200_X: expected a name without the part H200"),
            (
                _devices({"name": "NVIDIA_H100"}, {"name": "NVIDIA_L4", "aliases": ["NVIDIA_H100_SXM"]}),
                "NVIDIA_L4: expected another name of the same hardware, none that begins with NVIDIA_H100, found",
            ),
            (
                _devices({"name": "NVIDIA_L4", "vendor": "amd", "aliases": []}),
                "NVIDIA_L4: expected a name that begins like one of amd, found 'NVIDIA_L4'",
            ),
            (_devices({"name": "A", "aliases": ["Intel(R)_Arc"]}), "expected a name that begins like one of nvidia"),
            (_devices({"name": "A", "siblings": ["B"]}), "A: siblings_source is missing, which siblings needs"),
            (
                _siblings({}, {"siblings": ["NVIDIA_H20"]}),
                r"H100 / siblings: expected a device of this registry, found 'NVIDIA_H20'\. Did you mean NVIDIA_H200\?",
            ),
            (_siblings({}, {"siblings": ["H100"]}), "H100 / siblings: expected another device, found its own name"),
            (
                _siblings({}, {"siblings": ["NVIDIA_H200_NVL"]}),
                "H100 / siblings: expected 'NVIDIA_H200', found its alias 'NVIDIA_H200_NVL'. Fix: write the former",
            ),
            (_siblings({"arch": "sm_80"}), "devices of one arch, found sm_90 here and sm_80 of NVIDIA_H200"),
            (_siblings({"arch": None}), "devices of one arch, found sm_90 here and none of NVIDIA_H200"),
            (
                _siblings({"smem_bytes_per_block": None}),
                "devices of one smem_bytes_per_block, found 232448 here and none",
            ),
            (_siblings({"sm_count": 78}), "devices of one sm_count, found 132 here and 78 of NVIDIA_H200. Fix: leave"),
        ],
    )
    def test_a_fault_in_devices_is_named_with_its_place(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "devices.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RegistryError, match=message) as raised:
            load_devices(path)
        assert str(raised.value).startswith(str(path))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (_models({"id": "o/a", "E": 0}), "o/a / E: expected an integer from 1 to 4096, found 0"),
            (
                _models({"id": "o/a", "dtype": "fp8_w8a8", "block_shape": [128]}),
                "o/a / block_shape: expected a list of 2 items",
            ),
            (
                _models({"id": "o/a", "dtype": "fp8_w8a8", "block_shape": [0, 1]}),
                "o/a / block_shape / 0: expected an integer from 1 to 1024, found 0",
            ),
            (_models({"id": "o/a", "gated": 1}), "o/a / gated: expected false, found 1"),
            (_models({"id": "o/a"}, {"id": "o/b", "also": ["O/A"]}), "each name once, found 'o/a' twice"),
            (_models({"id": "o/a", "top_k": 9}), "o/a / top_k: expected at most its 8 experts, found 9"),
            (_models({"id": "o/a", "K": 2**31 - 1}), "o/a / K: expected an integer from 1 to 131072, found 2147483647"),
            (_models({"id": "o/a", "source": "javascript:alert(1)"}), "o/a / source: expected a line that says where"),
            (_models({"id": "o/a", "activation_scales": "static"}), "o/a / dtype: expected fp8_w8a8, which alone has"),
            (
                _models({"id": "o/a", "fused_under_ep": True}),
                "o/a: fused_shared_experts is missing, which fused_under_ep",
            ),
            (
                _placed(device="H100", tp=3),
                "o/a / placements: H100 tp=3: N: expected a multiple of tp=3, found 64. Fix: correct the placement",
            ),
            (_placed(device="H100", tp=6, ep=4), "H100 tp=6 ep=4: ep: expected a divisor of tp=6, since SGLang"),
            (_placed(device="H100", tp=16, ep=16), "H100 tp=16 ep=16: E: expected a multiple of ep=16, found 8"),
            (_placed(device="H100", tp=3, ep=3), "H100 tp=3 ep=3: E: expected a multiple of ep=3, found 8"),
            (
                _placed(device="H100", tp=16, ep=16, engine="vllm"),
                "H100 tp=16 ep=16 vllm: ep: expected at most its 8 experts, found 16",
            ),
            (_placed(device="H100", tp=0), "o/a / placements / 0 / tp: expected an integer from 1 to 1024, found 0"),
            (
                _placed({"device": "H100", "tp": 2, "engine": "vllm"}, device="H100", tp=2),
                "o/a / placements: H100 tp=2: expected once, found for either engine and for vllm alone. "
                "Fix: keep one; without engine where both run it so",
            ),
            (
                _placed({"device": "H100", "tp": 2, "engine": "vllm"}, device="H100", tp=2, engine="sglang"),
                "H100 tp=2: expected once, found for sglang alone and for vllm alone. Fix: ",
            ),
        ],
    )
    def test_a_fault_in_models_is_named_with_its_place(self, tmp_path: Path, text: str, message: str) -> None:
        path = tmp_path / "models.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RegistryError, match=message) as raised:
            load_models(path)
        assert str(raised.value).startswith(str(path))

    def test_a_sibling_of_unknown_multiprocessors_is_a_sibling(self, tmp_path: Path) -> None:
        path = tmp_path / "devices.json"
        path.write_text(_siblings({"sm_count": None}), encoding="utf-8")
        assert load_devices(path).find("H100").siblings == ("NVIDIA_H200",)

    def test_vllm_splits_experts_that_ep_does_not_divide(self, tmp_path: Path) -> None:
        path = tmp_path / "models.json"
        path.write_text(_placed(device="H100", tp=3, ep=3, engine="vllm"), encoding="utf-8")
        assert load_models(path).find("o/a").placements == (Placement("H100", 3, 3, "vllm"),)

    def test_a_device_class_without_devices_is_named_with_its_model(self, tmp_path: Path) -> None:
        path = tmp_path / "models.json"
        path.write_text(_placed(device="H1000", tp=2), encoding="utf-8")
        assert list(unknown_device_classes(load_models(path), {"H100", "H200"})) == [("o/a", "H1000")]

    @pytest.mark.parametrize("alias", ["NVIDIA_H100_80GB_HBM3_X", "NVIDIA_H100_SXM", "H100-SXM", "NVIDIA_L40"])
    def test_longer_forms_of_a_devices_own_name_and_new_names_are_aliases(self, tmp_path: Path, alias: str) -> None:
        path = tmp_path / "devices.json"
        h100 = {"name": "NVIDIA_H100_80GB_HBM3", "aliases": [alias]}
        path.write_text(_devices({"name": "NVIDIA_H100"}, h100, {"name": "NVIDIA_L4"}), encoding="utf-8")
        assert load_devices(path).find(alias).name == "NVIDIA_H100_80GB_HBM3"

    @pytest.mark.parametrize("load", [load_devices, load_models])
    def test_a_pipe_or_a_giant_is_refused_and_nobody_waits(self, tmp_path: Path, load: Any) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "giant").write_bytes(b" " * (MAX_BYTES + 1))
        for name, message in (("pipe", "not a regular file"), ("giant", "expected at most 1048576 bytes")):
            with pytest.raises(RegistryError, match=message) as raised:
                load(tmp_path / name)
            assert "tuned" not in str(raised.value)

    def test_an_error_has_its_parts_for_findings(self, tmp_path: Path) -> None:
        with pytest.raises(RegistryError) as raised:
            load_devices(tmp_path / "none.json")
        error = raised.value
        assert (error.reason, error.fix) == ("can't be read: not found", "restore it")
        assert str(error) == f"{tmp_path / 'none.json'}: {error.reason}. Fix: {error.fix}."

    def test_a_missing_registry_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match=r"none\.json: can't be read: not found"):
            load_devices(tmp_path / "none.json")


class TestReport:
    def test_pairs_are_counted_and_explained_and_other_names_left_out(self, models: ModelRegistry) -> None:
        names = ["E=8,N=3584,device_name=A.json", "E=8,N=3584,device_name=B_down.json", "E=7,N=7,device_name=A.json"]
        unexplained, mixtral = report([*names, "README.md", "E=0,N=1,device_name=A.json"], models)
        assert (unexplained.E, unexplained.N, unexplained.explanations) == (7, 7, ())
        assert mixtral.files == 2
        assert Explanation(1, 4, "mistralai/Mixtral-8x7B-v0.1") in mixtral.explanations

    @pytest.mark.parametrize(("layout", "N"), [(Layout.REPO, 128), (Layout.VLLM, 128), (Layout.SGLANG, 64)])
    def test_int4_names_hold_the_models_size_and_sglangs_half_of_it(
        self, models: ModelRegistry, layout: Layout, N: int
    ) -> None:
        (row,) = report([f"E=384,N={N},device_name=A,dtype=int4_w4a16.json"], models, layout)
        assert Explanation(1, 16, "moonshotai/Kimi-K2-Thinking") in row.explanations

    def test_a_name_of_another_dtype_is_explained_by_no_model_and_says_whose_sizes_they_are(
        self, models: ModelRegistry
    ) -> None:
        (row,) = report(["E=256,N=256,device_name=A,dtype=float8.json"], models)
        assert row.explanations == ()
        assert "deepseek-ai/DeepSeek-V3" in row.otherwise_stored

    def test_a_bf16_file_is_explained_by_no_fp8_checkpoint(self, models: ModelRegistry) -> None:
        plain, blocks = (
            {found.model_id for found in report([f"E=256,N=128,device_name=A{dtype}.json"], models)[0].explanations}
            for dtype in ("", ",dtype=fp8_w8a8,block_shape=[128,128]")
        )
        assert "deepseek-ai/DeepSeek-V3" in blocks - plain

    def test_the_command_prints_a_table_and_ends_well(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "legacy_configs").mkdir()
        (tmp_path / "legacy_configs" / "E=8,N=3584,device_name=A.json").touch()
        (tmp_path / "E=7,N=7,device_name=A.json").touch()
        (tmp_path / "records").mkdir()
        (tmp_path / "records" / "E=9,N=9,device_name=A.json").touch()
        assert main([str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "E=7,N=7  (1 file)  UNEXPLAINED" in out
        assert "2 pairs, 1 explained, 1 unexplained" in out

    def test_json_output_is_json_alone(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "E=7,N=7,device_name=A.json").touch()
        assert main([str(tmp_path), "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out) == {
            "pairs": [{"E": 7, "N": 7, "files": 1, "explanations": [], "otherwise_stored": []}],
            "unexplained": 1,
        }

    def test_sizes_of_models_that_are_stored_otherwise_are_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "E=128,N=2880,device_name=A.json").touch()
        assert main([str(tmp_path)]) == 0
        told = "UNEXPLAINED (sizes of models stored otherwise: openai/gpt-oss-120b)"
        assert told in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("flags", "part"),
        [
            (["--dtype", "fp8_w8a8", "--block-shape", "128,128"], ",dtype=fp8_w8a8,block_shape=[128,128].json"),
            (["--dtype", "fp8_w8a8", "--per-channel-quant"], ",dtype=fp8_w8a8.json"),
            (
                ["--dtype", "fp8_w8a8", "--per-channel-quant", "--engine", "sglang"],
                ",dtype=fp8_w8a8,per_channel_quant=True.json",
            ),
        ],
    )
    def test_a_shard_has_the_scales_that_are_asked_for(
        self, flags: list[str], part: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--model", "mistralai/Mixtral-8x7B-v0.1", *flags]) == 0
        assert capsys.readouterr().out.startswith(f"E=8,N=14336,device_name=NVIDIA_H100_80GB_HBM3{part}\n")

    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            (["--model", "openai/gpt-oss-20b"], "mxfp4 experts run another kernel .*nothing to tune"),
            (["--model", "mistralai/Mixtral-8x7B-v0.1", "--block-shape", "128,128"], "Fix: add --dtype fp8_w8a8"),
        ],
    )
    def test_a_shard_that_has_no_file_says_why(
        self, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(flags) == 2
        assert re.search(told, capsys.readouterr().err)

    def test_a_block_of_none_is_bad_use(self) -> None:
        with pytest.raises(SystemExit) as end:
            main(["--model", "mistralai/Mixtral-8x7B-v0.1", "--dtype", "fp8_w8a8", "--block-shape", "0,128"])
        assert end.value.code == 2

    def test_one_models_shard_is_named(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "4", "--device-name", "NVIDIA_L40S"]
        assert main(arguments) == 0
        name, shape, runs = capsys.readouterr().out.splitlines()
        assert (name, shape) == ("E=8,N=3584,device_name=NVIDIA_L40S.json", "K=4096, top_k=2")
        assert runs.startswith("vllm 0.33.0: TRITON, reads tuned files. ")

    def test_what_the_engine_runs_for_it_is_in_the_json_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        model = "Qwen/Qwen3-30B-A3B-FP8"
        assert main(["--model", model, "--tp", "4", "--ep", "4", "--format", "json"]) == 0
        document = json.loads(capsys.readouterr().out)
        serving = document["serving"]
        assert (serving["backend"], serving["reads_tuned_files"]) == ("FLASHINFER_CUTLASS", False)
        assert serving["file"].startswith("E=32,N=768,")
        assert document["workload"]["E"] == serving["E"] == 32

    def test_a_model_that_runs_another_kernel_says_which(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--model", "openai/gpt-oss-20b"]) == 2
        told = capsys.readouterr().err
        assert "openai/gpt-oss-20b: mxfp4 experts run another kernel than the fused MoE Triton kernel" in told
        assert "there is nothing to tune" in told

    @pytest.mark.parametrize(
        "arguments",
        [
            ["/no/such/folder"],
            ["x" * 300],
            ["--model", ""],
            ["--model", "no/such-model"],
            ["--model", "mistralai/Mixtral-8x7B-v0.1", "--tp", "3"],
            ["--model", "mistralai/Mixtral-8x7B-v0.1", "--device-name", "NVIDIA_H100_80GB"],
        ],
    )
    def test_bad_use_ends_with_2_and_a_sentence(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Fix:" in captured.err

    def test_an_empty_folder_is_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(tmp_path)]) == 2
        assert capsys.readouterr().err.endswith(
            "expected tuned files, found none. Fix: name a folder that holds some.\n"
        )

    def test_what_is_not_counted_is_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("E=7,N=7,device_name=A.json", "E=0,N=7,device_name=A.json", "x.json"):
            (tmp_path / name).touch()
        (tmp_path / "E=7,N=7,device_name=B.json").mkdir()
        (tmp_path / "registry").mkdir()
        (tmp_path / "registry" / "devices.json").touch()
        assert main([str(tmp_path)]) == 0
        captured = capsys.readouterr()
        assert captured.out == "E=7,N=7  (1 file)  UNEXPLAINED\n1 pair, 0 explained, 1 unexplained\n"
        lines = captured.err.splitlines()
        assert [line.rpartition("/")[2] for line in lines] == [
            *("E=0,N=7,device_name=A.json", "E=7,N=7,device_name=B.json", "x.json")
        ]
        assert all(line.startswith("not counted, ") for line in lines)

    def test_1_where_a_folder_can_not_be_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "E=7,N=7,device_name=A.json").touch()
        closed = tmp_path / "legacy_configs"
        closed.mkdir()
        scandir = os.scandir

        def refuse(path: os.PathLike[str]) -> object:  # root may list everything, so chmod can't show it
            if os.fspath(path) == os.fspath(closed):
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        assert main([str(tmp_path)]) == 1
        captured = capsys.readouterr()
        assert captured.err == f"not counted, since the folder can't be read: {closed}\n"
        assert "1 pair" in captured.out
