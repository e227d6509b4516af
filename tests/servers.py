"""What tests of servers share."""

import socket
import time
import urllib.request

import pytest


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(address: str) -> None:
    """Return when MLflow's server at `address` answers; fail after two minutes."""
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/health").close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"{address} does not answer")
