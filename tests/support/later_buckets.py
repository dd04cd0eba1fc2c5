"""S3 some days later: what is young now is old in its listings."""

from dataclasses import dataclass, replace
from datetime import timedelta

from services.s3 import Bucket, FolderPage, SourceBuckets


@dataclass(frozen=True)
class LaterBuckets(SourceBuckets):
    """Buckets with listings of a later day."""

    days: int = 2

    def folder(self, of: Bucket, folder: str, token: str, limit: int) -> FolderPage:
        """Return a page of a folder, and a later time."""
        page = super().folder(of, folder, token, limit)
        return replace(page, listed_at=page.listed_at + timedelta(days=self.days))
