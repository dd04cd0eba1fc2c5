"""S3 objects that can be read while they are overwritten.

Stock moto closes an object's buffer when another takes its key: whoever reads or has just put the old one gets a 500.
Its ETag is computed by moving through the buffer without the lock that readers take.
"""

import hashlib
from typing import Any

from services.embedded.mend import Mend


def _etag(_original: Any) -> Any:
    def etag(self: Any) -> str:
        """Return the quoted MD5 of the content, computed once."""
        if self._etag is None:
            self._etag = hashlib.md5(self.value, usedforsecurity=False).hexdigest()
        return f'"{self._etag}"'

    return property(etag)


def _dispose(_original: Any) -> Any:
    def dispose(self: Any, garbage: bool = False) -> None:  # noqa: ARG001 - moto's signature
        """Leave the buffer to whoever still reads it; it goes with the last of them."""
        if self.multipart and not self.disposed:
            self.multipart.dispose()
        self.disposed = True

    return dispose


MENDS = (
    Mend("moto.s3.models:FakeKey.etag", ("self",), _etag, "moves through the buffer beside its readers"),
    Mend("moto.s3.models:FakeKey.dispose", ("self", "garbage"), _dispose, "closes the buffer under its readers"),
)
