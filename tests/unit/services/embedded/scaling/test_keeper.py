"""Groups get back what has ended: at once, and ever more slowly while it keeps ending."""

from dataclasses import dataclass, field

from services.embedded.scaling.keeper import LONGEST_PAUSE_SECONDS, QUIET_SECONDS, Keeper


@dataclass(eq=False)
class Groups:
    """One group whose instances end again and again, on a clock of its own."""

    now: float = 1000.0
    ends: bool = True
    replaced: list[float] = field(default_factory=list)

    def keep(self, _group: object) -> bool:
        if self.ends:
            self.replaced.append(self.now)
        return self.ends

    def look_for(self, keeper: Keeper, seconds: int) -> None:
        for _ in range(seconds):
            keeper.look()
            self.now += 1


def keeper_of(groups: Groups) -> Keeper:
    return Keeper(lambda: [groups], groups.keep, lambda: groups.now)


def test_what_ends_again_and_again_is_replaced_ever_more_slowly() -> None:
    groups = Groups()
    groups.look_for(keeper_of(groups), 300)
    pauses = [after - before for before, after in zip(groups.replaced, groups.replaced[1:], strict=False)]
    assert groups.replaced[0] == 1000
    assert pauses[:6] == [1, 2, 4, 8, 16, 32]
    assert set(pauses[6:]) == {LONGEST_PAUSE_SECONDS}


def test_after_a_quiet_time_a_replacement_is_at_once_again() -> None:
    groups = Groups()
    keeper = keeper_of(groups)
    groups.look_for(keeper, 20)
    groups.ends = False
    groups.look_for(keeper, 20 + int(QUIET_SECONDS))
    groups.ends, before = True, len(groups.replaced)
    groups.look_for(keeper, 3)
    assert len(groups.replaced) == before + 2


def test_a_group_that_lacks_nothing_is_left_alone() -> None:
    groups = Groups(ends=False)
    groups.look_for(keeper_of(groups), 10)
    assert groups.replaced == []
