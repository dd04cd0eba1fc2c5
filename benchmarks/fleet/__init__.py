"""The fleet simulator: the controller's own decisions, and those of others, against traces; see docs/simulator.md."""

from benchmarks.fleet.benchmark import run

__all__ = ["run"]
