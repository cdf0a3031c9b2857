import http.server
import logging
import threading

import pytest
import timm
import torch

from lightning_modules.backbones import hub, pretrained
from lightning_modules.backbones.backbone import create_backbone
from litesort.errors import ModelError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)  # the client reads it at import
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serve(monkeypatch):
    """Local server: serve(status) starts it with a fixed status code and returns its URL."""
    servers = []

    def start(status: int) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("status", "reachable"), [(200, True), (404, True), (403, False), (503, False)])
def test_unreachable_reason_requests_endpoint(monkeypatch, serve, status, reachable):
    monkeypatch.setenv("HF_ENDPOINT", serve(status))
    assert (hub.unreachable_reason() == "") == reachable


def test_unreachable_reason_uses_proxy(monkeypatch, serve):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    assert "cannot be reached" in hub.unreachable_reason()
    monkeypatch.setenv("http_proxy", serve(200))
    assert hub.unreachable_reason() == ""


def test_unreachable_reason_times_out(monkeypatch):
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *_, **__: threading.Event().wait())
    assert "did not respond in 0.1 s" in hub.unreachable_reason(timeout=0.1)


def test_unreachable_reason_respects_offline_mode(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("urllib.request.OpenerDirector.open", lambda *_, **__: pytest.fail("network access"))
    assert "HF_HUB_OFFLINE" in hub.unreachable_reason()


def test_pretrained_auto_warns_and_starts_from_scratch(monkeypatch, caplog):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING):
        net = create_backbone("lcnet_050", 4)
    assert net.origin == "scratch"
    assert len(caplog.records) == 1
    assert "NO PRETRAINED WEIGHTS for lcnet_050" in caplog.text


def test_pretrained_true_error_names_weights_file(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelError, match=r"no weights for lcnet_050 .*give model\.weights=FILE") as error:
        create_backbone("lcnet_050", 4, pretrained=True)
    assert "\n" not in str(error.value)


def test_pretrained_auto_starts_from_scratch_if_the_download_fails(monkeypatch):
    logged = []
    monkeypatch.setattr(pretrained.log, "warning", lambda text, *values: logged.append(text % values))
    monkeypatch.setattr(hub, "unreachable_reason", lambda: "")
    real = timm.create_model

    def broken(name, pretrained=False, **kwargs):
        if pretrained:
            raise ConnectionResetError("connection lost\nsecond line")
        return real(name, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", broken)
    assert create_backbone("lcnet_050", 4).origin == "scratch"
    assert "ConnectionResetError: connection lost)" in logged[-1]


def test_pretrained_false_uses_no_network(monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("network access"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("network access"))
    assert create_backbone("lcnet_050", 4, pretrained=False).origin == "scratch"


def test_pretrained_uses_local_cache_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trained = timm.create_model("lcnet_050")
    torch.hub.set_dir(str(tmp_path))
    try:
        file = tmp_path / "checkpoints" / trained.pretrained_cfg["url"].rsplit("/", 1)[-1]
        file.parent.mkdir()
        torch.save(trained.state_dict(), file)
        net = create_backbone("lcnet_050", 4, pretrained=True)
    finally:
        torch.hub._hub_dir = None
    assert net.origin == "cache"
    torch.testing.assert_close(net.net.conv_stem.weight, trained.conv_stem.weight)
