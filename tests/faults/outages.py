"""A tracking server that goes away, and comes back."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

from servers import free_port, wait_until_healthy
from trials import Bench, Row, Trial, until_ended


class Proxy:
    """Passes connections on to a port of this machine, until it is cut."""

    def __init__(self, target: int) -> None:
        self.target, self.open = target, True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            if not self.open:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            self.connections += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                sink.sendall(content)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """Close every connection, in the middle of whatever it carries, and take no new one."""
        self.open = False
        for end in self.connections:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.connections.clear()


def outages(bench: Bench, times: int) -> Row:
    """Cut a tracking server off at random moments, for up to the length of a run."""
    row = Row("tracking server cut off")
    shutil.copytree(bench.fresh, bench.space / "served")
    port = free_port()
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{bench.space}/served/mlflow.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", f"--port={port}", "--workers=1"]
    with (bench.space / "server.txt").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    codes = []
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}")
        proxy = Proxy(port)
        for number in bench.turns(row, times):
            codes += _outage(bench, row, number, proxy)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    ended, resumed = codes.count(0), codes.count(2)
    row.remarks.append(f"{ended} went on to their end, {resumed} had to be resumed")
    if len(codes) > ended + resumed:
        row.lose(f"exit codes {codes}")
    return row


def _outage(bench: Bench, row: Row, number: int, proxy: Proxy) -> list[int]:
    """Cut the server off from one run; returns its exit code, or nothing where it was too late."""
    model = list(bench.twins)[number % len(bench.twins)]
    twin = bench.twins[model]
    served = bench.space / "served"
    trial = Trial(served, bench.fresh, model, bench.space, f"http://127.0.0.1:{proxy.port}")
    process, said = trial.start()
    long = number % 2
    if long:
        process.join(random.uniform(0, twin.seconds))
    else:  # in the middle of the training, and not for long
        while "\nepoch " not in said.read_text() and process.exitcode is None:
            process.join(0.02)
    if process.exitcode is not None:
        return []
    proxy.cut()
    row.injected += 1
    process.join(random.uniform(0, twin.seconds if long else 0.5))
    proxy.open = True
    until_ended(process)
    trial.to_the_end(row, twin)
    return [process.exitcode]
