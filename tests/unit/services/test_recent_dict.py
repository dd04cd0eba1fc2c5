"""The dictionary of bounded size."""

from services.recent_dict import RecentDict


def test_the_oldest_entry_is_dropped_beyond_the_maximum() -> None:
    recent = RecentDict[str, int](2)
    recent["a"] = 1
    recent |= {"b": 2, "c": 3}
    assert list(recent.items()) == [("b", 2), ("c", 3)]


def test_an_entry_that_is_set_again_is_the_latest() -> None:
    recent = RecentDict[str, int](2)
    recent |= {"a": 1, "b": 2}
    recent["a"] = 3
    recent["c"] = 4
    assert list(recent.items()) == [("a", 3), ("c", 4)]
