"""What make asks of the commands, before anything is installed: `python -m` this module.

Without arguments it lists them. With the goals of make, the names of what it was given, and the
targets that are no commands, it prints why it must not go on, if so.
"""

import sys

from mnist_exp.commands.arguments import meant, refuse_others, settings
from mnist_exp.commands.cli import COMMANDS, listing
from mnist_exp.common.errors import ExpectedError


def refusal(goals: list[str], given: list[str], others: list[str]) -> str:
    """Why make must not go on, in one line; empty if it may."""
    for goal in goals or ["help"]:
        taken = settings(COMMANDS[goal]) if goal in COMMANDS else ()
        try:
            refuse_others(f"make {goal}", [*taken, "PYTHON", "VENV"], given)
        except ExpectedError as error:
            known = [*COMMANDS, *others]
            return str(error) if goal in known else f"there is no make {goal}{meant(goal, known)}"
    return ""


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(listing("make"))
    else:
        goals, given, *others = sys.argv[1:]
        print(refusal(goals.split(), given.split(), others))
