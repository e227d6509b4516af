"""Proxies of the environment: not asked for this machine, and named where they fail."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

from mnist_exp import tracking
from mnist_exp.tracking import proxies


class _NoServer(BaseHTTPRequestHandler):
    """A proxy that finds no server behind it, or asks for a login."""

    code = 502

    def do_GET(self) -> None:
        self.send_error(self.code)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("code", [502, 407])
def test_a_proxy_that_fails_is_named(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_NoServer, "code", code)
    with HTTPServer(("127.0.0.1", 0), _NoServer) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        port = proxy.server_address[1]
        for variable, server in (("http_proxy", "http://tracking.example"),
                                 ("ALL_PROXY", "http://192.0.2.1:5000")):  # fmt: skip
            with monkeypatch.context() as patch:
                for own in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                    patch.delenv(own, raising=False)
                patch.setenv("MLFLOW_TRACKING_URI", server)
                patch.setenv(variable, f"http://user:secret@127.0.0.1:{port}")
                with pytest.raises(tracking.UnreachableError) as refused:
                    tracking.runs()
            said = str(refused.value)
            assert f"it does not answer ({code} " in said
            assert f"through the proxy http://127.0.0.1:{port}, which" in said
            assert f"NO_PROXY={server.split('/')[2].split(':')[0]} asks it directly" in said
            assert "secret" not in said
        proxy.shutdown()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "[::1]", "LOCALHOST"])
@pytest.mark.parametrize("spared", ["", "example.org", "a, b", "localhost", "*"])
def test_no_proxy_is_asked_for_a_server_on_this_machine(
    host: str, spared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As requests decides it, by which MLflow asks."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("NO_PROXY", spared)
    proxies.spare_this_machine()
    assert requests.utils.get_environ_proxies(f"http://{host}:5000/health") == {}
    others = requests.utils.get_environ_proxies("http://tracking.example/health")
    assert ("http" in others) == (spared != "*")
