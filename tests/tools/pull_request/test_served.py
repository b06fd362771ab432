"""What the loader serves from a git tree, by paths alone, and what added files hide."""

from __future__ import annotations

import time
from pathlib import Path, PurePosixPath

import pytest

from fused_moe_configs.lookup import Chain
from tests.builders import H100, NAME, Store, devices
from tools.pull_request.served import Hiding, Shelf, hidings

DEFAULT = PurePosixPath(NAME)
RELEASES = ("3.6.0", "3.7.0", "3.7.1", "3.8.0", "3.9.0")


def at(folder: str, name: str = NAME) -> PurePosixPath:
    return PurePosixPath(folder, name)


def shelf(*paths: PurePosixPath) -> Shelf:
    return Shelf.of([f"configs/{path}" for path in paths], devices())


def other(device: str) -> str:
    return NAME.replace(H100, device)


class TestServed:
    def test_only_tuned_files_count(self) -> None:
        tree = [f"configs/{NAME}", f"configs/records/{NAME}", f"configs/triton_0_0_0/{NAME}", f"tools/{NAME}", NAME]
        assert Shelf.of(tree, devices()).paths == {DEFAULT}

    @pytest.mark.parametrize(
        ("triton", "folder"),
        [("3.6.0", "triton_3_6_0"), ("3.6.5", "triton_3_6_1"), ("3.7.0", ""), ("3.8.0", ""), ("3.8.1", "triton_3_8_1")],
    )
    def test_it_is_the_chains_answer(self, triton: str, folder: str) -> None:
        tiers = ("triton_3_6_0", "triton_3_6_1", "triton_3_8_1", "", "legacy_configs")
        assert shelf(*map(at, tiers)).served(NAME, triton) == at(folder)

    def test_it_is_what_the_loader_answers_on_files(self, tmp_path: Path) -> None:
        """Whichever of them are there: names of the device, per-channel and plain ones, in every tier."""
        store = Store(tmp_path)
        registry = {"devices": [{"name": d.name, "aliases": list(d.aliases)} for d in devices()]}
        store.config(registry, "devices.json", folder="registry", record=False)
        fp8 = NAME.replace(".json", ",dtype=fp8_w8a8.json")
        names = [
            name.replace(H100, d)
            for d in ("NVIDIA_H200", "NVIDIA_H200_NVL")
            for name in (fp8, fp8.replace(".json", ",per_channel_quant=True.json"))
        ]
        for folder in ("triton_3_8_0", "triton_3_8_1", "triton_3_6_0", "", "legacy_configs"):
            for name in names:
                store.config(name=name, folder=folder, record=False)
        asked, seen = names[-1], 0
        while True:
            files = [PurePosixPath(path.relative_to(tmp_path)) for path in tmp_path.rglob("E=*.json")]
            for triton in ("3.8.0", "3.8.1", "3.8.2", "3.6.1", "3.5.0"):
                chain = Chain(tmp_path)
                winner = chain.look_up(asked, chain.tiers(triton))[0].winner
                found = shelf(*files).served(asked, triton)
                assert found == (None if winner is None else PurePosixPath(winner.relative_to(tmp_path)))
            winner = chain.look_up(asked, chain.tiers("3.8.1"))[0].winner
            if winner is None:
                break
            winner.unlink()
            seen += 1
        assert seen == 12

    def test_a_down_file_serves_beside_its_up_file(self) -> None:
        down = NAME.replace(".json", "_down.json")
        assert shelf(DEFAULT, at("", down)).served(down, "3.8.0") == at("", down)
        assert shelf(DEFAULT).served(down, "3.8.0") == DEFAULT
        assert shelf(at("triton_3_6_0"), DEFAULT, at("", down)).served(down, "3.6.0") == at("triton_3_6_0")

    @pytest.mark.parametrize("name", ["x.json", "E=8.json", "evil.py"])
    def test_a_name_of_no_workload_serves_no_reader(self, name: str) -> None:
        assert shelf(DEFAULT).served(name, "3.8.0") is None


class TestInsteadOf:
    @pytest.mark.parametrize(
        ("there", "added", "expected"),
        [
            (["", "legacy_configs"], "triton_3_6_0", ""),
            (["", "triton_3_6_1"], "triton_3_6_0", "triton_3_6_1"),
            (["legacy_configs"], "triton_3_6_0", "legacy_configs"),
            (["legacy_configs"], "", "legacy_configs"),
            (["", "triton_3_8_1"], "triton_3_8_2", "triton_3_8_1"),
            ([""], "legacy_configs", ""),
            ([], "triton_3_6_0", None),
        ],
    )
    def test_it_is_what_readers_get_without_the_file(self, there: list[str], added: str, expected: str | None) -> None:
        wanted = None if expected is None else at(expected)
        before = shelf(*map(at, there))
        assert before.instead_of(at(added)) == wanted
        assert shelf(*before.paths, at(added)).instead_of(at(added)) == wanted, "whether it is there or not"


class TestHidings:
    def test_a_version_file_hides_the_default_from_readers_of_its_x_y(self) -> None:
        found = hidings(shelf(DEFAULT), shelf(DEFAULT, at("triton_3_7_0")), RELEASES)
        assert found == (Hiding(at("triton_3_7_0"), DEFAULT, ("3.7.0", "3.7.1")),)

    @pytest.mark.parametrize("folder", ["triton_3_8_9999", "triton_9999_0_0"])
    def test_so_does_one_of_a_release_that_does_not_exist_but_not_from_the_reference(self, folder: str) -> None:
        release = folder.removeprefix("triton_").replace("_", ".")
        found = hidings(shelf(DEFAULT), shelf(DEFAULT, at(folder)), RELEASES)
        assert found == (Hiding(at(folder), DEFAULT, (release,)),)

    def test_a_default_file_hides_a_legacy_one_and_a_patch_another(self) -> None:
        before = at("legacy_configs"), at("triton_3_7_0")
        found = hidings(shelf(*before), shelf(*before, DEFAULT, at("triton_3_7_1")), RELEASES)
        assert found == (
            Hiding(DEFAULT, at("legacy_configs"), ("3.6.0", "3.8.0", "3.9.0")),
            Hiding(at("triton_3_7_1"), at("triton_3_7_0"), ("3.7.1",)),
        )

    def test_under_an_alias_or_for_scales_per_channel_it_hides_too(self) -> None:
        own, alias = at("", other("NVIDIA_H200")), at("legacy_configs", other("NVIDIA_H200_NVL"))
        (found,) = hidings(shelf(own), shelf(own, alias), RELEASES)
        assert (found.by, found.hidden) == (alias, own)
        plain = at("", NAME.replace(".json", ",dtype=fp8_w8a8.json"))
        channels = plain.with_name(plain.name.replace(".json", ",per_channel_quant=True.json"))
        (found,) = hidings(shelf(plain), shelf(plain, channels), RELEASES)
        assert (found.by, found.hidden, found.releases) == (channels, plain, RELEASES)

    def test_what_hides_nothing_is_not_named(self) -> None:
        for before, after in (
            ([], [DEFAULT]),
            ([DEFAULT], [DEFAULT, at("legacy_configs")]),
            ([DEFAULT], [at("triton_3_7_0")]),
            ([DEFAULT, at("triton_3_7_0")], [DEFAULT]),
            ([DEFAULT], [DEFAULT, PurePosixPath("x.json")]),
        ):
            assert hidings(shelf(*before), shelf(*after), RELEASES) == ()

    def test_a_thousand_files_take_seconds(self) -> None:
        """A pull request may bring so many, each with several names of its device and under every release.

        Seconds of the process's own: it waits for nothing, and other processes don't count.
        """
        device = "NVIDIA_A100-SXM4-80GB"
        names = f"E=1,N=1,device_name={device}.json", f"triton_3_6_0/E=1,N=1,device_name={device}.json"
        old = shelf(*map(PurePosixPath, names))
        new = [f"E={i + 1},N=64,device_name={device}.json" for i in range(1000)]
        releases = [f"3.{minor}.{patch}" for minor in range(10) for patch in range(3)]
        started = time.process_time()
        assert hidings(old, shelf(*old.paths, *map(PurePosixPath, new)), releases) == ()
        assert time.process_time() - started < 8
