"""Ids of processes that share their memory at the start."""

import multiprocessing

from core.ids import new_id


def test_a_forked_process_makes_ids_of_its_own() -> None:
    with multiprocessing.get_context("fork").Pool(1) as child:
        theirs = set(child.apply(_hundred_ids))
    assert theirs.isdisjoint(_hundred_ids())


def _hundred_ids() -> list[str]:
    return [new_id() for _ in range(100)]
