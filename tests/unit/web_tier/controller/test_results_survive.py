"""Whatever is lost, repeated or killed: each accepted image gets one result, and bucket and table agree about it.

Workers are modelled by their contract: prediction, response, then the end of the request; a failure is stored only
where nothing is, and a request that comes again is answered with what is stored.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from services.ids import ImageRef, output_key
from services.messages import Prediction, RequestMessage
from services.sqs import Outgoing, Received
from tests.support.results_site import LOST_AFTER, MAX_RECEIVES, ResultsSite, done, refused

Fate = str
FATES = ("done", "failed", "killed before the put", "killed before the response", "killed before the delete", "lost")


class ResultsSurvive(RuleBasedStateMachine):
    """A site at which anything may go wrong until the end, when all that is left is worked off."""

    def __init__(self) -> None:
        super().__init__()
        self.site, self.refs, self.retries, self.lost = ResultsSite(), list[ImageRef](), 0, 0

    @rule(images=st.integers(1, 3), is_sent=st.booleans(), keep=st.booleans())
    def upload(self, images: int, is_sent: bool, keep: bool) -> None:
        """Accept images; the web tier may be killed before it sends their requests."""
        self.refs += self.site.add_job(images, request=is_sent, keep=keep)
        self.lost += 0 if is_sent else images

    @rule(fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=10))
    def work(self, fates: list[Fate]) -> None:
        for received, fate in zip(self.site.requests.receive(len(fates)), fates, strict=False):
            self._work_on(received, fate)

    def _work_on(self, received: Received, fate: Fate) -> None:
        site, request = self.site, RequestMessage.from_json(received.body)
        if received.receive_count > MAX_RECEIVES:
            site.letters.send([Outgoing("", received.body)])
            site.requests.delete([received.receipt])
            return
        if fate == "killed before the put":
            return
        site.clock.now += 0.1
        key = output_key(request.ref)
        answer = done(request.ref) if fate != "failed" else refused(request.ref)
        answer = answer.model_copy(update={"attempt": request.attempt, "key": site.store.image(request.ref).key})
        stored = Prediction.from_json(site.outputs.get(key)) if site.outputs.exists(key) else None
        if stored is not None and (stored.status == "done" or stored.attempt >= request.attempt):
            answer = stored.response()
        elif answer.status == "done" or stored is not None:
            site.store_output(answer)
        else:
            site.outputs.put_new(key, Prediction(**answer.model_dump()).to_json().encode(), "application/json")
        if fate == "killed before the response":
            return
        if fate != "lost":
            site.responses.send([Outgoing("", answer.to_json())])
        if fate != "killed before the delete":
            site.requests.delete([received.receipt])

    @rule(times=st.integers(1, 3))
    def collect(self, times: int) -> None:
        for _ in range(times):
            self.site.collector.tick()

    @rule(is_sent=st.booleans())
    def retry(self, is_sent: bool) -> None:
        """Retry all failed images that are not being retried."""
        for ref, result in self.site.store.results_of(self.refs).items():
            if result.status == "failed" and self.site.store.image(ref).attempt == result.attempt:
                self.site.retry(ref, request=is_sent)
                self.retries += 1
                self.lost += 0 if is_sent else 1

    @rule()
    def lose_requests(self) -> None:
        self.lost += len(self.site.requests.messages)
        self.site.requests.messages.clear()

    @rule()
    def lose_responses(self) -> None:
        self.site.responses.messages.clear()

    @rule()
    def restart(self) -> None:
        self.site.start()

    @rule(minutes=st.integers(1, 30), paused=st.booleans())
    def wait(self, minutes: int, paused: bool) -> None:
        self.site.paused = paused
        self.site.pass_time(60 * minutes, every=20)
        assert len(self.site.requests.messages) <= len(self.refs) + self.retries

    def teardown(self) -> None:
        """Work off everything, with no fault from here on, and compare what was acknowledged with what is there."""
        site = self.site
        site.paused = False
        for _ in range(200):
            self.work(["done"] * 10)
            site.collector.tick()
            site.pass_time(10 * LOST_AFTER, every=LOST_AFTER)
            left = site.requests.messages + site.responses.messages + site.letters.messages
            if not left and not site.store.open_jobs():
                break
        else:
            raise AssertionError("some messages or open jobs are left for good")
        assert len(site.requests.sent) <= 3 * (len(self.refs) + self.retries) + self.lost
        results = site.store.results_of(self.refs)
        assert set(results) == set(self.refs)
        for ref, result in results.items():
            stored = Prediction.from_json(site.outputs.get(output_key(ref)))
            assert (stored.status, stored.label) == (result.status, result.label)
            assert result.status == "done" or result.attempt == site.store.image(ref).attempt
        for job_id in {ref.job_id for ref in self.refs}:
            counts, statuses = site.store.counts(job_id), list(site.store.statuses(job_id).values())
            assert (counts.done, counts.failed) == (statuses.count("done"), statuses.count("failed"))


TestResultsSurvive = ResultsSurvive.TestCase
TestResultsSurvive.settings = settings(max_examples=60, stateful_step_count=25)
