"""An authenticator app, as somebody has it on their phone."""

import time
from base64 import b32decode
from dataclasses import dataclass, field

from localcloud.cognito.sign_in import STEP_SECONDS, Authenticator


@dataclass
class App:
    """Shows the codes of a key; a code that was shown is not shown again.

    Attributes:
        key: in Base32, as the page shows it.
    """

    key: str
    _shown: int = field(default=-1, init=False)

    def code(self) -> str:
        """Return the code of now, or the next one if that was shown; pools take both. A third code comes later."""
        self._shown = max(int(time.time()) // STEP_SECONDS, self._shown + 1)
        return Authenticator(secret=b32decode(self.key)).code(self._shown)
