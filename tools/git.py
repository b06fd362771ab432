"""A repository, read with git as data: nothing is checked out, filtered or run. The edge to git.

What is read may be hostile, so whatever could grow without bound (a tree that unfolds, a blob of gigabytes) is
measured before it is read. Names and contents never reach a command line: git is asked by object name, on stdin.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.errors import UserError, reason_of
from tools.findings import Finding, Severity
from tools.store.files import MAX_BYTES
from tools.text import printable, shown

REGULAR = "100644"
EXECUTABLE = "100755"
SYMLINK = "120000"
SUBMODULE = "160000"

TIMEOUT_S = 60

# The repository's own settings can name programs (a monitor, hooks, a helper for missing objects) and files.
_SAFE_SETTINGS = (
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    f"core.attributesFile={os.devnull}",
    f"core.excludesFile={os.devnull}",
    "core.quotePath=false",
    "diff.external=",
    "protocol.allow=never",
)


class CommitError(UserError):
    """A commit that can't be read as asked. One line for a person; `finding` has its parts.

    reason: in git's or the system's own words, where there are any.
    """

    def __init__(self, where: str, message: str, fix: str, reason: str = "") -> None:
        super().__init__(f"{where}: {message}. Fix: {fix}.")
        self.finding = Finding(where, "commit", Severity.ERROR, message, fix)
        self.reason = reason


class NoGitError(CommitError):
    """git itself can't be run."""


@dataclass(frozen=True)
class Entry:
    """A tree's entry: mode as git writes it, type of the object, its name."""

    mode: str
    kind: str
    sha: str


@dataclass(frozen=True)
class CommitLimits:
    """What is read at most: files and folders at a commit, bytes and seconds of its listing, bytes of blobs."""

    entries: int = 100_000
    listing_bytes: int = 32 * 1024 * 1024
    listing_s: float = TIMEOUT_S
    blob_bytes: int = MAX_BYTES
    total_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True)
class Repository:
    """A git repository on disk. Every method raises CommitError where git fails or a limit is passed.

    The commit of 40 zeros, as a push event calls what was before the first push, is there and holds no file.
    """

    root: Path
    limits: CommitLimits = CommitLimits()

    def commit(self, revision: str) -> str:
        """The commit that a revision of a trusted person names."""
        if revision == NOTHING:
            return NOTHING
        answer = self._ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        sha = answer.stdout.decode("ascii", "replace").strip()
        if answer.returncode or not is_sha(sha):
            message = "expected a commit of this repository, found none"
            raise CommitError(shown(revision), message, "correct the revision, or fetch it")
        return sha

    def has_commit(self, sha: str) -> bool:
        """Whether the object of this very name is here and is a commit, not a tag of one."""
        answer = self._ask("cat-file", "--batch-check", stdin=_lines([sha]))
        return answer.stdout.split()[:2] == [sha.encode(), b"commit"]

    def ref(self, name: str) -> str | None:
        """The commit that a full reference (`refs/…`) stands at; None: there is no such reference."""
        answer = self._ask("rev-parse", "--verify", "--quiet", "--end-of-options", name)
        return answer.stdout.decode("ascii", "replace").strip() if answer.returncode == 0 else None

    def newest_tag(self, pattern: str) -> str | None:
        """The last tag behind HEAD whose name fits a trusted person's pattern (`v20*`); None: there is none."""
        answer = self._ask("describe", "--tags", "--abbrev=0", f"--match={pattern}")
        return answer.stdout.decode("utf-8", "replace").strip() if answer.returncode == 0 else None

    def first_commit(self) -> str | None:
        """The oldest commit without a parent behind HEAD; None: there is no commit."""
        answer = self._ask("rev-list", "--max-parents=0", "HEAD")
        return answer.stdout.decode("ascii", "replace").split()[-1] if answer.returncode == 0 else None

    def merge_base(self, base: str, head: str) -> str:
        """Where `head` left `base`; both are commits' whole names."""
        if base == NOTHING:
            return NOTHING
        answer = self._ask("merge-base", "--end-of-options", base, head)
        sha = answer.stdout.decode("ascii", "replace").strip()
        if answer.returncode or not is_sha(sha):
            message = f"expected a common ancestor with {base[:12]}, found none"
            fix = "fetch the whole history (git fetch --unshallow), or rebase the branch on main"
            raise CommitError(head[:12], message, fix)
        return sha

    def changed_since(self, revision: str) -> tuple[str, ...]:
        """Paths that differ, in the working tree, from where HEAD's history left the revision's.

        Since the commit of 40 zeros every tracked file has changed. Bytes that aren't UTF-8 come as surrogates.
        """
        if revision == NOTHING:
            answer = self._ask("ls-files", "-z")
        else:
            names = ("--merge-base", "--name-only", "--no-renames", "--no-ext-diff", "-z")
            answer = self._ask("diff", *names, "--end-of-options", revision, "--")
        if answer.returncode:
            reason = shown(answer.stderr.decode("utf-8", "replace").strip().partition("\n")[0])
            message = f"expected a revision with a common history, found none ({reason})"
            raise CommitError(shown(revision), message, "correct it, or fetch the whole history")
        return tuple(name.decode("utf-8", "surrogateescape") for name in answer.stdout.split(b"\0") if name)

    def tree(self, sha: str) -> Mapping[str, Entry]:
        """Every file at a commit by its path from the root. Bytes that aren't UTF-8 come as surrogates."""
        if sha == NOTHING:
            return {}
        lines = [line for line in self._listing(sha).split(b"\0") if line]
        if len(lines) > self.limits.entries:
            raise _too_large(sha, f"{self.limits.entries} files and folders", str(len(lines)))
        entries: dict[str, Entry] = {}
        for line in lines:
            meta, _, path = line.partition(b"\t")
            mode, kind, name = meta.decode("ascii").split(" ")
            decoded = path.decode("utf-8", "surrogateescape")
            if decoded in entries:
                message = f"expected a path once at {sha[:12]}, found it twice"
                raise CommitError(shown(decoded), message, "make the commit anew")
            entries[decoded] = Entry(mode, kind, name)
        return {path: entry for path, entry in entries.items() if entry.kind != "tree"}

    def sizes(self, shas: Iterable[str]) -> Mapping[str, int]:
        """Bytes of each blob, without reading any."""
        wanted = list(dict.fromkeys(shas))
        answer = self._ask("cat-file", "--batch-check", stdin=_lines(wanted))
        sizes: dict[str, int] = {}
        for sha, line in zip(wanted, answer.stdout.decode("ascii", "replace").splitlines(), strict=False):
            parts = line.split(" ")
            if parts[:2] == [sha, "blob"]:
                sizes[sha] = int(parts[2])
        if answer.returncode or len(sizes) < len(wanted):
            message = f"expected the contents of {len(wanted)} files, found {len(sizes)} in this repository"
            raise CommitError("objects", message, "fetch them (a partial clone isn't filled up here)")
        return sizes

    def blobs(self, shas: Iterable[str]) -> Mapping[str, bytes]:
        """The bytes of blobs. Their sizes are asked for first, so that nothing large is ever unpacked."""
        sizes = self.sizes(shas)
        largest, total = max(sizes.values(), default=0), sum(sizes.values())
        if largest > self.limits.blob_bytes:
            message = f"expected at most {self.limits.blob_bytes} bytes a file, found {largest}"
            raise CommitError("objects", message, "make it smaller: nothing larger is read")
        if total > self.limits.total_bytes:
            message = f"expected at most {self.limits.total_bytes} bytes in all, found {total}"
            raise CommitError("objects", message, "split the change over several pull requests")
        answer = self._ask("cat-file", "--batch", stdin=_lines(sizes))
        return dict(_contents(answer.stdout, sizes))

    def file(self, revision: str, path: Path) -> bytes:
        """The bytes of the file `path`, below `root`, at a revision that a trusted person names.

        CommitError: no repository, no such revision, or no such file there, as `reason` says in git's own words.
        """
        # `./`: where `root` is no repository's, git looks for one above it.
        name = f"{revision}:./{path.as_posix()}"
        # Not `git show`: it takes a range for an answer without a line in it.
        size = int(self._of_revision(revision, path, "-s", name))
        if size > self.limits.blob_bytes:
            message = f"expected at most {self.limits.blob_bytes} bytes a file, found {size}"
            raise CommitError(shown(path.name), message, "make it smaller: nothing larger is read", message)
        return self._of_revision(revision, path, "blob", name)

    def _of_revision(self, revision: str, path: Path, what: str, name: str) -> bytes:
        answer = self._ask("cat-file", what, "--end-of-options", name)
        if answer.returncode:
            reason = printable(answer.stderr.decode("utf-8", "replace").strip().split("\n")[0])
            message = f"expected a revision with {shown(path.name)}, found none ({reason})"
            raise CommitError(shown(revision), message, "correct the revision, or fetch it", reason)
        return answer.stdout

    def _listing(self, sha: str) -> bytes:
        """What `ls-tree` prints, broken off where it takes too long: a tree of trees can unfold without end.

        Folders are listed too (-t), or trees without a file would unfold in silence.
        """
        command = self._command("ls-tree", "-r", "-t", "-z", "--full-tree", "--end-of-options", sha)
        is_late = threading.Event()

        def stop() -> None:
            is_late.set()
            child.kill()

        with self._start(command) as child, _after(self.limits.listing_s, stop):
            assert child.stdout is not None
            listing: bytes = child.stdout.read(self.limits.listing_bytes + 1)
            if is_late.is_set():
                raise _too_large(sha, f"{self.limits.listing_s:g} s to list its files", "no end of it")
            if len(listing) > self.limits.listing_bytes:
                child.kill()
                raise _too_large(sha, f"a listing of {self.limits.listing_bytes} bytes", "a longer one")
            child.stdout.close()
            if child.wait(TIMEOUT_S):
                raise CommitError(sha[:12], "expected a commit whose files can be listed, found none", "fetch it")
        return listing

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                command, env=_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise _no_git(error) from error

    def _ask(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                self._command(*arguments),
                env=_environment(),
                input=stdin,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:  # ValueError: a NUL in an argument
            raise _no_git(error) from error

    def _command(self, *arguments: str) -> list[str]:
        # The folder holds the code that runs here, so whoever owns it is trusted already.
        settings = (*_SAFE_SETTINGS, f"safe.directory={self.root}")
        return ["git", "-C", str(self.root), "--no-pager", *(f for s in settings for f in ("-c", s)), *arguments]


@contextlib.contextmanager
def _after(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    """Does something unless the block ends before."""
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _environment() -> dict[str, str]:
    """Ours without git's variables, which could move the repository, its objects or its settings elsewhere."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return {
        **inherited,
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }


def _contents(answer: bytes, sizes: Mapping[str, int]) -> Iterable[tuple[str, bytes]]:
    """`cat-file --batch` answers in order: a line `NAME blob SIZE`, the bytes, a newline."""
    at = 0
    for sha, size in sizes.items():
        start = answer.find(b"\n", at) + 1
        if answer[at:start] != f"{sha} blob {size}\n".encode() or len(answer) < start + size + 1:
            raise CommitError(sha[:12], f"expected a blob of {size} bytes, found another answer", "run git fsck")
        yield sha, answer[start : start + size]
        at = start + size + 1


def _lines(shas: Iterable[str]) -> bytes:
    return "".join(f"{sha}\n" for sha in shas).encode("ascii")


def _too_large(sha: str, expected: str, found: str) -> CommitError:
    return CommitError(sha[:12], f"expected at most {expected}, found {found}", "make the commit smaller")


def _no_git(error: Exception) -> NoGitError:
    if isinstance(error, subprocess.TimeoutExpired):
        found = f"no answer within {TIMEOUT_S} s"
        return NoGitError(
            "git", f"expected one, found {found}", "try again; if it stays so, name a smaller commit", found
        )
    found = shown(reason_of(error))
    return NoGitError("git", f"expected it to run, found: {found}", "install git, or correct the revision", found)


def file_at(revision: str, path: Path) -> bytes:
    """The bytes that a work tree's file has at a revision. Errors as of `Repository.file`."""
    folder = path.absolute().parent.resolve()
    root = next((place for place in (folder, *folder.parents) if (place / ".git").exists()), folder)
    return Repository(root).file(revision, (folder / path.name).relative_to(root))


# Names of commits, as GitHub's events write them.

NOTHING = "0" * 40
"""What a push event calls the commit before a branch's first one: there was nothing, so everything is new."""

_SHA = re.compile(r"[0-9a-f]{40}")


def is_sha(text: object) -> bool:
    """Whether it is a commit's whole name, in lower case."""
    return isinstance(text, str) and _SHA.fullmatch(text) is not None
