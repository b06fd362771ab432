"""A GitHub of our own on 127.0.0.1: repositories, pull requests, comments and issues, paged as the real one pages."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY = "configs/fused-moe"
TOKEN = "ghs_secret"
BOT = "github-actions[bot]"


@dataclass(frozen=True)
class Trouble:
    """What is answered instead, once."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b'{"message": "so it is"}'


@dataclass
class GitHub:
    """What is there, and everything that was asked."""

    pulls: list[dict[str, Any]] = field(default_factory=list)
    comments: list[dict[str, Any]] = field(default_factory=list)
    issues: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return {"GITHUB_API_URL": self.url, "GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": REPOSITORY}

    def add_pull(
        self,
        number: int,
        sha: str,
        branch: str = "tuned",
        repository: str | None = REPOSITORY,
        *,
        state: str = "open",
        base: str = "main",
    ) -> None:
        repo = None if repository is None else {"full_name": repository}
        owner = (repository or "ghost/gone").partition("/")[0]
        head = {"sha": sha, "ref": branch, "repo": repo, "label": f"{owner}:{branch}"}
        self.pulls.append(
            {"number": number, "state": state, "head": head, "base": {"ref": base}, "html_url": f"#{number}"}
        )

    def add_comment(self, body: str, author: str = BOT) -> None:
        number = len(self.comments) + 1
        self.comments.append({"id": number, "body": body, "user": {"login": author}, "html_url": f"#c{number}"})

    def add_issue(self, body: str, author: str = BOT, **changes: Any) -> None:
        number = len(self.issues) + 1
        issue = {"id": 1000 + number, "number": number, "state": "open", "title": "old", "body": body}
        self.issues.append({**issue, "user": {"login": author}, "html_url": f"#i{number}", **changes})

    # -----------------------------------------------------------

    def answer(self, method: str, path: str, query: Mapping[str, str], body: Any) -> Any:
        """The document; LookupError: no such thing."""
        parts = tuple(path.removeprefix(f"/repos/{REPOSITORY}").strip("/").split("/"))
        match (method, *parts):
            case ("GET", ""):
                return {"full_name": REPOSITORY, "default_branch": "main"}
            case ("GET", "pulls"):
                return page([p for p in self.pulls if self._is_asked_for(p, query)], query)
            case ("GET", "pulls", number):
                return one(self.pulls, number=int(number))
            case ("POST", "pulls"):
                self.add_pull(100 + len(self.pulls), "a" * 40, body["head"], base=body["base"])
                self.pulls[-1] |= {"title": body["title"], "body": body["body"]}
                return self.pulls[-1]
            case ("PATCH", "pulls", number):
                return self._update(one(self.pulls, number=int(number)), body)
            case ("GET", "issues", _, "comments"):
                return page(self.comments, query)
            case ("POST", "issues", _, "comments"):
                self.add_comment(body["body"])
                return self.comments[-1]
            case ("PATCH", "issues", "comments", number):
                return self._update(one(self.comments, id=int(number)), body)
            case ("GET", "issues"):
                found = [
                    i for i in self.issues if i["state"] == query["state"] and i["user"]["login"] == query["creator"]
                ]
                return page(found, query)
            case ("POST", "issues"):
                self.add_issue(body["body"], title=body["title"])
                return self.issues[-1]
            case ("PATCH", "issues", number):
                return self._update(one(self.issues, number=int(number)), body)
        raise LookupError(path)

    def _is_asked_for(self, pull: Mapping[str, Any], query: Mapping[str, str]) -> bool:
        wanted = {"state": pull["state"], "head": pull["head"]["label"], "base": pull["base"]["ref"]}
        return all(query.get(name, value) == value for name, value in wanted.items())

    def _update(self, item: dict[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
        item.update(body)
        return item


def one(items: list[dict[str, Any]], **wanted: int) -> dict[str, Any]:
    for item in items:
        if wanted.items() <= item.items():
            return item
    raise LookupError(wanted)


def page(items: list[dict[str, Any]], query: Mapping[str, str]) -> list[dict[str, Any]]:
    size, number = int(query["per_page"]), int(query["page"])
    return items[size * (number - 1) : size * number]


@contextmanager
def serving(github: GitHub) -> Iterator[GitHub]:
    """Answers on a port of its own until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            url = urlsplit(self.path)
            github.requests.append((self.command, url.path.removeprefix(f"/repos/{REPOSITORY}")))
            github.tokens.add(self.headers.get("Authorization"))
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            if github.troubles:
                trouble = github.troubles.pop(0)
                return self.reply(trouble.status, trouble.body, trouble.headers)
            try:
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                document = github.answer(self.command, url.path, query, body)
            except LookupError:
                return self.reply(404, b'{"message": "Not Found"}', {})
            return self.reply(200, json.dumps(document).encode(), {})

        do_GET = do_POST = do_PATCH = handle_one  # noqa: N815

        def reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    github.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield github
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
