"""`python -m tests.simulation.data_path --histories 40000 --seed 7`: play many random histories, and print figures.

It ends with status 1 at the first history that breaks a promise, and prints the shortest one that it finds.
"""

import argparse
import time

from tests.simulation.data_path.machine import STEPS, play


def main() -> None:
    """Play histories in portions, so that something is seen of long runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.data_path")
    parser.add_argument("--histories", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--portion", type=int, default=1_000, help="histories between two lines of figures")
    options = parser.parse_args()
    began, played = time.process_time(), 0
    for number in range(0, options.histories, options.portion):
        portion = min(options.portion, options.histories - number)
        tally = play(portion, options.seed + number)
        played += portion
        seconds = time.process_time() - began
        figures = f"{played} histories, {played * STEPS} steps, {seconds:.0f} s of CPU"
        print(f"{figures}; the last portion: {dict(tally)}", flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    main()
