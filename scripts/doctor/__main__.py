"""`python -m scripts.doctor`: the command where packages may be missing; `scripts/fleetsight` runs it.

Exit status: 0 without a problem, 1 with one, 2 for wrong usage.
"""

import sys

from fleetsight_client.terminal import clean_terminal_output
from scripts.doctor.command import main

if __name__ == "__main__":
    clean_terminal_output()
    sys.exit(main())
