"""Links of the static site: every address in its files is that of a file, or of a route of the web tier."""

import re
from collections.abc import Iterable, Iterator, Mapping
from html.parser import HTMLParser
from posixpath import join, normpath
from urllib.parse import urlsplit

from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import Map

_IN_STYLE = re.compile(r"""(?:url\(|@import )\s*["']?([^"')\s]+)""")

_IN_SCRIPT = (
    re.compile(r"""(?:\bfrom|\bimport|\bimport\()\s*["'](\.{1,2}/[^"']+)["']"""),
    re.compile(r"""new URL\(["']([^"'$]+)["'], import\.meta\.url"""),
    re.compile(r"""["'`](/[a-z][^"'`\s]*)["'`]"""),
)

_LINK_ATTRIBUTES = {"href", "src", "action", "data-path"}

_PLACEHOLDER = re.compile(r"\$\{[^}]*\}?|\{\w+\}|<[^>]+>")
"""A part of an address that a script, a reader or the web tier fills in: `${jobId}`, `{job_id}`, `<job_id>`."""

_ANYTHING = "ANYTHING"
"""Replaces a placeholder: it matches any number of parts of a path."""


class _LinkParser(HTMLParser):
    """Collects the addresses in the attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the addresses of a tag."""
        self.addresses += [value for name, value in attrs if name in _LINK_ATTRIBUTES and value]


def addresses_in(content_type: str, text: str) -> Iterator[str]:
    """Yield the addresses that a page, a style sheet or a script contains, unchanged."""
    if content_type.startswith("text/html"):
        yield from _LinkParser(text).addresses
    elif content_type.startswith("text/css"):
        yield from _IN_STYLE.findall(text)
    elif "javascript" in content_type:
        for pattern in _IN_SCRIPT:
            yield from pattern.findall(text)


def dead_links(files: Mapping[str, tuple[str, str]], routes: Map, static: Iterable[str]) -> list[str]:
    """Return the addresses in the files that do not resolve, each with its file.

    Args:
        files: content type and text of each file, by the path of its address.
        routes: of the web tier, which serves all other addresses.
        static: prefixes of paths that never reach the web tier.
    """
    hidden = tuple(static)
    return sorted(
        f"{path} names {address}"
        for path, (content_type, text) in files.items()
        for address in addresses_in(content_type, text)
        if not _resolves(path, address, files, routes, hidden)
    )


def _resolves(
    path: str, address: str, files: Mapping[str, tuple[str, str]], routes: Map, hidden: tuple[str, ...]
) -> bool:
    parts = urlsplit(_PLACEHOLDER.sub(_ANYTHING, address))
    if parts.scheme == "data" or (not parts.path and not parts.netloc):
        return True  # inline data, or an anchor in the same file
    if parts.scheme or parts.netloc:
        return False  # another host
    target = normpath(join(path.rpartition("/")[0] or "/", parts.path))
    return target in files or (not target.startswith(hidden) and _is_served(routes, target))


def _is_served(routes: Map, path: str) -> bool:
    if _ANYTHING in path:
        wanted = re.compile(".*".join(map(re.escape, path.split(_ANYTHING))))
        return any(wanted.fullmatch(_PLACEHOLDER.sub("x", rule.rule)) for rule in routes.iter_rules())
    try:
        routes.bind("site").match(path)
    except NotFound:
        return False
    except HTTPException:
        return True  # by another method, or after a redirect
    return True
