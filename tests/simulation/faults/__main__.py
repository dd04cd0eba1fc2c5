"""`python -m tests.simulation.faults --schedules 10000`: play many random schedules of faults, and print figures.

It ends with status 1 at the first schedule that breaks a promise, and prints the shortest one that it finds.
"""

import argparse
import random
import time

from tests.simulation.faults.schedules import play


def main() -> None:
    """Play schedules in portions, so that something is seen of long runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.faults")
    parser.add_argument("--schedules", type=int, default=1_000)
    parser.add_argument("--portion", type=int, default=200, help="schedules between two lines of figures")
    options = parser.parse_args()
    began, played = time.process_time(), 0
    for number in range(0, options.schedules, options.portion):
        tally = play(min(options.portion, options.schedules - number), random.randrange(2**32))
        played += tally["schedules"]
        seconds = time.process_time() - began
        print(f"{played} schedules, {seconds:.0f} s of CPU; the last portion: {dict(tally)}", flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    main()
