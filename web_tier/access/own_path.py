"""Where a user goes once they are signed in: only to a page of ours, so that no link can send them elsewhere."""

from typing import Final
from urllib.parse import quote, urlencode

from flask import Request

FIRST_PAGE: Final = "/"
MAX_CHARACTERS: Final = 2_000
SIGN_IN: Final = "/sign-in"


def own_path(text: str) -> str:
    r"""Return `text` if it is a path of this site, else the first page.

    Browsers read `//host` as another host, take `\` for `/`, and leave out control characters before they look.
    """
    is_ours = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if is_ours and len(text) <= MAX_CHARACTERS else FIRST_PAGE


def sign_in_for(request: Request) -> str:
    """Return the address of the sign-in that leads back to the page which was asked for."""
    asked = quote(request.path, safe="/:@!$&'()*+,;=") + "?" * bool(request.query_string)
    back = own_path(asked + request.query_string.decode("latin-1"))
    return SIGN_IN if back == FIRST_PAGE else f"{SIGN_IN}?{urlencode({'next': back})}"
