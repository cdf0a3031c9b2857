"""Images to cache, and a local web server that simulates failures."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cache_images import SIZE, CountedImages, draw

from datamodules.cache import open_pixels
from datamodules.cache.config import CacheConfig


class Server:
    """Serves `files` (path -> bytes). Each request uses up one of `faults`; after the last one, it uses `always`.

    A fault is a dict: status, content_type, stop (bytes sent before the connection breaks), stall (seconds without data
    before that). An empty dict is no fault.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: list[dict] = []
        self.always: dict = {}
        self.requests: list[str] = []  # paths
        self.address = ""
        self.closing = threading.Event()


def respond(server: Server, handler: BaseHTTPRequestHandler) -> None:
    server.requests.append(handler.path)
    fault = server.faults.pop(0) if server.faults else server.always
    content = server.files.get(handler.path)
    status = fault.get("status", 200 if content is not None else 404)
    body = content if content is not None and status < 400 else b"<html>no</html>"
    handler.send_response(status)
    handler.send_header("Content-Type", fault.get("content_type", "application/octet-stream"))
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: fault.get("stop", len(body))])
    handler.wfile.flush()
    server.closing.wait(fault.get("stall", 0))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                respond(server, self)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{http.server_address[1]}"
    try:
        yield server
    finally:
        server.closing.set()
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        draw(folder / f"{number}.{'png' if number % 2 else 'jpg'}", number)
    return folder


@pytest.fixture
def opened(root, tmp_path):
    """Open the folder's cache as a new run would."""

    def opener(**options):
        source = CountedImages(root)
        size, policy = options.pop("size", SIZE), options.pop("policy", "pad")
        config = CacheConfig(**{"cache_dir": tmp_path / "cache"} | options)
        return source, open_pixels(source, size, policy, config, progress=False)

    return opener
