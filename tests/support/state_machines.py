"""Plays Hypothesis state machines from a seed, without their logs."""

import logging

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test


def play_seeded(
    machine: type[RuleBasedStateMachine], runs: int, first_seed: int, *, steps: int, shrink: bool = True
) -> None:
    """Play random runs of a state machine.

    Args:
        machine: the state machine.
        runs: how many.
        first_seed: decides the runs, as long as the machine's module is the same.
        steps: most steps of a run.
        shrink: whether to look for the shortest run that fails, once one does.

    Raises:
        Exception: what the first failing run raised; its notes are the shortest one found.
    """
    logging.disable(logging.CRITICAL)  # the code under test logs every fault
    try:
        run_state_machine_as_test(
            seed(first_seed)(machine),
            settings=settings(
                max_examples=runs,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        logging.disable(logging.NOTSET)
