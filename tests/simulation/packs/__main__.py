"""`python -m tests.simulation.packs --histories 10000 --seed 7`: play many random histories, and print figures.

It ends with status 1 at the first history that breaks a promise, and prints the shortest one that it finds.
"""

import argparse
import time

from tests.simulation.packs.histories import play_many


def main() -> None:
    """Play histories in portions, so that something is seen of long runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.packs")
    parser.add_argument("--histories", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for first in range(options.seed, options.seed + options.histories, 1_000):
        seeds = range(first, min(first + 1_000, options.seed + options.histories))
        figures = (
            f"{dict(play_many(seeds))}; {seeds.stop - options.seed} histories, {time.process_time():.0f} s of CPU"
        )
        print(figures, flush=True)  # noqa: T201 - a command


if __name__ == "__main__":
    main()
