"""Virtual time: the product's threads as greenlets, which wait in no real time and share one core.

A task runs until it waits: for a call of a service, a lock, a future or a pause. What it has computed until then is
charged to the core in the CPU time that it really took here, so a slower implementation is slower in the model, too.
The core serves the tasks in turns of `TURN_SECONDS`, the switch interval of CPython's interpreter lock.

`virtualise` puts clocks, pauses, locks and executors of this module in place of the real ones in an object graph.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from heapq import heappop, heappush
from itertools import count
from types import FunctionType, MethodType, ModuleType, TracebackType
from typing import Any, Final, TypeVar

from greenlet import GreenletExit, getcurrent, greenlet

from web_tier.controller.result_recorder import JobLocks

EPOCH: Final = datetime(2026, 3, 2, tzinfo=UTC)
"""The wall clock at the virtual time 0."""

TURN_SECONDS: Final = 0.005
"""Longest turn of a task on the core while others want it
(https://docs.python.org/3/library/sys.html#sys.setswitchinterval)."""

MIN_CHARGE_SECONDS: Final = 0.0002
"""Less CPU time than this is charged later, with the next wait: a short lock is no reason to switch."""

SPEED_SECONDS: Final = 0.25
"""CPU time of a run after which the speed of the core is measured again."""

_T = TypeVar("_T")


class VirtualTime:
    """The clock, the tasks and the core.

    Args:
        core_speed: returns CPU time on the modelled core ÷ CPU time on this machine, as it is now: other processes
            slow it down. It is asked again and again. 0: computing takes no time, so that a run gives the same
            figures again.

    Attributes:
        now: seconds since the start.
        busy: seconds that the core has worked, by the name of the task.
        max_hold_seconds: the longest time for which a lock of each kind was held, in seconds.
    """

    def __init__(self, core_speed: Callable[[], float] = lambda: 1.0) -> None:
        self.now = 0.0
        self.busy: defaultdict[str, float] = defaultdict(float)
        self.max_hold_seconds: dict[str, float] = {}
        self._core_speed, self._speed, self._speed_until = core_speed, core_speed(), time.thread_time()
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = count()
        self._hub = getcurrent()
        self._names: dict[Any, str] = {}
        self._core_free_at = 0.0
        self._computing_since = 0.0
        self._is_closed = False

    def clock(self) -> float:
        """Return the seconds since the start."""
        return self.now

    def datetime(self) -> datetime:
        """Return the time of day."""
        return EPOCH + timedelta(seconds=self.now)

    def call_at(self, at: float, function: Callable[[], object]) -> None:
        """Call `function` at a time, outside of any task: it must not wait."""
        heappush(self._events, (max(at, self.now), next(self._numbers), function))

    def spawn(self, name: str, function: Callable[[], object]) -> None:
        """Start a task now."""

        def run() -> None:
            function()
            self.use_core()
            self._names.pop(getcurrent(), None)

        task = greenlet(run, self._hub)
        self._names[task] = name
        self._resume_at(self.now, task)

    def run_until(self, until: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until a moment, or until `is_over`, which is asked after each event."""
        while self._events and self._events[0][0] <= until and not is_over():
            self.now, _, function = heappop(self._events)
            function()
        if not is_over():
            self.now = max(self.now, until)

    def run_tasks(self, *functions: Callable[[], Any], within: float = 10_000.0) -> list[Any]:
        """Run functions as tasks; return what they returned, once all have ended.

        Raises:
            TimeoutError: some still wait after so many virtual seconds.
        """
        results: dict[int, Any] = {}

        def call(number: int, function: Callable[[], Any]) -> None:
            results[number] = function()

        for number, function in enumerate(functions):
            self.spawn(f"task-{number}", partial(call, number, function))
        self.run_until(self.now + within, lambda: len(results) == len(functions))
        if len(results) < len(functions):
            raise TimeoutError(f"{len(functions) - len(results)} tasks still wait after {within:g} s")
        return [results[number] for number in range(len(functions))]

    def close(self) -> None:
        """End all tasks. Otherwise Python would when it frees them, in the middle of another model's tasks."""
        self._is_closed = True
        for task in list(self._names):
            task.throw(GreenletExit)

    def sleep(self, seconds: float) -> None:
        """Let the current task wait for so many seconds."""
        self.use_core()
        self.wait_seconds(seconds)
        self.skip_charge()

    def wait_seconds(self, seconds: float) -> None:
        """Let the current task wait, without charging what it has computed."""
        self._resume_at(self.now + max(0.0, seconds), getcurrent())
        self._switch()

    def park(self, waiting: "deque[Any]", timeout: float | None = None) -> bool:
        """Let the current task wait in a queue until `wake` is called with it; return False after the timeout.

        The caller has charged the core before it found that it must wait: meanwhile no other task may have run.
        """
        task = getcurrent()
        entry = [task, False]
        waiting.append(entry)
        if timeout is not None:

            def expire() -> None:
                if not entry[1]:
                    waiting.remove(entry)
                    self._resume(task)

            self.call_at(self.now + timeout, expire)
        self._switch()
        self.skip_charge()
        return bool(entry[1])

    def wake(self, waiting: "deque[Any]", tasks: int = 1) -> None:
        """Let the first tasks of a queue go on."""
        for _ in range(min(tasks, len(waiting))):
            entry = waiting.popleft()
            entry[1] = True
            self._resume_at(self.now, entry[0])

    def use_core(self, more_seconds: float = 0.0, *, at_least: float = 0.0) -> None:
        """Charge to the core what the current task has computed since it went on, and `more_seconds`.

        It waits until the core has done that. Less than `at_least` is charged with the next use.
        """
        task = getcurrent()
        left = (time.thread_time() - self._computing_since) * self._speed + more_seconds
        if left <= at_least or task is self._hub or self._is_closed:
            return
        name = self._names.get(task, "")
        while left > 0:
            turn = min(left, TURN_SECONDS)
            left -= turn
            self._core_free_at = max(self._core_free_at, self.now) + turn
            self.wait_seconds(self._core_free_at - self.now)
            self.busy[name] += turn
        self.skip_charge()

    def skip_charge(self) -> None:
        """Leave out what was computed since the task went on: it belongs to the model."""
        self._computing_since = time.thread_time()

    def _switch(self) -> None:
        if self._is_closed:
            raise GreenletExit  # to a task that calls a service while it ends
        self._hub.switch()

    def _resume_at(self, at: float, task: Any) -> None:
        self.call_at(at, partial(self._resume, task))

    def _resume(self, task: Any) -> None:
        if time.thread_time() > self._speed_until:
            self._speed = self._core_speed()
            self._speed_until = time.thread_time() + SPEED_SECONDS
        self._computing_since = time.thread_time()
        task.switch()


class _Acquired(ABC):
    """What a task acquires for a `with` block."""

    @abstractmethod
    def acquire(self, blocking: bool = True) -> bool:
        """Acquire it; return whether it was acquired."""

    @abstractmethod
    def release(self) -> None:
        """Release it."""

    def __enter__(self) -> bool:
        """Acquire it."""
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release it."""
        self.release()


class VirtualLock(_Acquired):
    """A lock between tasks, reentrant; `kind` names it in `max_hold_seconds`, if it is given."""

    def __init__(self, virtual: VirtualTime, kind: str | None = None) -> None:
        self._virtual, self._kind = virtual, kind
        self._holder: Any = None
        self._depth, self._since = 0, 0.0
        self._waiting: deque[Any] = deque()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire it, waiting while another task holds it; return whether it was acquired."""
        task = getcurrent()
        if self._holder is not None and self._holder is not task:
            self._virtual.use_core()
        while self._holder is not None and self._holder is not task:
            if not blocking or not self._virtual.park(self._waiting, None if timeout < 0 else timeout):
                return False
        if self._holder is None:
            self._holder, self._since = task, self._virtual.now
        self._depth += 1
        return True

    def release(self) -> None:
        """Release it."""
        if self._depth == 1:
            self._virtual.use_core(at_least=MIN_CHARGE_SECONDS)
            if self._kind is not None:
                held, longest = self._virtual.now - self._since, self._virtual.max_hold_seconds
                longest[self._kind] = max(held, longest.get(self._kind, 0.0))
        self._depth -= 1
        if not self._depth:
            self._holder = None
            self._virtual.wake(self._waiting)

    def locked(self) -> bool:
        """Return whether a task holds it."""
        return self._holder is not None


class VirtualCondition:
    """A condition between tasks, over a lock of them."""

    def __init__(self, virtual: VirtualTime, lock: VirtualLock) -> None:
        self._virtual, self._lock = virtual, lock
        self._waiting: deque[Any] = deque()

    def __enter__(self) -> bool:
        """Acquire the lock."""
        return self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait to be notified; return False after the timeout."""
        self._virtual.use_core()
        self._lock.release()
        is_notified = self._virtual.park(self._waiting, timeout)
        self._lock.acquire()
        return is_notified

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until `predicate` holds; return whether it does, after the timeout at the latest."""
        until = None if timeout is None else self._virtual.now + timeout
        while not predicate():
            left = None if until is None else until - self._virtual.now
            if left is not None and left <= 0:
                return predicate()
            self.wait(left)
        return True

    def notify(self, n: int = 1) -> None:
        """Notify some of those that wait."""
        self._virtual.wake(self._waiting, n)

    def notify_all(self) -> None:
        """Notify all that wait."""
        self._virtual.wake(self._waiting, len(self._waiting))


class VirtualEvent:
    """An event between tasks."""

    def __init__(self, virtual: VirtualTime, *, is_set: bool = False) -> None:
        self._virtual, self._is_set = virtual, is_set
        self._waiting: deque[Any] = deque()

    def is_set(self) -> bool:
        """Return whether it is set."""
        return self._is_set

    def set(self) -> None:
        """Set it, and let all go on that wait for it."""
        self._is_set = True
        self._virtual.wake(self._waiting, len(self._waiting))

    def clear(self) -> None:
        """Reset it."""
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set; return False after the timeout."""
        self._virtual.use_core()
        return self._is_set or self._virtual.park(self._waiting, timeout)


class VirtualSemaphore(_Acquired):
    """A semaphore between tasks."""

    def __init__(self, virtual: VirtualTime, value: int) -> None:
        self._virtual, self._value = virtual, value
        self._waiting: deque[Any] = deque()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Acquire it, waiting while it is used up; return whether it was acquired."""
        self._virtual.use_core()
        while not self._value:
            if not blocking or not self._virtual.park(self._waiting, timeout):
                return False
        self._value -= 1
        return True

    def release(self, n: int = 1) -> None:
        """Release it."""
        self._value += n
        self._virtual.wake(self._waiting, n)


class VirtualFuture(Future[_T]):
    """A future for which a task waits in virtual time."""

    def __init__(self, virtual: VirtualTime) -> None:
        super().__init__()
        self._virtual = virtual
        self._parked: deque[Any] = deque()
        self.add_done_callback(lambda _: virtual.wake(self._parked, len(self._parked)))

    def result(self, timeout: float | None = None) -> _T:
        """Return the result, once there is one."""
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception, once the call has ended."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        self._virtual.use_core()
        if not self.done():
            self._virtual.park(self._parked, timeout)


class VirtualExecutor(Executor):
    """An executor with so many threads, each of which is a task."""

    def __init__(self, virtual: VirtualTime, max_workers: int, name: str = "pool") -> None:
        self._virtual, self._free, self._name = virtual, max_workers, name
        self._queue: deque[Callable[[], None]] = deque()

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """Let a thread call `fn`; it waits while all are busy."""
        future: VirtualFuture[_T] = VirtualFuture(self._virtual)

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 (as an executor does)
                self._virtual.use_core()
                future.set_exception(error)
            else:
                self._virtual.use_core()
                future.set_result(result)

        self._queue.append(call)
        if self._free:
            self._free -= 1
            self._virtual.spawn(self._name, self._work)
        return future

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,  # noqa: ARG002
    ) -> Iterator[_T]:
        """Let threads call `fn` for each item; return the results in the order of the items."""
        futures = [self.submit(fn, *items) for items in zip(*iterables, strict=False)]
        return (future.result(timeout) for future in futures)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Do nothing: tasks end with the model."""

    def _work(self) -> None:
        while self._queue:
            self._queue.popleft()()
        self._free += 1


_LOCKS: Final = (type(threading.Lock()), type(threading.RLock()))
_LEAVES: Final = (str, bytes, int, float, bool, type(None), type, datetime, timedelta, ModuleType)


def virtualise(virtual: VirtualTime, *roots: object, ours: tuple[str, ...]) -> None:
    """Replace clocks, pauses, locks and executors in all that can be reached from `roots` through attributes.

    Args:
        virtual: the virtual time.
        roots: objects, or methods of them.
        ours: the packages with the classes in which attributes are replaced.
    """
    replacements, seen = _Replacements(virtual), dict[int, object]()
    left: list[Any] = list(roots)
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, _LEAVES):
            continue
        seen[id(each)] = each
        left += _contents(each)
        if type(each).__module__.partition(".")[0] in ours:
            for name in _attributes(each):
                value = getattr(each, name)
                if (new := replacements.of(name, value)) is not value:
                    object.__setattr__(each, name, new)
                left.append(new)


class _Replacements:
    """What stands for a clock, a pause, a lock or an executor: for each one the same in all places."""

    def __init__(self, virtual: VirtualTime) -> None:
        self._virtual = virtual
        self._made: dict[int, Any] = {}
        self._real: list[object] = []

    def of(self, name: str, value: Any) -> Any:
        """Return what stands for the `value` of the attribute `name`; for most it is the value itself."""
        virtual = self._virtual
        if value is time.sleep:
            return virtual.sleep
        if value is time.monotonic or value is time.time:
            return virtual.clock
        if name.strip("_") == "now" and isinstance(value, FunctionType) and not value.__code__.co_argcount:
            return virtual.datetime
        return self._object(name, value)

    def _object(self, name: str, value: Any) -> Any:
        virtual = self._virtual
        if isinstance(value, JobLocks):
            return JobLocks(lambda: VirtualLock(virtual, "job"))
        if isinstance(value, _LOCKS):
            return self._once(value, lambda: VirtualLock(virtual))
        makers: dict[type, Callable[[Any], Any]] = {
            threading.Condition: lambda real: VirtualCondition(virtual, self._object(name, real._lock)),
            threading.Event: lambda real: VirtualEvent(virtual, is_set=real.is_set()),
            threading.Semaphore: lambda real: VirtualSemaphore(virtual, real._value),
            ThreadPoolExecutor: lambda real: VirtualExecutor(virtual, real._max_workers, name),
        }
        make = next((makers[kind] for kind in makers if isinstance(value, kind)), None)
        return value if make is None else self._once(value, lambda: make(value))

    def _once(self, real: object, make: Callable[[], Any]) -> Any:
        if id(real) not in self._made:
            self._real.append(real)  # so that no other object gets its id
            self._made[id(real)] = make()
        return self._made[id(real)]


def _contents(each: Any) -> list[Any]:
    """Return what a container, a method or a function refers to."""
    if isinstance(each, MethodType):
        return [each.__self__]
    if isinstance(each, FunctionType):
        return [cell.cell_contents for cell in each.__closure__ or ()]
    if isinstance(each, partial):
        return [each.func, *each.args, *each.keywords.values()]
    if isinstance(each, dict):
        return list(each.values())
    return list(each) if isinstance(each, list | tuple | set | frozenset | deque) else []


def _attributes(each: Any) -> list[str]:
    names = [field.name for field in fields(each)] if is_dataclass(each) else []
    return list(dict.fromkeys([*names, *getattr(each, "__dict__", {})]))
