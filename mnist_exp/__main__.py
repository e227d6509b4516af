"""`python -m mnist_exp`."""

import sys

from mnist_exp.commands.cli import main

sys.exit(main())
