"""What this machine's processor is, as far as the system tells."""

import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


@cache
def processor() -> str:
    """The name and kind of this machine's processor, or "unknown" where the system does not tell.

    Both, because the libraries that torch computes with choose their code by the kind, and not by
    the instruction set alone.
    """
    fields = _fields()
    if fields is None:  # no Linux
        return platform.processor() or "unknown"
    labels = {"model name": "", "cpu family": "family ", "model": "model "}
    labels |= {"CPU implementer": "implementer ", "CPU part": "part "}  # ARM
    known = [f"{label}{fields[key]}" for key, label in labels.items() if fields.get(key)]
    return ", ".join(known) or "unknown"


def instruction_sets() -> str:
    """What it can do beyond its kind, as in "sse2 avx2", or "" where the system does not tell."""
    fields = _fields() or {}
    return fields.get("flags") or fields.get("Features", "")  # the latter on ARM


def _fields() -> dict[str, str] | None:
    """What Linux says of the last core."""
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return None
    parts = [line.partition(":") for line in lines]
    return {key.strip(): value.strip() for key, _, value in parts}
