"""The static site: what of the web tier's front end is the same for everybody, as files.

The web tier's own application renders it, so that there is one front end. No service is asked meanwhile: the page's
script asks what the fleet does and who is signed in when a browser opens the page. The pages of jobs, the fleet and
accounts come from the web tier, which also keeps sessions: scripts cannot read the cookie of a session
(https://datatracker.ietf.org/doc/html/draft-ietf-oauth-browser-based-apps, 6.1). The bounds of an image, and whether
the demo model answers, are those of the configuration at the time: publish again after a change of it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from flask import Flask

from core.config import Config
from core.fleet.models import FleetSnapshot
from core.jobs.store import JobStore
from scripts.aws.site.links import check_links
from services.errors import FleetsightError
from services.table import Table
from web_tier.app import STATIC_SECONDS, create_app
from web_tier.pages.account import UNKNOWN

PAGES = {"/": "index.html", "/api": "api"}
"""Addresses of pages, and their files. All other pages are served by the web tier."""

STATIC = "/static/"

_BOOTSTRAP = re.compile(r"'bootstrap\.static',\s*filename='([^']+)'")

EDGE_SECONDS = 86_400
"""A browser asks for a page each time, CloudFront this long after the last; publishing invalidates changes."""


class SiteError(FleetsightError):
    """Raised when the site cannot be rendered or published; the message says what to do."""


@dataclass(frozen=True, slots=True)
class SiteFile:
    """A file of the site.

    Attributes:
        name: its path below the folder, and its key in the bucket.
        address: path of the address at which browsers ask for it.
    """

    name: str
    address: str
    content_type: str
    cache_control: str


class _NoStore(JobStore):
    """Knows nothing of the fleet, and has nothing to ask."""

    def __init__(self) -> None:
        super().__init__(cast(Table, None))

    def fleet(self) -> FleetSnapshot | None:
        """Return nothing."""
        return None


def export_site(folder: Path, config: Config, address: str) -> tuple[SiteFile, ...]:
    """Write the site into `folder`, which is made; no service is called.

    Args:
        folder: where to.
        config: of the deployment.
        address: of the site, such as https://images.example.org, which the API's page shows.

    Raises:
        SiteError: a page or a file cannot be rendered.
        SiteLinkError: one of them names an address that nothing is at.
    """
    app = create_app(_without_services(config, address), store=_NoStore())
    if config.auth.mode == "cognito":
        app.jinja_env.globals["visitor"] = lambda: UNKNOWN
    contents: dict[str, tuple[str, str]] = {}
    files = []
    for file, body in _rendered(app, address):
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        files.append(file)
        contents[file.address] = (file.content_type, body.decode(errors="replace"))
    check_links(contents, app.url_map, [STATIC])
    return tuple(files)


def _without_services(config: Config, address: str) -> Config:
    """Return `config` for the site's address, without sign-in, since no session is asked for while files are made."""
    auth = config.auth.model_copy(update={"mode": "none", "open": False})
    web = config.web.model_copy(update={"hosts": [urlsplit(address).hostname]})
    return config.model_copy(update={"auth": auth, "web": web})


def _rendered(app: Flask, site: str) -> Iterator[tuple[SiteFile, bytes]]:
    client = app.test_client()
    for address in [*PAGES, *_static_addresses(app)]:
        answer = client.get(address, base_url=site, buffered=True)
        if answer.status_code != 200:
            raise SiteError(f"the web tier answers {address} with {answer.status}: {answer.text[:200]}")
        name = PAGES.get(address, address.lstrip("/"))
        yield SiteFile(name, address, str(answer.content_type), _cache_control(address)), answer.data


def _static_addresses(app: Flask) -> list[str]:
    """Return the addresses of all static files of the web tier, and of those of Bootstrap that its templates name."""
    own, templates = Path(str(app.static_folder)), Path(app.root_path) / str(app.template_folder)
    found = [f"{STATIC}{path.relative_to(own).as_posix()}" for path in own.rglob("*") if path.is_file()]
    named = {name for path in templates.rglob("*.html") for name in _BOOTSTRAP.findall(path.read_text())}
    return sorted([*found, *(f"{STATIC}bootstrap/{name}" for name in named)])


def _cache_control(address: str) -> str:
    if address in PAGES:
        return f"public, max-age=0, s-maxage={EDGE_SECONDS}"
    return f"public, max-age={STATIC_SECONDS}"
