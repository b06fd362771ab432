"""A commit's objects are read as they are, within limits that hold before anything large is read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.tools.pull_request.git_repository import EXECUTABLE, TREE, Blob, GitRepository
from tools.git import NOTHING, CommitError, CommitLimits, Entry, NoGitError, Repository, file_at, is_sha


@pytest.fixture
def git(tmp_path: Path) -> GitRepository:
    return GitRepository.make(tmp_path / "größe und 形")


def test_a_tree_lists_modes_and_names_as_they_are(git: GitRepository) -> None:
    sha = git.commit({"a": b"1", "b/c d\nü\udcff": Blob(b"2", EXECUTABLE)})
    assert Repository(git.root).tree(sha) == {
        "a": Entry("100644", "blob", git.blob(b"1")),
        "b/c d\nü\udcff": Entry("100755", "blob", git.blob(b"2")),
    }


def test_blobs_come_byte_for_byte_each_once(git: GitRepository) -> None:
    contents = [b"", b"\n", b"x blob 3\nabc\n", bytes(range(256))]
    shas = [git.blob(data) for data in contents]
    assert Repository(git.root).blobs([*shas, *shas]) == dict(zip(shas, contents, strict=True))


def test_no_blobs_are_none(git: GitRepository) -> None:
    assert Repository(git.root).blobs([]) == {}


def test_sizes_are_known_without_reading(git: GitRepository) -> None:
    sha = git.blob(bytes(3_000_000))
    assert Repository(git.root).sizes([sha]) == {sha: 3_000_000}


def test_the_newest_tag_behind_head_and_the_first_commit(git: GitRepository) -> None:
    repository = Repository(git.root)
    assert (repository.newest_tag("v20*"), repository.first_commit()) == (None, None)
    first = git.commit({"a": b"1"})
    second = git.commit({"a": b"2"}, first)
    git.set_ref("refs/heads/main", second)
    git.set_ref("refs/tags/v2026.1.2", first)
    git.set_ref("refs/tags/other", second)
    assert (repository.newest_tag("v20*"), repository.first_commit()) == ("v2026.1.2", first)
    git.set_ref("refs/tags/v2026.3.4", second)
    assert repository.newest_tag("v20*") == "v2026.3.4"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (CommitLimits(blob_bytes=9), "expected at most 9 bytes a file, found 10"),
        (CommitLimits(total_bytes=19), "expected at most 19 bytes in all, found 20"),
    ],
)
def test_limits_hold_for_blobs(git: GitRepository, limits: CommitLimits, expected: str) -> None:
    shas = [git.blob(b"a" * 10), git.blob(b"b" * 10)]
    with pytest.raises(CommitError, match=expected):
        Repository(git.root, limits).blobs(shas)


@pytest.mark.parametrize("limits", [CommitLimits(entries=2), CommitLimits(listing_bytes=100)])
def test_limits_hold_for_trees(git: GitRepository, limits: CommitLimits) -> None:
    sha = git.commit(dict.fromkeys("abc", b""))
    with pytest.raises(CommitError, match=f"{sha[:12]}: expected at most"):
        Repository(git.root, limits).tree(sha)


@pytest.mark.parametrize("depth", [1, 11])
def test_folders_without_a_file_count(git: GitRepository, depth: int) -> None:
    """Trees that hold nothing but trees: 12 objects for 10^12 paths, of which git would print none."""
    tree = git.tree_of()
    for _ in range(depth):
        tree = git.tree_of(*((TREE, str(i).encode(), tree) for i in range(10)))
    sha = git.commit_tree(git.tree_of(*((TREE, str(i).encode(), tree) for i in range(10))))
    assert depth > 1 or Repository(git.root, CommitLimits(entries=110)).tree(sha) == {}
    with pytest.raises(CommitError, match=f"{sha[:12]}: expected at most"):
        Repository(git.root, CommitLimits(entries=109)).tree(sha)


def test_a_listing_that_takes_too_long_is_broken_off(git: GitRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = git.commit({"a": b""})
    monkeypatch.setattr(Repository, "_command", lambda self, *arguments: ["sleep", "60"])
    with pytest.raises(CommitError, match=r"expected at most 0\.2 s to list its files, found no end of it"):
        Repository(git.root, CommitLimits(listing_s=0.2)).tree(sha)


def test_a_git_that_does_not_answer_is_said_as_that(git: GitRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.git.TIMEOUT_S", 0.2)
    monkeypatch.setattr(Repository, "_command", lambda self, *arguments: ["sleep", "60"])
    with pytest.raises(NoGitError, match=r"expected one, found no answer within 0\.2 s\. Fix: try again"):
        Repository(git.root).commit("HEAD")


def test_an_object_that_is_not_here_is_said(git: GitRepository) -> None:
    with pytest.raises(CommitError, match="expected the contents of 1 files, found 0"):
        Repository(git.root).blobs(["0" * 40])


def test_a_tree_in_place_of_a_blob_is_not_read(git: GitRepository) -> None:
    with pytest.raises(CommitError, match="expected the contents"):
        Repository(git.root).blobs([git.tree_of(("100644", b"a", git.blob(b"")))])


def test_a_tree_that_git_can_not_read_is_said(git: GitRepository) -> None:
    broken = git.commit_tree(git.tree_of((TREE, b"missing", "1" * 40)))
    with pytest.raises(CommitError, match="expected a commit whose files can be listed"):
        Repository(git.root).tree(broken)


def test_a_replaced_object_is_not_what_was_asked_for(git: GitRepository) -> None:
    asked, other = git.commit({"a": b"1"}), git.commit({"a": b"2"})
    git.git("replace", asked, other)
    assert Repository(git.root).tree(asked)["a"].sha == git.blob(b"1")


def test_a_reference_stands_somewhere_or_nowhere(git: GitRepository) -> None:
    sha = git.commit({"a": b"1"})
    git.set_ref("refs/pull/7/head", sha)
    assert Repository(git.root).ref("refs/pull/7/head") == sha
    assert Repository(git.root).ref("refs/pull/8/head") is None


@pytest.mark.parametrize("root", ["nowhere", "empty"])
def test_a_folder_without_a_repository_is_said_in_one_line(tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommitError, match=r"^HEAD: expected a commit of this repository, found none\. Fix: .*\.$"):
        Repository(tmp_path / root).commit("HEAD")


def test_git_that_is_not_installed_is_said(git: GitRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CommitError, match=r"^git: expected it to run, found: No such file .*\. Fix: install git"):
        Repository(git.root).commit("HEAD")
    with pytest.raises(CommitError, match="install git"):
        Repository(git.root).tree("1" * 40)


# What changed in the working tree.


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    in_checkout(tmp_path, "init", "--quiet", "--initial-branch=main", ".")
    commit_file(tmp_path, "first")
    return tmp_path


def in_checkout(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def commit_file(folder: Path, name: str) -> None:
    (folder / name).write_text(name, "utf-8")
    in_checkout(folder, "add", "--all")
    in_checkout(folder, "commit", "--quiet", f"--message={name}")


def test_what_the_other_branch_did_meanwhile_does_not_count(checkout: Path) -> None:
    in_checkout(checkout, "switch", "--quiet", "--create", "mine")
    commit_file(checkout, "mîne\n.json")
    in_checkout(checkout, "switch", "--quiet", "main")
    commit_file(checkout, "theirs")
    in_checkout(checkout, "switch", "--quiet", "mine")
    (checkout / "first").write_text("not committed yet", "utf-8")
    assert Repository(checkout).changed_since("main") == ("first", "mîne\n.json")


def test_since_before_the_first_push_everything_changed(checkout: Path) -> None:
    commit_file(checkout, "mîne\n.json")
    assert Repository(checkout).changed_since(NOTHING) == ("first", "mîne\n.json")


@pytest.mark.parametrize("revision", ["", "nowhere", "--output=gone", "0" * 39, "1" * 40])
def test_what_is_no_revision_is_said_in_one_line(checkout: Path, revision: str) -> None:
    with pytest.raises(CommitError, match=rf"^{revision}: expected a revision with a common history, found") as caught:
        Repository(checkout).changed_since(revision)
    assert "\n" not in str(caught.value)
    assert ". Fix: " in str(caught.value)
    assert not (checkout / "gone").exists()


def test_a_program_that_the_checkouts_settings_name_is_not_run(checkout: Path) -> None:
    in_checkout(checkout, "config", "diff.external", f"touch {checkout / 'ran'};")
    in_checkout(checkout, "config", "core.fsmonitor", f"touch {checkout / 'ran'};")
    (checkout / "first").write_text("changed", "utf-8")
    assert Repository(checkout).changed_since("main") == ("first",)
    assert not (checkout / "ran").exists()


# Which texts are a commit's whole name.


def test_forty_lower_case_hexadecimal_digits_are_one() -> None:
    assert is_sha("0123456789abcdef" * 2 + "01234567")
    assert is_sha(NOTHING)


@pytest.mark.parametrize("text", ["", "main", "a" * 39, "a" * 41, "A" * 40, "a" * 40 + "\n", "\n" + "a" * 40, None, 7])
def test_nothing_else_is(text: object) -> None:
    assert not is_sha(text)


class TestFileAt:
    @pytest.fixture
    def file(self, git: GitRepository) -> Path:
        """A file whose tagged commit has other bytes than the work tree, in a folder below the root."""
        git.git("tag", "first", git.commit({"größe/a.json": b"old", "größe/deeper/b.json": b""}))
        path = git.root / "größe" / "a.json"
        path.parent.mkdir()
        path.write_bytes(b"new")
        return path

    def test_its_bytes_at_the_revision(self, file: Path) -> None:
        assert file_at("first", file) == b"old"

    def test_below_a_link_to_its_folder_too(self, file: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(file.parent)
        assert file_at("first", tmp_path / "link" / "a.json") == b"old"

    def test_the_environment_names_no_other_repository(
        self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = GitRepository.make(tmp_path / "other")
        other.git("tag", "first", other.commit({"größe/a.json": b"another's"}))
        monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
        assert file_at("first", file) == b"old"

    @pytest.mark.parametrize(
        ("revision", "name", "reason"),
        [
            ("second", "a.json", "fatal: invalid object name 'second'"),
            ("first", "c.json", "does not exist in 'first'"),
            ("first", "deeper", "bad file"),
            ("--batch", "a.json", "fatal: invalid object name '--batch'"),
        ],
    )
    def test_what_is_not_there_has_gits_reason(self, file: Path, revision: str, name: str, reason: str) -> None:
        with pytest.raises(CommitError, match=f"^{revision}: expected a revision with {name}, found none") as raised:
            file_at(revision, file.with_name(name))
        assert reason in raised.value.reason

    def test_outside_any_repository(self, tmp_path: Path) -> None:
        with pytest.raises(CommitError) as raised:
            file_at("HEAD", tmp_path / "a.json")
        assert "not a git repository" in raised.value.reason

    def test_nothing_large_is_read(self, git: GitRepository, file: Path) -> None:
        with pytest.raises(CommitError, match=r"a\.json: expected at most 2 bytes a file, found 3"):
            Repository(git.root, CommitLimits(blob_bytes=2)).file("first", file.relative_to(git.root))

    def test_without_git_it_says_so(self, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(NoGitError, match=r"^git: expected it to run, found: No such file or directory"):
            file_at("first", file)
