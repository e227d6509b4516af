"""Runs that are killed, or told to end."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from mlflow import MlflowClient
from trials import AT_ONCE, PROMPT, Bench, Row, Trial, points, until_ended


def signals(bench: Bench, times: int, sign: signal.Signals, each: int = 6) -> Row:
    """Signal runs at random moments, each up to `each` times, until it was done `times` times."""
    row = Row(sign.name)
    slowest = [0.0]

    def disturb(lane: int, number: int) -> None:
        trial, twin = bench.trial(f"{sign.name}-{lane}", number)
        for _ in range(each):
            process, said = trial.start()
            if not twin.wait(process, trial.command):
                break
            _send(process.pid, sign)
            slowest[0] = max(slowest[0], until_ended(process))
            row.injected += 1
            if sign != signal.SIGKILL and process.exitcode != 0:
                _check_ending(trial, said.read_text(), process.exitcode, row)
            if trial.ended() or bench.enough(row, times):
                break
        trial.to_the_end(row, twin)

    def take_turns(lane: int) -> None:
        for number in bench.turns(row, times):
            disturb(lane, number)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(take_turns, range(AT_ONCE)))
    if sign != signal.SIGKILL:
        remark = f"slowest end {slowest[0]:.1f} s of processor time"
        row.lose(remark) if slowest[0] > PROMPT else row.remarks.append(remark)
    return row


def _send(process_id: int, sign: signal.Signals) -> None:
    """Send a signal; that of a closed terminal twice, as the kernel and the shell do."""
    for _ in range(2 if sign == signal.SIGHUP else 1):
        with suppress(ProcessLookupError):
            os.kill(process_id, sign)
        time.sleep(random.uniform(0, 0.05))


def _check_ending(trial: Trial, said: str, code: int, row: Row) -> None:
    """Of a run that was told to end: it says so, is KILLED, and the store has what it printed."""
    if trial.under_way():
        return row.lose(f"{code}, and still under way: {said[-300:]}")
    begun = trial.begun()
    if not begun or trial.ended():  # before its first checkpoint, or after its end
        return None
    kept = MlflowClient(trial.uri).get_run(begun)
    printed = said.count("\nepoch ")
    recorded = points(trial.uri, begun).query("metric == 'test/errors'")["step"].max()
    fine = code == 130 and kept.info.status == "KILLED"
    fine &= "make resume RUN=" in said or not printed
    if not fine or (printed and not recorded >= printed):
        row.lose(f"{code} {kept.info.status} {printed} {recorded}: {said[-200:]}")
    return None
