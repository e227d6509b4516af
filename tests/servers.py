"""What tests of servers share."""

import time
import urllib.request

import pytest


def wait_until_healthy(address: str) -> None:
    """Return when MLflow's server at `address` answers; fail after two minutes."""
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/health").close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"{address} does not answer")
