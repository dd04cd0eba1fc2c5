"""Random schedules of faults, by a hypothesis state machine: each step is a fault, an order, images, or time."""

from collections import Counter
from typing import Any, ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.simulation.faults.machines import NEVER, FailureMode
from tests.simulation.faults.world import CrashPlan, World, settings_of
from tests.support.autoscaler import POLICY_SETTINGS
from tests.support.state_machines import play_seeded
from web_tier.autoscaler.policies import POLICIES

GOOD: Final = FailureMode()
FATES: Final = (
    GOOD,
    FailureMode(boots=80.0),
    FailureMode(boots=NEVER),
    FailureMode(hangs=45.0),
    FailureMode(dies=3.0),
    FailureMode(dies=50.0),
    FailureMode(noticed=40.0),
    FailureMode(powers_off=False),
)
"""What may become of an instance: well, slow, never there, hung, dead at boot, dead later, taken back, never off."""
OPERATIONS: Final = ("describe", "run", "start", "tag", "end", "table")
LAUNCH_FAULTS: Final = (
    "lost",
    "timeout",
    "late",
    "InsufficientInstanceCapacity",
    "VcpuLimitExceeded",
    "RequestLimitExceeded",
)
TYPES: Final = ("c7a.large", "c6a.large")
STEPS: Final = 20
spans = st.sampled_from((1, 5, 20, 60, 150))


class BrokenError(AssertionError):
    """Raised when a schedule has led to what must never happen."""


class Schedule(RuleBasedStateMachine):
    """One schedule; `tally` counts what all of them did, and what happened that must never happen."""

    tally: ClassVar[Counter[str]] = Counter()

    world: World

    @initialize(
        policy=st.sampled_from(list(POLICIES)),
        scale_in=st.sampled_from(("terminate", "stop")),
        market=st.sampled_from(("on_demand", "spot")),
        most=st.sampled_from((1, 2, 3, 5, 8)),
        least=st.integers(0, 2),
        lifetime=st.sampled_from((86_400.0, 100.0)),
        seed=st.integers(0, 1_000),
    )
    def begin(
        self, *, policy: str, scale_in: str, market: str, most: int, least: int, lifetime: float, seed: int
    ) -> None:
        """A fleet that has nothing to do yet."""
        market = "on_demand" if scale_in == "stop" else market
        changes = {**POLICY_SETTINGS.get(policy, {}), "policy": policy, "scale_in": scale_in, "market": market}
        changes |= {"max_lifetime_seconds": lifetime, "launch_template": "worker"}
        changes |= {"max_workers": most, "min_workers": min(least, most), "instance_types": TYPES}
        self.world = World(settings_of(**changes), seed)
        self.world.run(3)

    @rule(images=st.sampled_from((1, 10, 30, 100)), passing=spans)
    def images_come(self, images: int, passing: int) -> None:
        """People upload."""
        self.world.queues.send(images)
        self.world.run(passing)

    @rule(passing=spans)
    def time_passes(self, passing: int) -> None:
        """Nothing new happens."""
        self.world.run(passing)

    @rule(
        lag=st.sampled_from((0, 5, 20, 60)), cost=st.sampled_from((0.0, 0.2, 1.0)), fails=st.booleans(), passing=spans
    )
    def descriptions_lag_or_fail(self, lag: int, cost: float, fails: bool, passing: int) -> None:
        """DescribeInstances is slow to learn, so costly that it is reused for up to 20 s, or refuses for a while."""
        self.world.cloud.faults.describe_lag = float(lag)
        self.world.cloud.faults.describe_cpu = cost
        self._for_a_while("describe_fails", fails, passing)

    @rule(tags=st.booleans(), ends=st.booleans(), passing=spans)
    def tags_and_ends_are_refused(self, tags: bool, ends: bool, passing: int) -> None:
        """CreateTags, DeleteTags, TerminateInstances refuse for a while."""
        self.world.cloud.faults.tags_fail = tags
        self._for_a_while("ends_fail", ends, passing)
        self.world.cloud.faults.tags_fail = False

    @rule(fault=st.sampled_from(LAUNCH_FAULTS), images=st.sampled_from((0, 30)), passing=spans)
    def the_next_launch_fails(self, fault: str, images: int, passing: int) -> None:
        """A launch or start is refused, or its reply is lost."""
        self.world.cloud.faults.launch = fault
        self.world.queues.send(images)
        self.world.run(passing)

    @rule(kind=st.sampled_from(TYPES), spot=st.booleans(), room=st.sampled_from((0, 1, 3, 1_000)))
    def capacity_changes(self, kind: str, spot: bool, room: int) -> None:
        """A type has little room, or room again."""
        self.world.cloud.faults.room[kind, spot] = room

    @rule(
        lag=st.sampled_from((0, 10, 60)),
        factor=st.sampled_from((0.0, 0.5, 1.0, 3.0)),
        fails=st.booleans(),
        passing=spans,
    )
    def counts_are_wrong(self, lag: int, factor: float, fails: bool, passing: int) -> None:
        """The queue's counts are old, too low, too high, or cannot be had."""
        queues = self.world.queues
        queues.counts_lag, queues.counts_factor, queues.counts_fail = float(lag), factor, fails
        self.world.run(passing)
        queues.counts_lag, queues.counts_factor, queues.counts_fail = 0.0, 1.0, False

    @rule(lag=st.sampled_from((0, 5, 30, 90)), passing=spans)
    def the_listener_lags(self, lag: int, passing: int) -> None:
        """The collector is behind, so that it receives heartbeats late."""
        self.world.queues.listener_lag = float(lag)
        self.world.run(passing)

    @rule(failure_modes=st.lists(st.sampled_from(FATES), min_size=1, max_size=3))
    def instances_turn_out_badly(self, failure_modes: list[FailureMode]) -> None:
        """From now on boots end in one of these ways, or well."""
        self.world.failure_modes = (GOOD, *failure_modes)

    @rule(failure_modes=st.sampled_from(FATES[2:5]), passing=spans)
    def every_boot_fails(self, failure_modes: FailureMode, passing: int) -> None:
        """For a while no new worker is any good."""
        before, self.world.failure_modes = self.world.failure_modes, (failure_modes,)
        self.world.run(passing)
        self.world.failure_modes = before

    @rule(
        operation=st.sampled_from(OPERATIONS),
        moment=st.sampled_from(("before", "after")),
        frozen=st.sampled_from((0, 8, 40, 130)),
        images=st.sampled_from((0, 30)),
        lag=st.sampled_from((0, 20, 60)),
        passing=spans,
    )
    def the_controller_dies_or_freezes(
        self, operation: str, moment: Any, frozen: int, images: int, lag: int, passing: int
    ) -> None:
        """At its next such call the controller dies, or freezes while another acquires its lease; then it resumes."""
        self.world.cloud.faults.describe_lag = float(lag)
        self.world.crash_plan = CrashPlan(operation, moment, float(frozen))
        self.world.queues.send(images)
        self.world.run(passing)

    @rule(most=st.sampled_from((0, 1, 3, 8)), least=st.integers(0, 2), passing=spans)
    def ops_change_the_limits(self, most: int, least: int, passing: int) -> None:
        """Other limits are in force from now on."""
        self.world.set_limits(max_workers=most, min_workers=min(least, most))
        self.world.run(passing)

    @rule(version=st.sampled_from((1, 2, 3)), passing=spans)
    def ops_roll_to_a_version(self, version: int, passing: int) -> None:
        """The launch template has another default version from now on."""
        self.world.cloud.default_version = version
        self.world.run(passing)

    @rule(passing=spans)
    def ops_pause_the_fleet(self, passing: int) -> None:
        """The fleet is paused for a while."""
        self.world.pause(on=True)
        self.world.run(passing)
        self.world.pause(on=False)

    @rule(fails=st.booleans(), passing=spans)
    def the_table_fails(self, fails: bool, passing: int) -> None:
        """The job table refuses for a while."""
        self.world.store.fails = fails
        self.world.run(passing)
        self.world.store.fails = False

    @invariant()
    def nothing_happened_that_must_never_happen(self) -> None:
        """Never more than the maximum; nothing ended that was well."""
        if hasattr(self, "world"):
            self._check()

    def teardown(self) -> None:
        """When every fault is over, everything is answered, and ten minutes later nothing is left."""
        if not hasattr(self, "world"):
            return
        self.world.finish()
        self.tally.update(self.world.tally())
        self._check()

    def _check(self) -> None:
        if self.world.violations:
            self.tally.update(each.kind for each in self.world.violations)
            raise BrokenError([f"{each.kind}: {each.words}" for each in self.world.violations])

    def _for_a_while(self, fault: str, value: bool, passing: int) -> None:
        setattr(self.world.cloud.faults, fault, value)
        self.world.run(passing)
        setattr(self.world.cloud.faults, fault, False)


def play(schedules: int, first_seed: int, *, shrink: bool = True) -> Counter[str]:
    """Play so many random schedules; return what happened in all of them.

    Args:
        schedules: how many.
        first_seed: decides them, as long as this module is the same.
        shrink: whether to look for the shortest schedule that breaks a promise, once one does.

    Raises:
        BrokenError: what must never happen has happened; its notes are the shortest schedule found that leads there.
    """
    Schedule.tally = Counter()
    play_seeded(Schedule, schedules, first_seed, steps=STEPS, shrink=shrink)
    return Schedule.tally
