"""One load test from start to end, which verifies every answer.

The classic contract has a connection for each image, which waits for the label. A job of `/api/v1` has images in
batches.

A closed loop waits for an answer before it sends the next image, so a slow system is asked less often, and the
percentiles do not show what users would have waited (coordinated omission). In an open loop images are due at a
rate, whether or not earlier ones are answered, and the latency counts from the moment at which an image was due.
"""

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

import urllib3

from fleetsight_client.api import ApiClient, token_from_environment
from scripts.run.batch import Batch
from scripts.run.images import ImageSet
from services.clock import CLOCK, Clock

Mode = Literal["classic", "api"]
Verdict = Literal["right", "answered", "wrong", "failed", "lost"]
"""`answered` has a label without an expected one, `failed` no label, `lost` no answer."""

VERDICTS: Final[tuple[Verdict, ...]] = get_args(Verdict)

CLASSIC_FIELD: Final = "myfile"
"""The field of the classic form; the answer is the label alone."""

LATE_SECONDS: Final = 0.1
"""A request that starts this long after its moment is late: the load test could not keep its rate."""

SIGNAL_SECONDS: Final = 1.0
"""How long an interrupt may wait until it takes effect."""

MAX_PROBLEMS: Final = 10
"""Problems in a summary."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a classic request.

    Attributes:
        seconds: from the moment at which the image was due to its answer; None without an answer.
        late_seconds: by which the request started after that moment.
    """

    verdict: Verdict
    problem: str = ""
    seconds: float | None = None
    late_seconds: float = 0.0


@dataclass(frozen=True)
class LoadSummary:
    """What a load test measured.

    Attributes:
        counts: images by verdict.
        times: seconds of each answer: of a request, or in a job, from upload to label.
        late: seconds by which requests of an open loop started after they were due.
    """

    mode: Mode
    seconds: float
    counts: Mapping[str, int]
    times: Sequence[float]
    problems: Sequence[str]
    late: Sequence[float] = ()

    def figures(self) -> dict[str, Any]:
        """Return the figures that are shown, and written as JSON; a percentile of no answer is None."""
        images, ordered = sum(self.counts.values()), sorted(self.times)
        answered = images - self.counts["lost"]
        return {
            "mode": self.mode,
            "images": images,
            **self.counts,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(answered / self.seconds, 1) if self.seconds else 0.0,
            **{f"p{share}_s": percentile(ordered, share) for share in (50, 95, 99)},
            "slowest_s": percentile(ordered, 100),
            "late": sum(each > LATE_SECONDS for each in self.late),
            "latest_s": round(max(self.late, default=0.0), 3),
            "problems": self.problems[:MAX_PROBLEMS],
        }


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """Return the percentile `share` of ascending values by nearest rank, or None if there are none."""
    if not ordered:
        return None
    return round(ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)], 4)


@dataclass(frozen=True)
class ClassicClient:
    """Sends one image per request; threads may share it.

    Attributes:
        url: of the system.
        patience_seconds: after this time without an answer, an image is lost.
        token: if users sign in.
    """

    url: str
    patience_seconds: float
    token: str | None = field(default=None, repr=False)

    def post(self, name: str, data: bytes) -> urllib3.BaseHTTPResponse:
        """Send one image on a connection of its own; return the answer.

        Raises:
            HTTPError: there is no answer, or it is not HTTP.
        """
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        form = {CLASSIC_FIELD: (name, data, "application/octet-stream")}
        limits = urllib3.Timeout(connect=self.patience_seconds, read=self.patience_seconds)
        with urllib3.PoolManager(headers={"Connection": "close"} | headers, timeout=limits) as connections:
            return connections.request("POST", self.url, fields=form, retries=False, redirect=False)


def judge_answer(status: int, content_type: str, text: str, expected: str | None) -> tuple[Verdict, str]:
    """Return whether an answer fulfils the classic contract and has the expected label, and its problem if not."""
    if status != 200:
        return "failed", f"{status} {text[:200]}"
    if not content_type.startswith("text/plain"):
        return "failed", f"{content_type or 'no type'} is not text/plain"
    if not text or ":" in text or text != text.strip():
        return "failed", f"{text[:200]!r} is no label: it is empty, or has a colon or space around it"
    if expected is None:
        return "answered", ""
    # A classic answer has spaces for colons.
    return ("right", "") if text == expected.replace(":", " ") else ("wrong", f"{text!r}, not {expected!r}")


@dataclass(frozen=True)
class LoadTest:
    """A load test of a system; a job of `api` heeds its `model` alone.

    Attributes:
        concurrency: requests that are open at once, at most.
        patience_seconds: an image without an answer for this long is lost.
        rate: images/s of an open loop; None sends the next image after an answer.
        model: that the job names; None for that of new jobs.
    """

    url: str
    mode: Mode
    concurrency: int
    patience_seconds: float
    rate: float | None = None
    model: str | None = None
    clock: Clock = CLOCK

    def run(self, images: ImageSet, stopped: threading.Event, progressed: Callable[[int], None]) -> LoadSummary:
        """Send all images unless `stopped` is set before; `progressed` receives the number of answers.

        Raises:
            ApiError: the API rejects the job.
            InterruptedBatchError: `stopped` was set before the end of the job.
        """
        return (self._classic if self.mode == "classic" else self._job)(images, stopped, progressed)

    def _job(self, images: ImageSet, stopped: threading.Event, progressed: Callable[[int], None]) -> LoadSummary:
        began = self.clock.monotonic()
        with closing(ApiClient(self.url, token=token_from_environment())) as client:
            batch = Batch(
                client,
                images,
                lambda progress: progressed(progress.classified),
                stopped.is_set,
                self.clock,
                model=self.model,
            ).run()
            seconds = self.clock.monotonic() - began
            ended = [each for each in client.results(batch.job_id) if each["status"] != "waiting"]
        moments = [[datetime.fromisoformat(each[key]) for key in ("accepted_at", "recorded_at")] for each in ended]
        counts = {
            "right": batch.right or 0,
            "answered": batch.no_truth,
            "wrong": batch.wrong or 0,
            "failed": batch.failed,
            "lost": batch.lost,
        }
        times = [(recorded - accepted).total_seconds() for accepted, recorded in moments]
        problems = [f"wrong: {name}: {label!r}, not {expected!r}" for name, expected, label in batch.mistakes]
        problems += [f"failed: {name}: {reason}" for name, reason in batch.failures]
        return LoadSummary(self.mode, seconds, counts, times, problems)

    def _classic(self, images: ImageSet, stopped: threading.Event, progressed: Callable[[int], None]) -> LoadSummary:
        began, outcomes = self.clock.monotonic(), list[Outcome]()
        client = ClassicClient(self.url, self.patience_seconds, token_from_environment())

        def send(file: Path, due: float | None) -> None:
            try:
                if not stopped.is_set():
                    outcomes.append(self._outcome(client, file, images.truth.get(file.name), due))
                    progressed(len(outcomes))
            except BaseException:
                stopped.set()
                raise

        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="client") as threads:
            sent = [threads.submit(send, file, due) for file, due in self._when_due(images, began, stopped)]
            # A Ctrl-C just before a wait does not end the wait, and takes effect after it.
            while wait(sent, SIGNAL_SECONDS).not_done:
                pass
        for each in sent:
            each.result()
        seconds = self.clock.monotonic() - began
        found = Counter(each.verdict for each in outcomes)
        found["lost"] += len(images.files) - len(outcomes)
        counts: dict[str, int] = {verdict: found[verdict] for verdict in VERDICTS}
        times = [each.seconds for each in outcomes if each.seconds is not None]
        problems = [f"{each.verdict}: {each.problem}" for each in outcomes if each.problem]
        return LoadSummary(self.mode, seconds, counts, times, problems, [each.late_seconds for each in outcomes])

    def _when_due(
        self, images: ImageSet, began: float, stopped: threading.Event
    ) -> Iterator[tuple[Path, float | None]]:
        """Yield each file, in an open loop at the moment at which it is due, and that moment."""
        for number, file in enumerate(images.files):
            due = None if self.rate is None else began + number / self.rate
            if due is not None and (remaining := due - self.clock.monotonic()) > 0:
                stopped.wait(remaining)
            yield file, due

    def _outcome(self, client: ClassicClient, file: Path, expected: str | None, due: float | None) -> Outcome:
        """Classify one image; its time counts from `due`, or else from now."""
        data, started = file.read_bytes(), self.clock.monotonic()
        due = started if due is None else due
        try:
            answer = client.post(file.name, data)
        except urllib3.exceptions.HTTPError as error:
            return Outcome("lost", f"{file.name}: {error!r}", late_seconds=started - due)
        text = answer.data.decode(errors="replace")
        verdict, problem = judge_answer(answer.status, answer.headers.get("Content-Type", ""), text, expected)
        problem = problem and f"{file.name}: {problem}"
        return Outcome(verdict, problem, self.clock.monotonic() - due, started - due)
