"""A small client of GitHub's REST API, of the standard library only.

No library is installed for it. Where its token may write, nothing else is installed in the job either, nox neither: it
runs as plain `python3 -m tools.github` (tests/workflows/rules.py).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.errors import UserError
from tools.store.strict_json import Json, parse
from tools.text import printable

TIMEOUT_S = 30.0
PER_PAGE = 100
MAX_PAGES = 50
MAX_BYTES = 16 << 20
ATTEMPTS = 3
_PASSING = frozenset({500, 502, 503, 504})
"""Transient server errors: reading may simply be tried again."""

_LOCAL_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class ApiError(UserError):
    """GitHub can't be asked, or doesn't answer as expected."""


@dataclass(frozen=True)
class Api:
    """repository as OWNER/NAME; paths are given below it, as in `/pulls/12`."""

    base: str
    token: str
    repository: str
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Api:
        """GITHUB_API_URL, GITHUB_TOKEN, GITHUB_REPOSITORY. ApiError: one is missing or not what it should be."""
        base = environment.get("GITHUB_API_URL", "https://api.github.com").rstrip("/")
        url = urllib.parse.urlsplit(base)
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in _LOCAL_HOSTS):
            raise ApiError(f"GITHUB_API_URL: expected an https:// address, found {printable(base)!r}.")
        token, repository = environment.get("GITHUB_TOKEN", ""), environment.get("GITHUB_REPOSITORY", "")
        if not re.fullmatch(r"[!-~]+", token):
            raise ApiError("GITHUB_TOKEN: expected a token, found none. Fix: env: GITHUB_TOKEN: ${{ github.token }}.")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+", repository):
            raise ApiError(f"GITHUB_REPOSITORY: expected OWNER/NAME, found {printable(repository)!r}.")
        return cls(base, token, repository)

    @property
    def owner(self) -> str:
        return self.repository.partition("/")[0]

    def get(self, path: str, **query: str | int) -> Json:
        """ApiError: no such thing, or no answer; after a transient server error it asks again."""
        for attempt in range(1, ATTEMPTS):
            try:
                return self._ask("GET", path, query)
            except _PassingError:
                self.sleep(float(attempt))
        return self._ask("GET", path, query)

    def pages(self, path: str, **query: str | int) -> Iterator[Json]:
        """Every item of a list, page by page."""
        for page in range(1, MAX_PAGES + 1):
            items = self.get(path, **query, per_page=PER_PAGE, page=page)
            if not isinstance(items, list):
                raise ApiError(f"GET {path}: expected a list, found {type(items).__name__}.")
            yield from items
            if len(items) < PER_PAGE:
                return
        raise ApiError(f"GET {path}: expected at most {MAX_PAGES * PER_PAGE} items, found more.")

    def send(self, method: str, path: str, body: Mapping[str, Json]) -> Json:
        """POST or PATCH, once: a second try could do it twice."""
        return self._ask(method, path, {}, body)

    def _ask(
        self, method: str, path: str, query: Mapping[str, str | int], body: Mapping[str, Json] | None = None
    ) -> Json:
        what = f"{method} {path}"
        url = f"{self.base}/repos/{self.repository}{path}"
        request = urllib.request.Request(
            url + (f"?{urllib.parse.urlencode(query)}" if query else ""),
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
                "User-Agent": "fused-moe-configs",
                "X-GitHub-Api-Version": "2022-11-28",
            },
        )
        try:
            with _OPENER.open(request, timeout=TIMEOUT_S) as answer:
                data = answer.read(MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            raise _refusal(what, error) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise _PassingError(f"{what}: expected an answer, found: {printable(str(reason))[:200]}.") from error
        document, faults = parse(data)
        if len(data) > MAX_BYTES or faults:
            raise ApiError(f"{what}: expected JSON, found {'too much of it' if len(data) > MAX_BYTES else faults[0]}.")
        return document


class _PassingError(ApiError):
    """May be gone in a moment."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for this host alone; urllib would carry it along."""

    def redirect_request(self, *_arguments: Any, **_named: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _refusal(what: str, error: urllib.error.HTTPError) -> ApiError:
    limit = _rate_limit(error)
    if limit is not None:
        return ApiError(f"{what}: expected an answer, found GitHub's rate limit. Fix: try again {limit}.")
    said = f"{what}: expected an answer, found HTTP {error.code} ({_message(error)})."
    if error.code in _PASSING:
        return _PassingError(said)
    hints = {401: "is the token valid?", 403: "which permission does the job lack?", 404: "is it there, and readable?"}
    return ApiError(f"{said} Fix: {hints[error.code]}" if error.code in hints else said)


def _rate_limit(error: urllib.error.HTTPError) -> str | None:
    """When to try again; None: that isn't it."""
    if error.code not in (403, 429):
        return None
    after, reset = error.headers.get("Retry-After"), error.headers.get("X-RateLimit-Reset")
    if after and after.isascii() and after.isdigit():
        return f"in {int(after[:9])} s"
    if error.headers.get("X-RateLimit-Remaining") == "0" and reset and reset.isascii() and reset.isdigit():
        return f"in {max(0, int(reset[:12]) - int(time.time()))} s"
    return "later" if error.code == 429 else None


def _message(error: urllib.error.HTTPError) -> str:
    """GitHub's own word, on one line."""
    data = b""
    with contextlib.suppress(OSError, http.client.HTTPException):
        data = error.read(65536)
    document, _ = parse(data)
    message: Any = document.get("message") if isinstance(document, dict) else None
    return printable(str(message or error.reason))[:200]
