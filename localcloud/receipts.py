"""Receipt handles: which delivery of which message, so that a stale one is recognised and does no harm."""

import base64
import binascii
import secrets
from dataclasses import dataclass


class MalformedReceiptError(ValueError):
    """Raised when a receipt handle was not issued here."""


@dataclass(frozen=True, slots=True)
class ReceiptHandle:
    """One delivery of one message."""

    message_id: str
    receive_count: int
    nonce: str

    @classmethod
    def new(cls, message_id: str, receive_count: int) -> "ReceiptHandle":
        """Issue a handle that no other delivery has."""
        return cls(message_id, receive_count, secrets.token_hex(8))

    @classmethod
    def parse(cls, handle: str) -> "ReceiptHandle":
        """Read a handle back.

        Raises:
            MalformedReceiptError: it was not issued here.
        """
        try:
            message_id, count, nonce = base64.urlsafe_b64decode(handle).decode().split(" ")
            return cls(message_id, int(count), nonce)
        except (ValueError, binascii.Error, UnicodeError):
            raise MalformedReceiptError(f"{handle!r} is not a receipt handle of this queue") from None

    def __str__(self) -> str:
        """Encode as opaque text, as SQS does."""
        return base64.urlsafe_b64encode(f"{self.message_id} {self.receive_count} {self.nonce}".encode()).decode()
