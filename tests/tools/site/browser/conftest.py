"""A real browser, and sites on a local server, below a path as on project pages."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Response, sync_playwright

from tests.tools.site.stores import hostile, hostile_measurements, store_at
from tools.checkout import CHECKOUT, CONFIGS
from tools.site.build import Sources, write

PROGRAMS = ("google-chrome", "google-chrome-stable", "chromium", "chromium-browser")
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
BELOW = "fused-moe-configs"
"""The site's folder on its server."""


def find_browser() -> str:
    """Its program. AssertionError: there is none."""
    program = os.environ.get("CHROME") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    assert program, f"expected one of {', '.join(PROGRAMS)}, found none. Fix: apt-get install chromium, or set $CHROME"
    return program


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=find_browser(), args=list(QUIET))
        yield started
        started.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sites: this repository's, an attacker's and an empty one."""
    folder = tmp_path_factory.mktemp("www")
    real = Sources(CONFIGS, CHECKOUT / "docs" / "measurements", f"https://example.org/{BELOW}", "a" * 40)
    write(real, folder / BELOW, os.cpu_count() or 1)
    stores = tmp_path_factory.mktemp("stores")
    nasty = Sources(hostile(stores / "nasty").root, hostile_measurements(stores / "m"), "https://example.org/nasty")
    write(nasty, folder / "nasty")
    write(Sources(store_at(stores / "empty").root, stores / "none", "https://example.org/empty"), folder / "empty")
    return folder


@pytest.fixture(scope="session")
def server(root: Path) -> Iterator[str]:
    """Its address, without the last slash."""
    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


Open = Callable[..., Page]


def is_bad(reply: Response) -> bool:
    """304 is none: whether the browser asks again for what it has is its own affair."""
    return not reply.ok and reply.status != 304


@pytest.fixture
def open_page(browser: Browser, server: str) -> Iterator[Open]:
    """Opens a path in a window of its own. Whatever the browser complains of fails the test, and so does any request
    to another host.
    """
    complaints: list[str] = []
    contexts = []

    def open_page(path: str, site: str = BELOW, **options: object) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if server not in request.url else None)
        page.on("response", lambda reply: complaints.append(f"{reply.status} {reply.url}") if is_bad(reply) else None)
        page.goto(f"{server}/{site}/{path}")
        if path.startswith("server.html") and options.get("java_script_enabled") is not False:
            page.wait_for_selector("#answer")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
