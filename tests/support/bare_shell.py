"""Takes from the environment what a user's shell, or a git hook, says to the program: the tests say
it themselves. Imported before the program, which reads some of it at import."""

import os
from pathlib import Path

MAKES = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "PYTHON"}
for name in list(os.environ):
    # Git's say which repository is meant.
    if name.startswith(("MLFLOW_", "_MLFLOW_", "GIT_")) or name in MAKES:
        del os.environ[name]

if data := os.environ.get("MNIST_EXP_DATA"):
    os.environ["MNIST_EXP_DATA"] = str(Path(data).absolute())  # some tests work in other folders

# Whoever reaches the internet through a proxy does not reach the servers of the tests through it.
spared = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
os.environ["no_proxy"] = ",".join(filter(None, [spared, "127.0.0.1", "localhost"]))
os.environ["NO_PROXY"] = os.environ["no_proxy"]
