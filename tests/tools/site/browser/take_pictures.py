"""`python -m tests.tools.site.browser.take_pictures SITE OUT`: pictures of pages, for docs/site/."""

from __future__ import annotations

import functools
import http.server
import sys
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from .conftest import QUIET, Quiet, find_browser

FILE = "files/e8-n7168-nvidia_h100_80gb_hbm3.html"
SERVER = "server.html?model=deepseek-ai/DeepSeek-V3&release=vllm+0.33.0&parallel=TP16&gpu=NVIDIA_H200"
DESK, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 1100}
PICTURES = (
    ("home", "index.html", DESK, "light"),
    ("home-dark-phone", "index.html?search=deepseek-r1#matrix-title", PHONE, "dark"),
    ("file", FILE, DESK, "light"),
    ("file-dark", FILE, DESK, "dark"),
    ("file-phone", FILE, PHONE, "light"),
    ("server", SERVER, DESK, "light"),
    ("server-dark-phone", SERVER, PHONE, "dark"),
    ("boards", "boards.html", DESK, "light"),
)


def take(site: Path, out: Path) -> None:
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, sync_playwright() as playwright:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(QUIET))
        for name, path, viewport, mode in PICTURES:
            page = browser.new_page(viewport=viewport, color_scheme=mode)
            page.goto(f"http://127.0.0.1:{server.server_port}/{path}", wait_until="networkidle")
            page.screenshot(path=out / f"{name}.png")
            page.close()
        server.shutdown()


if __name__ == "__main__":
    take(Path(sys.argv[1]), Path(sys.argv[2]))
