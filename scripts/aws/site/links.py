"""The addresses in the files of a static site, and whether each leads somewhere."""

import re
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from posixpath import join, normpath
from urllib.parse import urlsplit

from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import Map

from services.errors import FleetsightError

_IN_STYLE = re.compile(r"""(?:url\(|@import )\s*["']?([^"')\s]+)""")
_IN_SCRIPT = (
    re.compile(r"""(?:\bfrom|\bimport|\bimport\()\s*["'](\.{1,2}/[^"']+)["']"""),
    re.compile(r"""new URL\(["']([^"'$]+)["'], import\.meta\.url"""),
    re.compile(r"""["'`](/[a-z][^"'`\s]*)["'`]"""),
)
_OF_PAGES = {"href", "src", "action", "data-path"}
_FILLED = re.compile(r"\$\{[^}]*\}?|\{\w+\}|<[^>]+>")
"""What a script, a reader or the web tier fills in: `${jobId}`, `{job_id}`, `<job_id>`."""
_ANYTHING = "ANYTHING"
"""Stands for it: a part of a path, several, or none."""


class SiteLinkError(FleetsightError):
    """Raised when a file of the site names an address that neither a file nor the web tier has."""


class _Page(HTMLParser):
    """Addresses in a page's attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag's addresses."""
        self.addresses += [value for name, value in attrs if name in _OF_PAGES and value]


def addresses_in(content_type: str, text: str) -> Iterator[str]:
    """Yield the addresses that a page, a style sheet or a script names, as they stand there."""
    if content_type.startswith("text/html"):
        yield from _Page(text).addresses
    elif content_type.startswith("text/css"):
        yield from _IN_STYLE.findall(text)
    elif "javascript" in content_type:
        for pattern in _IN_SCRIPT:
            yield from pattern.findall(text)


def check_links(files: Mapping[str, tuple[str, str]], routes: Map, static: Iterable[str]) -> None:
    """Check that every address in the files resolves.

    Args:
        files: content type and text of each file, by the path of its address.
        routes: of the web tier, which has what the files have not.
        static: begins of paths that never reach the web tier.

    Raises:
        SiteLinkError: one does not; the message names all of them.
    """
    hidden = tuple(static)
    dead = sorted(
        f"{path} names {address}"
        for path, (content_type, text) in files.items()
        for address in addresses_in(content_type, text)
        if not _resolves(path, address, files, routes, hidden)
    )
    if dead:
        raise SiteLinkError(f"nothing is at these addresses of the static site: {'; '.join(dead)}")


def _resolves(
    path: str, address: str, files: Mapping[str, tuple[str, str]], routes: Map, hidden: tuple[str, ...]
) -> bool:
    parts = urlsplit(_FILLED.sub(_ANYTHING, address))
    if parts.scheme == "data" or (not parts.path and not parts.netloc):
        return True  # it is there itself, or a place in the same file
    if parts.scheme or parts.netloc:
        return False  # another machine
    target = normpath(join(path.rpartition("/")[0] or "/", parts.path))
    return target in files or (not target.startswith(hidden) and _is_served(routes, target))


def _is_served(routes: Map, path: str) -> bool:
    if _ANYTHING in path:
        wanted = re.compile(".*".join(map(re.escape, path.split(_ANYTHING))))
        return any(wanted.fullmatch(_FILLED.sub("x", rule.rule)) for rule in routes.iter_rules())
    try:
        routes.bind("site").match(path)
    except NotFound:
        return False
    except HTTPException:
        return True  # by another method, or under a neighbouring address
    return True
