"""Proxies that the environment names: which servers are asked through one, and by whose name it
goes when that fails."""

import os
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from mnist_exp.tracking.address import without_secrets

THIS_MACHINE = "localhost", "127.0.0.0/8", "::1"
"""Hosts that a proxy, on another machine, takes for itself."""


def spare_this_machine() -> None:
    """Ask no proxy for a server on this machine, here and in processes that are started here.

    By the variable that says so to all programs, since MLflow leaves no other way.
    """
    spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    missing = [host for host in THIS_MACHINE if host not in spared.replace(" ", "").split(",")]
    if spared.strip() != "*" and missing:
        # Both, since the first of them that is set is the one that counts.
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(filter(None, [spared, *missing]))


def by_proxy(address: str) -> str:
    """How a server is asked, to go on in a line that says that it does not answer: "" if directly,
    else with the name of the proxy."""
    proxy = select_proxy(address, get_environ_proxies(address))
    if not proxy:
        return ""
    host = urlsplit(address).hostname
    return (
        f" through the proxy {without_secrets(proxy)}, which http_proxy, https_proxy or all_proxy "
        f"names (NO_PROXY={host} asks it directly)"
    )
