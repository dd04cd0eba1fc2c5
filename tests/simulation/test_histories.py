"""The named histories of packs, played by the product with a fault at each of their writes."""

import pytest

from tests.simulation.data_path.histories import HISTORIES, play_history
from tests.simulation.data_path.mutants import MUTANTS


@pytest.mark.parametrize("name", HISTORIES)
def test_no_fault_at_any_write_of_a_history_breaks_a_promise(name: str) -> None:
    play_history(HISTORIES[name], max_images=50, faults=1)


@pytest.mark.parametrize("name", HISTORIES)
def test_no_history_breaks_a_promise_with_packs_of_one(name: str) -> None:
    play_history(HISTORIES[name], max_images=1, faults=0)


@pytest.mark.parametrize("guard", MUTANTS)
def test_a_history_breaks_a_promise_without_a_guard(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[guard].remove(monkeypatch)
    with pytest.raises(AssertionError):
        play_history(HISTORIES[MUTANTS[guard].shown_by], max_images=50, faults=1)


@pytest.mark.thorough
@pytest.mark.parametrize("name", HISTORIES)
def test_no_fault_at_any_write_breaks_a_promise_with_packs_of_three(name: str) -> None:
    play_history(HISTORIES[name], max_images=3, faults=2)
