"""What AWS denies, in words that say which right is missing."""

import re

from botocore.exceptions import ClientError

DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403"}
"""How the services call it: S3 answers a HEAD without any words."""


def explained(error: Exception) -> str:
    """Return what went wrong; of a call that was denied, which one it was and what to do."""
    if not isinstance(error, ClientError) or error.response["Error"]["Code"] not in DENIED:
        return str(error)
    # S3 says nothing of who asked; the others say it in their message.
    said = re.sub(r"\s*Encoded authorization failure message: \S+", "", error.response["Error"].get("Message", ""))
    return (
        f"AWS does not allow you to call {error.operation_name}: have your user or role allowed that, or use another "
        f"--profile ({said or error.response['Error']['Code']})"
    )
