"""What is raised for what a user can put right. Anything else that is raised is a defect.

ExpectedError                                  one line, exit code 2
├── tracking.UnreachableError                  the store does not answer: a run waits for it
├── tracking.store.DeletedError                the experiment was deleted: a restore may go on
├── tracking.PrunedError                       a run ends early, since its study asks for that
├── tracking.ExportError                       a network is not kept; its run goes on
├── FullMemoryError                            a run or a group of seeds is too large for it
├── training.loop.NonFiniteLossError           a run ends, and resuming it would not help
├── engine.library.UnavailableError            there is no compiled engine: torch alone trains
├── runs.blame.IterationError                  a mistake in the file of an iteration
└── training.axes.ReceptiveFieldError          a run has no table, and says why
"""

from mnist_exp.common.words import printable


class ExpectedError(Exception):
    """Something that the user can put right; its text is one line that says what and how.

    The command line prints it without a traceback and exits with 2.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class FullMemoryError(ExpectedError):
    """There is no memory left, of a graphics card or of the machine."""


def is_of_full_memory(error: Exception) -> bool:
    """Whether it says that there is no memory left, that of a graphics card or of the machine."""
    name = type(error).__name__
    return name in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in str(error)
