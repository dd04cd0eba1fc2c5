"""Tars as users have them."""

import io
import tarfile
from collections.abc import Iterable


def tar_of(members: Iterable[tuple[str, bytes]], format_: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an uncompressed tar of files with these names and contents."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
