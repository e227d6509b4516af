"""What is set up before MLflow is used, once in a process."""

import logging
import warnings

from mnist_exp.tracking import variables

log = logging.getLogger(__name__)


def start_up() -> None:
    """Called when `tracking` is imported, by whomever: from then on MLflow is quiet, hears
    nothing of the surroundings that would change what it writes, and is not interrupted within a
    transaction."""
    aside = variables.settle_variables()
    if aside:
        is_set = "is set, and ignored" if len(aside) == 1 else "are set, and ignored"
        log.warning(
            "%s %s: a run is always one of its own, in the store that MLFLOW_TRACKING_URI names",
            " and ".join([", ".join(aside[:-1]), aside[-1]] if aside[1:] else aside), is_set,
        )  # fmt: skip

    # Here, since most of them import MLflow.
    from sqlalchemy import Pool, event

    from mnist_exp.common import interrupts

    with warnings.catch_warnings():
        # A notebook without widgets would begin with it, for bars that nobody here draws.
        warnings.filterwarnings("ignore", "IProgress not found")
        from mnist_exp.tracking import mlflow_internals, proxies

    for noisy in ("mlflow", "alembic"):  # what goes wrong is raised as well as logged
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    mlflow_internals.skip_package_scan()
    proxies.spare_this_machine()
    # An interrupt within a transaction can leave it open, and the store locked, also for the one
    # who would say that the run has ended, until SQLite gives up waiting. So it waits for its end.
    event.listen(Pool, "checkout", lambda *_: interrupts.hold())
    event.listen(Pool, "checkin", lambda *_: interrupts.release())
