"""As much of GitHub's API as the workflows' tools ask for, on 127.0.0.1. It keeps what it was told."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.workflows.act import REPOSITORY

BOT = {"login": "github-actions[bot]", "type": "Bot"}


@dataclass
class FakeGitHub:
    """State, as a test sets it up and looks at it afterwards."""

    url: str = ""
    pulls: dict[int, dict[str, Any]] = field(default_factory=dict)
    comments: list[dict[str, Any]] = field(default_factory=list)
    issues: list[dict[str, Any]] = field(default_factory=list)
    writes: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, token
    push_once_seen: dict[int, str] = field(default_factory=dict)  # a new head, right after the API told the old one

    def open_pull(self, number: int, branch: str, sha: str, *, owner: str, title: str = "Tune it") -> dict[str, Any]:
        user = {"login": owner}
        repository = {"full_name": f"{owner}/fused-moe-configs", "owner": user, "fork": True}
        head = {"ref": branch, "sha": sha, "label": f"{owner}:{branch}", "repo": repository, "user": user}
        base = {"ref": "main", "repo": {"full_name": REPOSITORY}}
        pull = {"number": number, "state": "open", "title": title, "body": "", "user": user, "head": head, "base": base}
        self.pulls[number] = pull
        return pull

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """Status and document."""
        path = path.removeprefix(f"/repos/{REPOSITORY}")
        match re.sub(r"\d+", "N", f"{method} {path}"), int((re.findall(r"\d+", path) or [0])[0]):
            case "GET ", _:
                return 200, {"default_branch": "main"}
            case "GET /pulls", _:
                wanted = query.get("head")
                numbers = [n for n, pull in self.pulls.items() if wanted in (None, pull["head"]["label"])]
                return 200, [self._tell(number) for number in numbers]
            case "GET /pulls/N", number if number in self.pulls:
                return 200, self._tell(number)
            case "POST /pulls", _:
                self.pulls[len(self.pulls) + 100] = {**body, "number": len(self.pulls) + 100, "html_url": self.url}
                return 201, self.pulls[max(self.pulls)]
            case "GET /issues/N/comments", number:
                return 200, [comment for comment in self.comments if comment["issue"] == number]
            case "POST /issues/N/comments", number:
                self.comments.append({"id": len(self.comments) + 1, "issue": number, "user": BOT, **body})
                return 201, self.comments[-1]
            case "PATCH /issues/comments/N", number:
                self.comments[number - 1].update(body)
                return 200, self.comments[number - 1]
            case "GET /issues", _:
                return 200, self.issues
            case "POST /issues", _:
                self.issues.append({"number": len(self.issues) + 1, "state": "open", "user": BOT, **body})
                return 201, self.issues[-1]
            case "PATCH /issues/N", number:
                self.issues[number - 1].update(body)
                return 200, self.issues[number - 1]
        return 404, {"message": f"the fake knows no {method} {path}"}

    def _tell(self, number: int) -> dict[str, Any]:
        told = copy.deepcopy(self.pulls[number])
        if number in self.push_once_seen:
            self.pulls[number]["head"]["sha"] = self.push_once_seen.pop(number)
        return told


@contextmanager
def serving() -> Iterator[FakeGitHub]:
    """The fake, behind a port of this machine alone."""
    github = FakeGitHub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if self.command != "GET":
                token = (self.headers.get("Authorization") or "").split(" ")[-1]
                github.writes.append((self.command, parts.path, token))
            page = int(query.get("page", 1))
            status, document = github.answer(self.command, parts.path, query, body)
            payload = json.dumps([] if isinstance(document, list) and page > 1 else document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PATCH = answer  # noqa: N815 (the server looks these names up)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    github.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield github
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
