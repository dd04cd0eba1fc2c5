"""The rules of packs, played before the product has them: no fault breaks a promise, and each guard is needed.

The worlds, the promises and the rules are in `tests/simulation/packs`.
"""

import pytest

from tests.simulation.packs.histories import play_many
from tests.simulation.packs.rules import Guard
from tests.simulation.packs.scenes import SCENES, play_scene

HISTORIES = 300
"""For each seed."""
SEEDS = (0, 1, *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(2, 12)))
LEAST = {"faults": 1_000, "kills": 1_000, "freezes": 20, "images": 2_000, "children": 300}
"""What the histories of a seed have of each, or they prove little."""

MUTANTS = [(guard, name) for name, scene in SCENES.items() for guard in scene.needs]
"""Each guard that is taken out, and the scene that shows it."""


@pytest.mark.parametrize("seed", SEEDS)
def test_no_random_history_of_packs_breaks_a_promise(seed: int) -> None:
    happened = play_many(range(10_000 * seed, 10_000 * seed + HISTORIES))
    assert {what: happened[what] for what, least in LEAST.items() if happened[what] < least} == {}


@pytest.mark.parametrize("name", SCENES)
def test_no_fault_at_any_write_of_a_scene_breaks_a_promise(name: str) -> None:
    play_scene(SCENES[name])


@pytest.mark.parametrize(("guard", "name"), MUTANTS)
def test_a_promise_is_broken_without_a_guard(guard: Guard, name: str) -> None:
    with pytest.raises(AssertionError):
        play_scene(SCENES[name], guard)


def test_each_guard_is_needed_by_a_scene() -> None:
    assert {guard for guard, _ in MUTANTS} == set(Guard)
