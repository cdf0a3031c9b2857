"""Images to cache, and a web server on this machine that fails on request."""

import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cache_images import SIZE, CountedImages, draw

from datamodules.cache import open_pixels


class Server:
    """Serves `files` (path -> bytes). Each request uses up one of `faults`; requests after the last one succeed.

    A fault is a dict: status, content_type, length (claimed), stop (bytes sent before it breaks off), stall (seconds of
    silence then), trickle (seconds after each byte), endless, no_range, range_lie.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etag: str | None = '"one"'
        self.faults: list[dict] = []
        self.always: dict = {}
        self.requests: list[tuple[str, str | None]] = []
        self.address = ""
        self.closing = threading.Event()


def answer(server: Server, handler: BaseHTTPRequestHandler) -> None:
    wanted = handler.headers.get("Range")
    server.requests.append((handler.path, wanted))
    fault = server.faults.pop(0) if server.faults else server.always
    content = server.files.get(handler.path)
    status = fault.get("status", 200 if content is not None else 404)
    content = content if content is not None and status < 400 else b"<html>no</html>"
    start = 0
    if status == 200 and wanted and not fault.get("no_range") and handler.headers.get("If-Range") == server.etag:
        start = int(wanted.removeprefix("bytes=").rstrip("-"))
        status = 206 if start < len(content) else 416
    handler.send_response(status)
    if status == 206:
        place = start + fault.get("range_lie", 0)
        handler.send_header("Content-Range", f"bytes {place}-{len(content) - 1}/{len(content)}")
    if server.etag:
        handler.send_header("ETag", server.etag)
    handler.send_header("Content-Type", fault.get("content_type", "application/octet-stream"))
    if fault.get("length", True) is not None:
        handler.send_header("Content-Length", str(fault.get("length", len(content) - start)))
    handler.end_headers()
    body = content[start:]
    while fault.get("endless") and not server.closing.is_set():
        handler.wfile.write(bytes(1 << 16))
    for byte in body if fault.get("trickle") else b"":
        handler.wfile.write(bytes([byte]))
        time.sleep(fault["trickle"])
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
                answer(server, self)

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
        options = {"size": SIZE, "policy": "pad", "cache_dir": tmp_path / "cache", "progress": False} | options
        return source, open_pixels(source, **options)

    return opener
