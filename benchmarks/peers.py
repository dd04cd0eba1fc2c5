"""``python -m benchmarks peers DIR``: another system beside this one, on the same machine and the same images.

DIR holds a ``peer.yaml`` (`Peer`), which says how to start the other system, when it is ready, and how it classifies.
Its commands are executed as they are: run only peers that you trust. The two systems run in turns, never at the same
time, and with new processes in each round. Each gets two batches: cold, the first images after it has become ready,
and warm, as many others right after. Our system runs as `scripts/run.sh` runs it, with a fleet at zero.

A latency is the time from the start of the batch to the image's result, since a batch is there as a whole.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import urllib3
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.measure import percentile, result_moments
from benchmarks.report import Bar, Report
from benchmarks.running import Bench, running
from scripts.run.batch import Batch, BatchProgress
from scripts.run.images import ImageSet, draw_signs, images_in
from scripts.run.system import free_port
from services.errors import FleetsightError

SETTINGS_NAME: Final = "peer.yaml"
ROUNDS: Final = 2
IMAGES: Final = 500
QUICK_IMAGES: Final = 50
SIDE: Final = 64
"""Width and height of the drawn signs in pixels."""

READY_SECONDS: Final = 120.0
REPLY_SECONDS: Final = 300.0
"""Longest wait for the label of an image that was sent by HTTP."""

END_SECONDS: Final = 10.0
"""From SIGTERM to SIGKILL."""

OURS: Final = {
    "FLEETSIGHT__FLEET__MAX_WORKERS": "auto",
    # The warm batch finds the workers of the cold one.
    "FLEETSIGHT__WORKER__IDLE_SECONDS": "60",
}


class PeerError(FleetsightError):
    """Raised when a peer cannot be described, started or measured; the message says why."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpClassify(_Settings):
    """Each image is a request: a form with one file.

    Attributes:
        url: to which the form is posted.
        field: of the form that has the file.
        label: regular expression; its first group is the label in the reply's text.
        at_once: requests under way at the same time.
    """

    url: str
    field: str = "file"
    label: str = r"(?s)^\s*(.*\S)\s*$"
    at_once: int = Field(default=32, ge=1, le=1_000)


class CommandClassify(_Settings):
    """A command classifies a folder of images.

    Attributes:
        command: prints a line for each result as soon as it is there: the filename, a tab, and the label.
    """

    command: tuple[str, ...] = Field(min_length=1)


class Peer(_Settings):
    """The contents of ``peer.yaml``.

    In commands and addresses ``{port}`` stands for a free port; in those of `classify`, ``{images}`` stands for the
    folder of the batch. Commands run in DIR.

    Attributes:
        name: of the system, for the report.
        start: the command that runs the system, until it gets SIGTERM.
        ready: an address that answers GET with a status below 400 once images may be sent.
        classify: how it gets the images of a batch.
        bundle: our bundle with the peer's weights, relative to DIR; by default the demo model.
        images: folder of images, relative to DIR; by default signs are drawn.
    """

    name: str = Field(min_length=1)
    start: tuple[str, ...] = Field(min_length=1)
    ready: str
    classify: HttpClassify | CommandClassify
    bundle: Path | None = None
    images: Path | None = None


def load_peer(folder: Path) -> Peer:
    """Return the settings in `folder`.

    Raises:
        PeerError: they cannot be read, or are not valid.
    """
    path = folder / SETTINGS_NAME
    try:
        return Peer.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise PeerError(f"cannot read {path}: {error.strerror}; docs/testing.md says what it contains") from error
    except yaml.YAMLError as error:
        raise PeerError(f"{path} is not YAML: {error}") from error
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise PeerError(f"{path} is not valid: {'; '.join(faults)}") from error


@dataclass(frozen=True)
class Outcome:
    """What a system made of a batch.

    Attributes:
        images: how many were sent.
        labels: by filename.
        moments: seconds from the start of the batch to each result.
    """

    images: int
    labels: Mapping[str, str]
    moments: Sequence[float]

    @property
    def images_per_second(self) -> float:
        """Images with a label, a second."""
        return len(self.labels) / max(self.moments)

    @property
    def p95_s(self) -> float:
        """The 95th percentile of latency, in seconds."""
        return percentile(self.moments, 95)


@dataclass(frozen=True)
class Turn:
    """One run of a system: its start in seconds, and both batches."""

    start_s: float
    cold: Outcome
    warm: Outcome

    @property
    def batches(self) -> Mapping[str, Outcome]:
        """The outcomes by their names."""
        return {"cold": self.cold, "warm": self.warm}


def run(quick: bool, folder: Path) -> Report:
    """Measure the peer in `folder` and this system in turns."""
    peer, count = load_peer(folder), QUICK_IMAGES if quick else IMAGES
    folder = folder.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        batches = batches_of(peer, folder, home, count)
        ours, theirs = list[Turn](), list[Turn]()
        for number in range(1 if quick else ROUNDS):
            theirs.append(peer_turn(peer, folder, batches, home / f"peer-{number}.log"))
            ours.append(our_turn(home / f"ours-{number}", peer, folder, batches))
    return report_of(peer.name, ours, theirs)


def batches_of(peer: Peer, folder: Path, home: Path, count: int) -> tuple[Path, Path]:
    """Return two folders of `count` images each: drawn signs, or copies of the peer's images.

    Raises:
        PeerError: the peer has too few images.
    """
    cold, warm = home / "cold", home / "warm"
    if peer.images is None:
        for place, seed in ((cold, 11), (warm, 12)):
            draw_signs(place, count, seed, SIDE)
            (place / "labels.csv").unlink()  # nothing but images, as of a user
        return cold, warm
    found = images_in(folder / peer.images).files
    if len(found) < 2:
        raise PeerError(f"{folder / peer.images} has {len(found)} image: name a folder of at least {2 * count}")
    count = min(count, len(found) // 2)
    for place, files in ((cold, found[:count]), (warm, found[count : 2 * count])):
        place.mkdir()
        for number, file in enumerate(files):
            shutil.copy(file, place / f"{number:05d}-{file.name}")
    return cold, warm


def our_turn(home: Path, peer: Peer, folder: Path, batches: Sequence[Path]) -> Turn:
    """Start this system, send both batches, and end it."""
    bundle = {} if peer.bundle is None else {"FLEETSIGHT__WORKER__BUNDLE": str(folder / peer.bundle)}
    began = time.monotonic()
    with running(home, {**OURS, **bundle}) as bench:
        start_s = time.monotonic() - began
        return Turn(start_s, *(send(bench, batch) for batch in batches))


def send(bench: Bench, batch: Path) -> Outcome:
    """Send a folder to this system, with the command's own client.

    Raises:
        PeerError: an image got no result.
    """
    images, samples = images_in(batch), list[tuple[float, int]]()

    def add_sample(progress: BatchProgress) -> None:
        samples.append((time.time(), progress.classified))

    sent = ImageSet(images.title, images.files, {})
    summary = Batch(bench.api, sent, add_sample).run()
    if not summary.ok:
        raise PeerError(f"this system: {summary.failed} images failed, {summary.lost} were lost")
    labels = {str(each["filename"]): str(each["label"]) for each in bench.api.results(summary.job_id)}
    moments = [moment - summary.started_at for moment in result_moments(samples, summary.images)]
    return Outcome(summary.images, labels, moments)


def peer_turn(peer: Peer, folder: Path, batches: Sequence[Path], log: Path) -> Turn:
    """Start the peer, send both batches, and end it.

    Raises:
        PeerError: it does not become ready, or labels no image of a batch.
    """
    began, port = time.monotonic(), free_port()
    with started(peer, folder, port, log):
        start_s = time.monotonic() - began
        outcomes = []
        for batch in batches:
            filled = fill_in(port, batch)
            match peer.classify:
                case HttpClassify():
                    outcome = over_http(peer.classify, filled(peer.classify.url), batch)
                case CommandClassify():
                    outcome = by_command([filled(part) for part in peer.classify.command], folder, batch)
            if not outcome.labels:
                raise PeerError(f"{peer.name} has labelled no image; its log ends with: {_end_of(log)}")
            outcomes.append(outcome)
        return Turn(start_s, *outcomes)


def fill_in(port: int, images: Path) -> Callable[[str], str]:
    """Return a function that puts the port and the folder of the images into a word of the settings."""
    return lambda word: word.replace("{port}", str(port)).replace("{images}", str(images))


@contextmanager
def started(peer: Peer, folder: Path, port: int, log: Path) -> Iterator[None]:
    """Run the peer until the block has ended; the block begins when it is ready.

    Raises:
        PeerError: it ends, or is not ready in time.
    """
    filled = fill_in(port, Path())
    with log.open("wb") as output:
        command = [filled(part) for part in peer.start]
        try:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
        except OSError as error:
            raise PeerError(f"{peer.name} cannot be started: {error}") from error
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not answers(filled(peer.ready)):
            if process.poll() is not None or time.monotonic() > deadline:
                ended = "has ended" if process.poll() is not None else f"is not ready after {READY_SECONDS:.0f} s"
                raise PeerError(f"{peer.name} {ended}; its log ends with: {_end_of(log)}")
            time.sleep(0.02)
        yield
    finally:
        _end(process)


def answers(url: str) -> bool:
    """Return whether `url` answers GET with a status below 400."""
    try:
        return urllib3.request("GET", url, retries=False, timeout=REPLY_SECONDS).status < 400
    except urllib3.exceptions.HTTPError:
        return False


def over_http(settings: HttpClassify, url: str, batch: Path) -> Outcome:
    """Post each image of a folder as a form, several at once; an image without a label stays without one."""
    files, label = images_in(batch).files, re.compile(settings.label)
    pool = urllib3.PoolManager(maxsize=settings.at_once, timeout=REPLY_SECONDS, retries=False)
    began = time.monotonic()

    def post(file: Path) -> tuple[str, str, float] | None:
        try:
            reply = pool.request("POST", url, fields={settings.field: (file.name, file.read_bytes())})
        except urllib3.exceptions.HTTPError:
            return None
        found = label.search(reply.data.decode(errors="replace")) if reply.status < 400 else None
        return None if found is None else (file.name, found[1], time.monotonic() - began)

    with ThreadPoolExecutor(settings.at_once) as clients:
        results = [each for each in clients.map(post, files) if each is not None]
    pool.clear()
    return Outcome(len(files), {name: label for name, label, _ in results}, [moment for _, _, moment in results])


def by_command(command: Sequence[str], folder: Path, batch: Path) -> Outcome:
    """Let a command classify a folder; lines about other files than those in it count for nothing.

    Raises:
        PeerError: it cannot be started, or fails.
    """
    names = {file.name for file in images_in(batch).files}
    labels, moments, began = dict[str, str](), list[float](), time.monotonic()
    try:
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, errors="replace") as process:
            for line in process.stdout or ():
                name, tab, label = line.rstrip("\n").partition("\t")
                if tab and name in names and name not in labels:
                    labels[name] = label
                    moments.append(time.monotonic() - began)
    except OSError as error:
        raise PeerError(f"{command[0]} cannot be started: {error}") from error
    if process.returncode:
        raise PeerError(f"{' '.join(command)} ended with status {process.returncode}")
    return Outcome(len(names), labels, moments)


def report_of(name: str, ours: Sequence[Turn], theirs: Sequence[Turn]) -> Report:
    """Return both systems' figures and their ratios; of several rounds, the fastest batch of each counts."""
    figures: dict[str, float] = {"images_a_batch": ours[0].cold.images}
    best = {"ours": fastest(ours), "peer": fastest(theirs)}
    for side, turns in (("ours", ours), ("peer", theirs)):
        figures[f"{side}_start_s"] = min(turn.start_s for turn in turns)
        for temperature, outcome in best[side].items():
            figures[f"{side}_{temperature}_images_per_second"] = outcome.images_per_second
            figures[f"{side}_{temperature}_p95_s"] = outcome.p95_s
            figures[f"{side}_{temperature}_unlabelled"] = outcome.images - len(outcome.labels)
    bars = list[Bar]()
    for temperature, mine in best["ours"].items():
        other = best["peer"][temperature]
        common = mine.labels.keys() & other.labels.keys()
        same = sum(_plain(mine.labels[file]) == _plain(other.labels[file]) for file in common)
        figures[f"{temperature}_same_label_share"] = same / len(common) if common else 0.0
        begin = f"{temperature}, ours ÷ {name}"
        bars += [
            Bar(f"{begin}: images/s", mine.images_per_second / other.images_per_second, at_least=1),
            Bar(f"{begin}: p95 from the start of the batch to the result", mine.p95_s / other.p95_s, at_most=1),
        ]
    return Report("peers", figures, tuple(bars))


def fastest(turns: Sequence[Turn]) -> dict[str, Outcome]:
    """Return the fastest cold and the fastest warm batch."""
    return {
        name: max((turn.batches[name] for turn in turns), key=lambda outcome: outcome.images_per_second)
        for name in ("cold", "warm")
    }


def _plain(label: str) -> str:
    """Return a label without what systems write differently: `Stop_Sign` is `stop sign`."""
    return re.sub(r"[\s_-]+", " ", label.casefold()).strip()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all of its group."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, ending)
        except ProcessLookupError:
            break
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            continue


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-1_000:].strip()
