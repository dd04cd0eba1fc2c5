"""The machine of a worker: which images and models end a process is not the worker's to decide."""

from typing import TYPE_CHECKING

from tests.simulation.data_path.scheduler import KilledError, Process

if TYPE_CHECKING:
    from tests.simulation.packs.world import World

Content = tuple[str, int]
"""What a picture does, and its number: `good`, `slow`, `broken` (no image), `hang`, `poison` (ends the process that
classifies it), `machine` (ends the whole worker, also from a child)."""


class Machine:
    """Runs networks, in the worker or in a child; keeps in the world what is evidence against an image."""

    def __init__(self, world: "World", process: Process) -> None:
        self._world, self._process = world, process
        self.is_draining, self.has_memory = False, True

    def answers_grey(self, model: str, *, is_second: bool) -> bool:
        """Return whether a child loads a model, perhaps as the `is_second` network, and answers a grey picture."""
        return model != "broken" and (self.has_memory or not is_second)

    def classify(self, content: Content, image: tuple[str, int], *, in_child: bool) -> str | None:
        """Return a label or `broken`, or None if the child ended or the batch hangs; an image may end the worker."""
        kind, number = content
        self._world.in_turn[self._process] = image
        if kind == "slow":
            self._world.scheduler.sleep(40.0)
        if kind == "machine" or (kind == "poison" and not in_child):
            self._world.deaths[image] += kind == "poison"
            self._end()
        self._world.in_turn.pop(self._process, None)
        if kind in {"poison", "hang"}:
            self._world.children[image] += in_child
            return None
        return "broken" if kind == "broken" else f"label-{number}"

    def fail(self) -> None:
        """End the worker: it cannot work, or its model ended it."""
        self._world.failed_workers += 1
        self._end()

    def _end(self) -> None:
        self._world.kill(self._process)
        raise KilledError
