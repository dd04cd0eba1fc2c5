"""What a state costs: a whole system and its calls with and without one, and how long a start takes.

Two systems, one with a state, take turns with batches of the same size. Two local clouds take turns with the calls
that change something, from several clients at once. All ratios are of this run, on this disk.
"""

import itertools
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from benchmarks.embedded_cloud import IMAGE, MESSAGE, Client
from benchmarks.end_to_end import draw
from benchmarks.report import Bar, Report, seconds_of
from benchmarks.running import ALWAYS_WARM, WORKERS, running
from localcloud.launch import LocalCloud
from localcloud.state.journal import Journal, Record, synchronize
from scripts.run.state import open_state
from scripts.run.system import HOME

CLIENTS: Final = 8
"""Clients that make calls at the same time."""

BODY: Final = bytes(range(256)) * 200
"""An object of 50 KB."""

MIN_SYSTEM_RATIO: Final = 0.7
MIN_CALLS_RATIO: Final = 0.25
MIN_LOG_RATIO: Final = 1.0


def run(quick: bool) -> Report:
    """Measure batches, calls, objects in the log beside objects in files, and a start with objects.

    Args:
        quick: fewer images, calls and objects.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOME) as scratch:  # /tmp may be memory
        home = Path(scratch)
        log_ms, file_ms = body_milliseconds(home, 50 if quick else 300)
        calls = calls_per_second(home, 3.0 if quick else 10.0)
        systems = images_per_second(home, *((200, 2) if quick else (1_000, 3)))
        start_s = start_seconds(home, 1_000 if quick else 10_000)
    figures = {
        "commit_of_50_kb_in_log_ms": log_ms,
        "commit_of_50_kb_in_file_ms": file_ms,
        "calls_per_second": calls["memory"],
        "calls_per_second_with_state": calls["state"],
        "images_per_second": systems["memory"],
        "images_per_second_with_state": systems["state"],
        f"start_with_{1_000 if quick else 10_000}_objects_s": start_s,
    }
    bars = (
        Bar("images/s with a state ÷ without", systems["state"] / systems["memory"], at_least=MIN_SYSTEM_RATIO),
        Bar("changing calls/s with a state ÷ without", calls["state"] / calls["memory"], at_least=MIN_CALLS_RATIO),
        Bar("time of an object in its own file ÷ in the log", file_ms / log_ms, at_least=MIN_LOG_RATIO),
    )
    return Report("state", figures, bars)


def body_milliseconds(home: Path, rounds: int) -> tuple[float, float]:
    """Return the milliseconds until the disk has an object of 50 KB: in the log, and in a file of its own."""
    folder, files = home / "log", home / "files"
    folder.mkdir()
    files.mkdir()
    journal, numbers = Journal(folder), itertools.count()

    def in_log() -> None:
        journal.append([Record(b'["object"]', b"{}", BODY)])
        journal.commit()

    def in_file() -> None:
        with (files / f"{next(numbers)}.partial").open("wb") as file:
            file.write(BODY)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).rename(Path(file.name).with_suffix(""))
        synchronize(files)

    taken = [[seconds_of(each, 1, time.perf_counter) for each in (in_log, in_file)] for _ in range(rounds)]
    journal.close()
    middle = [sorted(column)[rounds // 2] for column in zip(*taken, strict=True)]
    return 1e3 * middle[0], 1e3 * middle[1]


def calls_per_second(home: Path, seconds: float) -> dict[str, float]:
    """Return how many changing calls several clients make in a second, in memory and with a state, in turns."""
    done = {"memory": 0.0, "state": 0.0}
    with ExitStack() as stack:
        clouds = {
            "memory": stack.enter_context(LocalCloud(home / "memory", hypervisor=False)),
            "state": stack.enter_context(LocalCloud(home / "kept", hypervisor=False, state=home / "state")),
        }
        makers = {name: _prepared(cloud) for name, cloud in clouds.items()}
        for _ in range(3):
            for name, make in makers.items():
                done[name] = max(done[name], _rate(make, seconds / 3))
    return done


def _prepared(cloud: LocalCloud) -> Callable[[], Iterator[Callable[[], object]]]:
    """Return a function that returns endless calls of one client, on a bucket and a queue that exist."""
    port, numbers = urlsplit(cloud.endpoint_url).port or 0, itertools.count()
    first = Client(port)
    first.ask("s3", "PUT", "/calls", None)
    queue = first.call("sqs", "CreateQueue", QueueName="calls")["QueueUrl"]
    entries = [{"Id": str(each), "MessageBody": MESSAGE} for each in range(10)]

    def calls() -> Iterator[Callable[[], object]]:
        client = Client(port)
        while True:
            yield lambda: client.ask("s3", "PUT", f"/calls/{next(numbers) % 1_000}", IMAGE, Content_Type="image/png")
            yield lambda: client.call("sqs", "SendMessageBatch", QueueUrl=queue, Entries=entries)

    return calls


def _rate(calls: Callable[[], Iterator[Callable[[], object]]], seconds: float) -> float:
    over, counts = threading.Event(), list[int]()

    def work() -> None:
        for count, call in enumerate(calls(), 1):
            call()
            if over.is_set():
                counts.append(count)
                return

    threads = [threading.Thread(target=work) for _ in range(CLIENTS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    over.set()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def images_per_second(home: Path, count: int, rounds: int) -> dict[str, float]:
    """Return the images/s of the faster of several batches, in memory and with a state, in turns."""
    images, best = draw(home / "images", count), {"memory": 0.0, "state": 0.0}
    state = open_state(home / "system-state")
    with ExitStack() as stack:
        benches = {
            "memory": stack.enter_context(running(home / "in-memory", ALWAYS_WARM)),
            "state": stack.enter_context(running(home / "on-disk", ALWAYS_WARM, state=state)),
        }
        for bench in benches.values():
            bench.wait_for_workers(WORKERS)
            bench.batch(images)  # warms up
        for _ in range(rounds):
            for name, bench in benches.items():
                best[name] = max(best[name], bench.batch(images).images_per_second)
    os.close(state.lock)
    return best


def start_seconds(home: Path, objects: int) -> float:
    """Return the seconds of a start with a state that has so many objects of 50 KB."""
    with LocalCloud(home / "filling", hypervisor=False, state=home / "large") as cloud:
        client = Client(urlsplit(cloud.endpoint_url).port or 0)
        client.ask("s3", "PUT", "/large", None)
        for number in range(objects):
            client.ask("s3", "PUT", f"/large/{number}", BODY, Content_Type="image/png")
    started = time.perf_counter()
    with LocalCloud(home / "starting", hypervisor=False, state=home / "large"):
        return time.perf_counter() - started
