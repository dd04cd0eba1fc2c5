"""Step 2 of an image's way in: is this file an image we take? Its content decides, never its name."""

from dataclasses import dataclass

from core.image_open import ImageInfo, inspect
from core.images import ImageLimits, ImageRejectedError
from web_tier.intake.multipart import Upload


@dataclass(frozen=True, slots=True)
class RejectedUpload:
    """Why a file was not accepted: a stable `code` for programs, a sentence for its owner."""

    filename: str
    code: str
    message: str


def accept(upload: Upload, limits: ImageLimits) -> ImageInfo | RejectedUpload:
    """Return what image `upload` is, or why it is not accepted; no pixel is decoded."""
    if upload.size > limits.max_bytes:
        return RejectedUpload(
            upload.filename,
            "too_large",
            f"{upload.size / 2**20:.3g} MB is more than the {limits.max_bytes / 2**20:.3g} MB allowed: shrink it",
        )
    try:
        return inspect(upload.data, limits)
    except ImageRejectedError as error:
        return RejectedUpload(upload.filename, error.code, error.message)
