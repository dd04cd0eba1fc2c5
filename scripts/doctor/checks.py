"""Checks that run side by side, each with a time limit, and the report of their results."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fleetsight_client.terminal import printable

MAX_CHECK_SECONDS: Final = 30.0
"""The longest time that a check may take. All checks run at the same time, so it is that of the command, too."""

MAX_CHARACTERS: Final = 600
"""The longest text of a result; some services answer with a page of HTML."""


class Verdict(StrEnum):
    """How a check judges a part of the system. Only a problem keeps the system from working."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A result of a check.

    Attributes:
        found: the value that was found, as a sentence.
        remedy: a command, or a sentence; only a verdict of `OK` has none.
    """

    verdict: Verdict
    found: str
    remedy: str = ""


Check = Callable[[], Iterable[Diagnosis]]


def ok(found: str) -> Diagnosis:
    """Return the diagnosis of a part that is as it should be."""
    return Diagnosis(Verdict.OK, found)


def warning(found: str, remedy: str) -> Diagnosis:
    """Return the diagnosis of a part that limits the system, or could not be checked."""
    return Diagnosis(Verdict.WARNING, found, remedy)


def problem(found: str, remedy: str) -> Diagnosis:
    """Return the diagnosis of a part with which the system cannot work."""
    return Diagnosis(Verdict.PROBLEM, found, remedy)


def unknown(error: BaseException) -> Diagnosis:
    """Return the diagnosis of a check that an error has ended: nothing is known, so it is no problem."""
    if isinstance(error, ImportError):
        return warning(f"not checked: {error}", "./scripts/setup.sh run")
    return warning(
        f"not checked: {type(error).__name__}: {error}",
        "Remove the cause that the message names, and run the command again.",
    )


def run_checks(checks: Mapping[str, Check], seconds: float = MAX_CHECK_SECONDS) -> list[tuple[str, Diagnosis]]:
    """Return the results with the names of their checks, in the order of `checks`, after `seconds` at most.

    A check that raises an error or does not end hides no result of another one.
    """
    end = time.monotonic() + seconds
    futures = {name: _start(check) for name, check in checks.items()}
    results = []
    for name, future in futures.items():
        try:
            found = future.result(timeout=max(0.0, end - time.monotonic()))
        except TimeoutError:
            found = [warning(f"not checked: there was no result within {seconds:g} s", "Run the command again.")]
        results += [(name, each) for each in found]
    return results


def _start(check: Check) -> "Future[list[Diagnosis]]":
    future: Future[list[Diagnosis]] = Future()

    def work() -> None:
        found: list[Diagnosis] = []
        try:
            found.extend(check())
        except Exception as error:  # noqa: BLE001 (it becomes a result; what was found before it stays)
            found.append(unknown(error))
        future.set_result(found)

    # The process does not wait for a daemon thread at its end, as it would for the threads of a pool.
    threading.Thread(target=work, daemon=True).start()
    return future


def has_problem(results: Sequence[tuple[str, Diagnosis]]) -> bool:
    """Return whether one of the results is a problem."""
    return any(each.verdict is Verdict.PROBLEM for _, each in results)


def as_text(results: Sequence[tuple[str, Diagnosis]]) -> str:
    """Return a line for each result, with its remedy below it, and the summary."""
    width = max((len(name) for name, _ in results), default=0)
    lines = []
    for name, each in results:
        lines.append(f"{each.verdict:<8} {name:<{width}} {shown(each.found)}")
        if each.remedy:
            lines.append(f"{'':<8} {'':<{width}} → {shown(each.remedy)}")
    return "\n".join([*lines, "", _summary(results)])


def as_json(results: Sequence[tuple[str, Diagnosis]]) -> str:
    """Return the results and the number of each verdict as JSON."""
    counts = Counter(each.verdict for _, each in results)
    found = [
        {"check": name, "verdict": each.verdict, "found": shown(each.found), "remedy": shown(each.remedy)}
        for name, each in results
    ]
    return json.dumps({"checks": found, "counts": {verdict: counts[verdict] for verdict in Verdict}}, indent=2)


def _summary(results: Sequence[tuple[str, Diagnosis]]) -> str:
    counts = Counter(each.verdict for _, each in results)
    words = [f"{counts[Verdict.OK]} ok"]
    words += [
        f"{counts[verdict]} {verdict}{'' if counts[verdict] == 1 else 's'}"
        for verdict in (Verdict.WARNING, Verdict.PROBLEM)
    ]
    return ", ".join(words)


def shown(text: str) -> str:
    """Return a text on one line of bounded length: names of processes and messages are foreign text."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 1]}…"
