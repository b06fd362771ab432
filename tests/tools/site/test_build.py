"""The whole site: every page of every store, linked, escaped, small."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import fused_moe_configs
from tests.builders import H100, Store, models
from tests.tools.site.stores import (
    BOOM,
    MIXTRAL,
    QWEN,
    add,
    checked,
    hostile,
    hostile_measurements,
    rows,
    store_at,
    survey,
    surveyed,
)
from tools.checkout import CHECKOUT, CONFIGS
from tools.errors import UserError
from tools.site.build import MANIFEST, Sources, know, pages, write
from tools.site.files import files_in, read_files
from tools.site.questions import State
from tools.site.render import loader_call
from tools.store.record import Decision

REPOSITORY = "https://example.org/repository"


class Page(HTMLParser):
    """What a browser would make of it: tags with attributes, ids, where links lead, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.tags if "id" in attributes]

    @property
    def links(self) -> list[str]:
        found = (attributes.get("href") or attributes.get("src") for _, attributes in self.tags)
        return [link for link in found if link]


def built(configs: Path, measurements: Path | None = None) -> dict[str, bytes]:
    return dict(pages(know(Sources(configs, measurements or configs / "none", REPOSITORY, "a" * 40))))


@pytest.fixture(scope="module")
def site() -> Mapping[str, bytes]:
    """This repository's own."""
    return built(CONFIGS, CHECKOUT / "docs" / "measurements")


@pytest.fixture(scope="module")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    folder = tmp_path_factory.mktemp("hostile")
    return built(hostile(folder / "configs").root, hostile_measurements(folder / "m"))


@pytest.fixture(scope="module")
def empty_site(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    return built(store_at(tmp_path_factory.mktemp("empty") / "configs").root)


def html(site: Mapping[str, bytes]) -> dict[str, Page]:
    return {name: Page(content.decode()) for name, content in site.items() if name.endswith(".html")}


@pytest.mark.parametrize("which", ["site", "hostile_site", "empty_site"])
def test_every_link_leads_to_something_and_every_id_stands_once(which: str, request: pytest.FixtureRequest) -> None:
    site = request.getfixturevalue(which)
    # Pages of GPUs are alike, and those of the whole registry large: some stand for all.
    kept = {name for place, name in enumerate(sorted(site)) if not name.startswith("gpus/nvidia") or place % 9 == 0}
    read = html({name: content for name, content in site.items() if name in kept})
    for name, page in read.items():
        assert len(page.ids) == len(set(page.ids)), name
        for link in page.links:
            if link.startswith(REPOSITORY):
                continue
            if name == "404.html" and not link.startswith("#"):
                assert link.startswith("/repository/"), "a page of any depth"
                link = link.removeprefix("/repository/")
            address, fragment = urldefrag(link.partition("?")[0] if "#" not in link else link)
            path = (Path("/", name).parent / unquote(address)).as_posix() if address else f"/{name}"
            target = str(Path(path).resolve()).lstrip("/")
            assert target in site, (name, link)
            assert not fragment or target not in read or fragment in read[target].ids, (name, link)


def test_a_page_stands_for_every_file_model_and_gpu(site: Mapping[str, bytes]) -> None:
    assert len([name for name in site if name.startswith("files/")]) == len(list(CONFIGS.rglob("E=*.json"))) / 2
    assert len([name for name in site if name.startswith("models/")]) == len(models().models)
    assert len([name for name in site if name.startswith("data/models/")]) == len(models().models)


def test_pages_run_no_script_but_their_own_and_load_nothing_from_elsewhere(hostile_site: Mapping[str, bytes]) -> None:
    for name, page in html(hostile_site).items():
        for tag, attributes in page.tags:
            assert not [key for key in attributes if key.startswith("on") or key == "style"], (name, tag, attributes)
            assert not str(attributes.get("href", "")).startswith(("javascript:", "data:", "//")), name
        scripts = [attributes.get("src") for tag, attributes in page.tags if tag == "script"]
        assert [Path(str(script)).name for script in scripts] == ["app.js"], name
        assert not any(tag in ("img", "iframe", "b", "object") for tag, _ in page.tags), name
        (policy,) = (str(a["content"]) for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_hostile_texts_are_shown_as_they_stand(hostile_site: Mapping[str, bytes]) -> None:
    read = html(hostile_site)
    page = read["files/e8-n7168-nvidia_h100_80gb_hbm3.html"]
    assert BOOM in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert BOOM in read["index.html"].text
    assert "49" not in re.findall(r"onmouseover=boom\(\) ' (\S+)", page.text)
    assert json.loads(hostile_site["data/models/ai21labs-ai21-jamba-large-1.5.json"])["model"]


def test_a_file_that_cannot_be_used_has_a_page_that_says_so(hostile_site: Mapping[str, bytes]) -> None:
    page = html(hostile_site)["files/e128-n768-nvidia_h100_80gb_hbm3.html"]
    assert "The file can't be used: not JSON" in page.text
    assert "Not measured" in page.text
    assert "broken" in html(hostile_site)["models/qwen-qwen3-30b-a3b.html"].text


def test_a_file_that_loses_to_the_engines_own_says_so_wherever_its_gain_stands(tmp_path: Path) -> None:
    store = store_at(tmp_path / "configs", ["mistralai/Mixtral-8x7B-v0.1"])
    add(store, engine_checked=[checked("sglang", over_shipped=1.21)])
    site = built(store.root)
    read, said = html(site), "SGLang 0.5.23’s own file is faster: with this one the layer takes 21.0 % more time."
    assert said in read["files/e8-n7168-nvidia_h100_80gb_hbm3.html"].text
    assert said in read["models/mistralai-mixtral-8x7b-v0.1.html"].text
    cells = re.findall(r'<td class="(\S+ claimed)" .*?<small>(.*?)</small>', site["index.html"].decode())
    assert cells == [("g3 claimed", "claimed"), ("behind claimed", "engine’s is faster")]


def test_a_file_for_down_says_that_its_figures_are_of_down(tmp_path: Path) -> None:
    store = store_at(tmp_path / "configs", ["mistralai/Mixtral-8x7B-v0.1"])
    add(store, engine_checked=[checked("sglang")])
    plain = rows()
    for each in plain.values():
        for key in ("parts", "by_engine", "by_routing", "floor_us"):
            del each[key]
    add(store, MIXTRAL.replace(".json", "_down.json"), rows=plain)
    read = html(built(store.root))
    page = read["files/e8-n7168-nvidia_h100_80gb_hbm3_down.html"]
    assert "For the down projection alone" in page.text
    assert "SGLang's heuristic" in page.text
    assert "vLLM's heuristic" not in page.text.partition("Record")[0]
    assert "e8-n7168-nvidia_h100_80gb_hbm3.html" in page.links
    layer = read["files/e8-n7168-nvidia_h100_80gb_hbm3.html"]
    assert "With both files SGLang’s layer takes −10.0 % time over its heuristic" in layer.text
    assert "of down" in read["index.html"].text


def test_a_survey_that_ended_early_says_so_and_what_it_did_not_come_to_has_no_figure(tmp_path: Path) -> None:
    store = store_at(tmp_path / "configs", ["mistralai/Mixtral-8x7B-v0.1"])
    unreached = {"file": MIXTRAL, "reason": "not reached", "is_missing": True}
    survey(tmp_path / "m", [surveyed(QWEN, [1.2])], left_out=[unreached])
    site = built(store.root, tmp_path / "m")
    boards = html(site)["boards.html"].text
    assert "no: 1 more file not reached" in boards
    assert "1 file, the worst first (the survey ended early)" in boards
    assert re.findall(r'<td class="shipped".*?>([^<]+)</a>', site["index.html"].decode()) == ["engine&#39;s own"]


def test_an_empty_store_has_every_page_and_says_that_it_is_empty(empty_site: Mapping[str, bytes]) -> None:
    read = html(empty_site)
    assert "The store has no tuned files yet" in read["index.html"].text
    assert "Nothing was measured yet" in read["boards.html"].text
    assert "Not surveyed yet" in read["boards.html"].text
    assert "no tuned files yet" in read["freshness.html"].text
    assert b"<svg" in empty_site["charts/gains.svg"]


def test_the_first_page_is_small(site: Mapping[str, bytes]) -> None:
    parts = ("index.html", "assets/site.css", "assets/charts.css", "assets/app.js", "assets/icon.svg")
    assert sum(len(gzip.compress(site[name])) for name in parts) <= 400_000


def test_the_same_store_is_the_same_site(store: Store) -> None:
    add(store)
    assert built(store.root) == built(store.root)


@pytest.mark.parametrize("file", read_files(files_in(CONFIGS)), ids=lambda file: file.slug)
def test_the_loader_call_of_a_page_reads_that_file(file, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_TUNED_CONFIG_FOLDER", raising=False)
    fused_moe_configs.cache_clear()
    lines = loader_call(file).split("\n\n")
    known: dict[str, object] = {}
    exec(lines[0], known)
    middle = list(file.entries)[len(file.entries) // 2]
    assert eval(lines[1], known) == file.entries[middle]


def test_a_file_that_only_sglang_reads_is_not_exported_to_vllm(tmp_path: Path) -> None:
    store = store_at(tmp_path / "configs", ["mistralai/Mixtral-8x7B-v0.1"])
    name = f"E=8,N=7168,device_name={H100},dtype=fp8_w8a8,per_channel_quant=True.json"
    add(store, name)
    text = html(built(store.root))["files/e8-n7168-nvidia_h100_80gb_hbm3-fp8_w8a8-per_channel_quanttrue.html"].text
    assert "--engine sglang" in text
    assert "--engine vllm" not in text


# ---------------------------------------------------------------
# Into a folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path / "configs", ["mistralai/Mixtral-8x7B-v0.1"])


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_build_takes_the_place_of_the_one_before(store: Store, tmp_path: Path) -> None:
    out, sources = tmp_path / "out", Sources(store.root, tmp_path / "m", REPOSITORY)
    path = add(store)
    write(sources, out)
    assert "files/e8-n7168-nvidia_h100_80gb_hbm3.html" in files_below(out)
    path.unlink()
    count, _ = write(sources, out)
    assert "files/e8-n7168-nvidia_h100_80gb_hbm3.html" not in files_below(out)
    assert files_below(out) == {*json.loads((out / MANIFEST).read_bytes())["files"], MANIFEST}
    assert count == len(files_below(out))


def test_an_interrupted_build_is_replaced_by_the_next(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, sources = tmp_path / "out", Sources(store.root, tmp_path / "m", REPOSITORY)
    path = add(store)
    write(sources, out)
    path.unlink()
    whole, write_bytes = files_below(out), Path.write_bytes

    def interrupted(self: Path, content: bytes) -> int:
        if self.name == "boards.html":
            raise KeyboardInterrupt
        return write_bytes(self, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(sources, out)
    assert files_below(out) < whole
    write(sources, out)
    assert files_below(out) == whole - {"files/e8-n7168-nvidia_h100_80gb_hbm3.html"}


def test_an_earlier_build_stays_whole_until_the_next_can_be_made(store: Store, tmp_path: Path) -> None:
    out, sources = tmp_path / "out", Sources(store.root, tmp_path / "m", REPOSITORY)
    write(sources, out)
    whole = files_below(out)
    (store.root / "registry" / "models.json").write_text("{", "utf-8")
    with pytest.raises(UserError):
        write(sources, out)
    assert files_below(out) == whole


def test_what_a_link_in_an_earlier_build_leads_to_stays(store: Store, tmp_path: Path) -> None:
    out, sources = tmp_path / "out", Sources(store.root, tmp_path / "m", REPOSITORY)
    write(sources, out)
    (mine := tmp_path / "mine.html").write_text("mine", "utf-8")
    (out / "index.html").unlink()
    (out / "index.html").symlink_to(mine)
    write(sources, out)
    assert mine.read_text("utf-8") == "mine"
    assert not (out / "index.html").is_symlink()


def test_several_processes_write_the_same(store: Store, tmp_path: Path) -> None:
    add(store)
    store.config(name=QWEN.replace("N=768", "N=192"), record=False)
    store.record_of(store.config(name=QWEN.replace("N=768", "N=384"))).write_text("{", "utf-8")
    sources = Sources(store.root, tmp_path / "m", REPOSITORY)
    for jobs in (1, 2):
        write(sources, tmp_path / str(jobs), jobs)
    assert files_below(tmp_path / "1") == files_below(tmp_path / "2")
    assert all((tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
               for name in files_below(tmp_path / "1"))  # fmt: skip


@pytest.mark.parametrize("manifest", [None, "[]", '{"files": 1}', '{"files": ["../kept"]}', '{"files": ["/etc/kept"]}'])
def test_nothing_that_is_not_the_sites_own_is_removed(store: Store, tmp_path: Path, manifest: str | None) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for path in (out / "mine.txt", tmp_path / "kept"):
        path.write_text("mine", "utf-8")
    if manifest is not None:
        (out / MANIFEST).write_text(manifest, "utf-8")
    with pytest.raises(UserError, match="expected a new folder, or the site in it, found other files"):
        write(Sources(store.root, tmp_path / "m", REPOSITORY), out)
    assert (out / "mine.txt").read_text("utf-8") == (tmp_path / "kept").read_text("utf-8") == "mine"


def test_a_file_in_the_place_of_the_folder_is_said(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", "utf-8")
    with pytest.raises(UserError, match="expected a folder, found a file"):
        write(Sources(store.root, tmp_path / "m", REPOSITORY), tmp_path / "out")


def test_every_state_and_decision_is_explained(store: Store) -> None:
    method = html(built(store.root))["method.html"]
    assert [word for word in Decision if f"{word.value.capitalize()}:" not in method.text] == []
    elsewhere = {State.SHIPPED, State.NONE, State.UNNAMED}  # surveys, a hole, no name
    assert {state.value for state in set(State) - elsewhere} <= set(method.ids)


def test_the_mixtral_page_names_its_file_and_digest(store: Store) -> None:
    path = add(store)
    text = html(built(store.root))["files/e8-n7168-nvidia_h100_80gb_hbm3.html"].text
    (file,) = read_files(files_in(store.root))
    assert path.name == MIXTRAL
    assert file.known.sha256 in text
    assert f"{REPOSITORY}/raw/main/configs/E%3D8%2CN%3D7168" in text
