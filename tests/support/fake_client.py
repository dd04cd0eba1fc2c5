"""A client of the API without a server, for the tests of commands that upload images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Unpack

from fleetsight_client.api import ApiClient, JobFields, RejectedFile, UnreachableError, UploadResult


@dataclass
class FakeUploads(ApiClient):
    """Fails the first `failing_posts` uploads and accepts the others; a test says in `accept` which images.

    Attributes:
        keys: the idempotency key of each upload, also of the failed ones.
        positions: of the images by name, as far as they were sent.
        unavailable: names of images that the server cannot store at their first upload.
        keeps: whether the job keeps its images.
    """

    base_url: str = "http://fake"
    failing_posts: int = 0
    keys: list[str | None] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)
    unavailable: set[str] = field(default_factory=set)
    keeps: bool = False

    def accept(self, files: Sequence[tuple[str, bytes]]) -> UploadResult:
        """Return the result of an upload of `files`, each a name with its content."""
        raise NotImplementedError

    def create_job(
        self,
        name: str,
        *,
        keep: bool = False,
        key: str | None = None,
        **further: Unpack[JobFields],
    ) -> str:
        """Return the id of the only job."""
        self.keeps = keep
        return "job"

    def send_images(
        self,
        job_id: str,
        files: Sequence[tuple[str, bytes]],
        key: str | None = None,
        *,
        positions: Sequence[int] | None = None,
        remaining: int | None = None,
        trace_id: str | None = None,
    ) -> dict[int, str | RejectedFile]:
        """Upload `files`."""
        self.keys.append(key)
        if self.failing_posts:
            self.failing_posts -= 1
            raise UnreachableError("the connection was cut")
        if positions is not None:
            self.positions |= {name: place for place, (name, _) in zip(positions, files, strict=True)}
        result = self.accept([each for each in files if each[0] not in self.unavailable])
        accepted, refused = iter(result.accepted), dict(result.rejected)
        outcome: dict[int, str | RejectedFile] = {}
        for at, (name, _) in enumerate(files):
            if name in self.unavailable:
                outcome[at] = RejectedFile("unavailable", "send it again")
            else:
                outcome[at] = RejectedFile("undecodable", refused[name]) if name in refused else next(accepted)[0]
        self.unavailable.clear()
        return outcome
