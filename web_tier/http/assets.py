"""The static files. Their addresses contain a hash of all of them: `/static/0123456789abcdef/job/main.js`.

Browsers keep a file for ever, and a new release has new addresses. Modules import each other by relative paths, so
all modules of a page are of one release. An address without the hash, or with the hash of another release, leads to
the file of this one, which browsers must not keep. Files of a feature are below its name: `review/job.js`.
"""

import hashlib
import posixpath
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from flask import Response, request, send_file
from werkzeug.exceptions import NotFound

from web_tier.http.routes import RoutedApp

STATIC: Final = "/static/"
WEB_TIER: Final = Path(__file__).parents[1]

IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""Cache-Control of a file at the address with the hash: https://www.rfc-editor.org/rfc/rfc8246"""

_HASH: Final = re.compile("^[0-9a-f]{16}/")
_IMPORT: Final = re.compile(r'^import\b[^"(]*"(\.[^"]+)";', re.MULTILINE)


@cache
def static_files() -> Mapping[str, Path]:
    """Return the static files of the core and of the features, by name in the order of names."""
    folders = {"": WEB_TIER / "static"}
    folders |= {f"{each.parent.name}/": each for each in WEB_TIER.glob("features/*/static")}
    return {
        f"{prefix}{path.relative_to(folder).as_posix()}": path
        for prefix, folder in sorted(folders.items())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@cache
def assets_hash() -> str:
    """Return 16 hexadecimal digits of a hash of the names and contents of all static files."""
    digest = hashlib.sha256()
    for name, path in static_files().items():
        digest.update(f"{hashlib.sha256(path.read_bytes()).hexdigest()} {name}\n".encode())
    return digest.hexdigest()[:16]


@cache
def imported_modules(*names: str) -> Sequence[str]:
    """Return the names of the modules that these modules import, and those that they import in turn.

    A page lists them, since a browser learns of an import only once it has the module that imports: one round trip
    for each level. ``import()`` is left to the moment that needs it.
    """
    found = dict.fromkeys(names)
    for name in (unread := list(names)):
        for path in _IMPORT.findall(static_files()[name].read_text(encoding="utf-8")):
            imported = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
            if imported not in found:
                found[imported] = None
                unread.append(imported)
    return list(found)[len(names) :]


class WebApp(RoutedApp):
    """An application that serves its static files at addresses with their hash."""

    def __init__(self, name: str) -> None:
        super().__init__(name, static_url_path=STATIC + assets_hash())
        self.jinja_env.globals.update(imported_modules=imported_modules)
        self.add_url_rule(f"{STATIC}<path:filename>", endpoint="static")  # `url_for` builds the first rule

    def send_static_file(self, filename: str) -> Response:
        """Return a static file; `filename` may begin with the hash of another release."""
        name = _HASH.sub("", filename, count=1)
        if name not in static_files():
            raise NotFound
        response = send_file(static_files()[name], max_age=self.get_send_file_max_age(name))
        if request.path.startswith(f"{self.static_url_path}/"):
            response.headers["Cache-Control"] = IMMUTABLE
        return response


# For ami/provision.sh: copies the files to a folder named after their hash in the folder that is given.
if __name__ == "__main__":
    for each, source in static_files().items():
        copy = Path(sys.argv[1], assets_hash(), each)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
