"""A client of the API without a server, for the tests of commands that upload images."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fleetsight_client.api import ApiClient, ApiError, UploadResult


@dataclass
class FakeUploads(ApiClient):
    """Fails the first `failing_posts` uploads and accepts the others; a test says in `accept` which images.

    Attributes:
        keys: the idempotency key of each upload, also of the failed ones.
        positions: of the images by name, as far as they were sent.
    """

    base_url: str = "http://fake"
    failing_posts: int = 0
    keys: list[str | None] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)

    def accept(self, files: Sequence[tuple[str, bytes]]) -> UploadResult:
        """Return the result of an upload of `files`, each a name with its content."""
        raise NotImplementedError

    def create_job(
        self,
        name: str,
        *,
        keep: bool = False,
        key: str | None = None,
        source: str | None = None,
        results: str | None = None,
        model: str | None = None,
    ) -> str:
        """Return the id of the only job."""
        return "job"

    def add_images(
        self,
        job_id: str,
        files: Sequence[tuple[str, bytes]],
        key: str | None = None,
        *,
        first_position: int | None = None,
    ) -> UploadResult:
        """Upload `files`."""
        self.keys.append(key)
        if self.failing_posts:
            self.failing_posts -= 1
            raise ApiError("the connection was cut")
        if first_position is not None:
            self.positions |= {name: first_position + index for index, (name, _) in enumerate(files)}
        return self.accept(files)
