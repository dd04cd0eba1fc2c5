"""What clients do, and the replies that they got."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.simulation.packs import web
from tests.simulation.packs.machine import Content
from tests.simulation.packs.store import File

if TYPE_CHECKING:
    from tests.simulation.packs.world import World

FORM_SECONDS: Final = 3_600.0
"""Lifetime of a form."""


@dataclass
class Sent:
    """One request of a client, and its replies: the image of each acknowledged file, None for a refused one."""

    job: str
    files: list[File]
    key: str
    sent_at: float
    images: dict[str, int | None] = field(default_factory=dict)


@dataclass
class Clients:
    """All clients.

    Attributes:
        jobs: what they made, `deleted` and `cancelled` (or tried to).
        troubled: objects of their buckets that they refused, removed or changed.
        sent: their requests.
    """

    world: "World"
    jobs: list[str] = field(default_factory=list)
    deleted: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    troubled: set[str] = field(default_factory=set)
    sent: list[Sent] = field(default_factory=list)
    _names: int = 0

    def new_job(self, *, is_kept: bool = False, model: str = "model", source: Sequence[Content] = ()) -> str:
        """Make a job, perhaps of objects in a bucket of its user."""
        job, cloud = f"job-{len(self.jobs)}", self.world.cloud
        item = {"accepted": 0, "done": 0, "failed": 0, "is_open": bool(source), "is_kept": is_kept, "model": model}
        for index, content in enumerate(source):
            cloud.sources.put(f"{job}/{index}", content)
        cloud.table.items[job, "JOB"] = {**item, "closed_at": cloud.clock(), "has_source": bool(source)}
        self.jobs.append(job)
        return job

    def _new_request(self, job: str, kinds: Sequence[str], key: str) -> Sent:
        files = [File(f"file-{self._names + at}", (kind, self._names + at)) for at, kind in enumerate(kinds)]
        self._names += len(kinds)
        self.sent.append(Sent(job, files, key, self.world.scheduler.now))
        return self.sent[-1]

    def upload(self, job: str, kinds: Sequence[str], key: str = "") -> Sent:
        """Send files in a form."""
        sent = self._new_request(job, kinds, key)
        self.send(sent)
        return sent

    def send(self, sent: Sent) -> None:
        """Send a request, perhaps once more."""
        self.world.serve(lambda: self._reply(sent, web.upload(self.world.cloud, sent.job, sent.files, sent.key)))

    def declare(self, job: str, kinds: Sequence[str]) -> Sent:
        """Ask for forms, put files by them, and commit."""
        sent = self._new_request(job, kinds, f"forms-{self._names}")

        def operation() -> None:
            web.declare(self.world.cloud, job, [file.name for file in sent.files], sent.key)
            self.post(sent, is_first=True)

        self.world.serve(operation)
        return sent

    def post(self, sent: Sent, *, other: bool = False, is_first: bool = False) -> None:
        """Put files by the forms of a request, or other ones of the same names; commit the first ones."""
        contents = {file.name: ("good", -file.content[1]) if other else file.content for file in sent.files}
        claim = self.world.cloud.table.items.get((sent.job, f"KEY#{sent.key}"), {"packs": {}})
        is_expired = self.world.scheduler.now - sent.sent_at > FORM_SECONDS

        def operation() -> None:
            for pack, item in claim["packs"].items() if not is_expired else ():
                body = tuple(contents[name] for name in item["names"])
                self.world.cloud.inputs.put(web.form_key(sent.job, pack), body)
            if is_first:
                self.commit(sent)

        self.world.serve(operation, "client")

    def commit(self, sent: Sent) -> None:
        """Commit what was put by forms."""
        self.world.serve(lambda: self._reply(sent, web.commit(self.world.cloud, sent.job, sent.key)))

    def retry(self, job: str) -> None:
        """Retry the failed images of a job."""
        self.world.serve(lambda: web.retry(self.world.cloud, job))

    def cancel(self, job: str) -> None:
        """Cancel a job."""
        self.cancelled.add(job)
        self.world.serve(lambda: web.cancel(self.world.cloud, job))

    def delete(self, job: str) -> None:
        """Delete a job."""
        self.deleted.add(job)
        self.world.serve(lambda: web.delete(self.world.cloud, job))

    def trouble_source(self, key: str, how: str) -> None:
        """Refuse, remove or change an object of a user's bucket."""
        sources = self.world.cloud.sources
        self.troubled.add(key)
        if how == "denied":
            sources.denied.add(key)
        elif how == "changed":
            sources.put(key, ("good", -1))
        else:
            sources.objects.pop(key, None)

    def repeat(self, *, is_answered: bool = True) -> None:
        """Repeat the last request with a key; or all that were not answered."""
        keyed = [sent for sent in self.sent if sent.key.startswith("key")]
        for sent in keyed[-1:] if is_answered else [sent for sent in keyed if not sent.images]:
            self.send(sent)

    def _reply(self, sent: Sent, reply: web.Reply) -> None:
        self.world.checks.check_reply(sent, reply)
        sent.images |= {name: image for name, image in reply.items() if image is not None or name not in sent.images}
