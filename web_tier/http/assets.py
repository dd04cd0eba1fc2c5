"""The static files. Their addresses contain a hash of all of them: `/static/0123456789abcdef/job/main.js`.

Browsers keep a file for ever, and a new release has new addresses. Modules import each other by relative paths, so
all modules of a page are of one release. An address without the hash, or with the hash of another release, leads to
the file of this one, which browsers must not keep.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from flask import Response, request

from web_tier.http.routes import RoutedApp

STATIC: Final = "/static/"
FOLDER: Final = Path(__file__).parents[1] / "static"

IMMUTABLE: Final = "public, max-age=31536000, immutable"
"""Cache-Control of a file at the address with the hash: https://www.rfc-editor.org/rfc/rfc8246"""

_HASH: Final = re.compile("[0-9a-f]{16}/")
_IMPORT: Final = re.compile(r'^import\b[^"(]*"(\.[^"]+)";', re.MULTILINE)


@cache
def assets_hash() -> str:
    """Return 16 hexadecimal digits of a hash of the names and contents of all static files."""
    digest = hashlib.sha256()
    for path in sorted(each for each in FOLDER.rglob("*") if each.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{content} {path.relative_to(FOLDER).as_posix()}\n".encode())
    return digest.hexdigest()[:16]


@cache
def imported_modules(*names: str) -> Sequence[str]:
    """Return the names of the modules that these modules import, and those that they import in turn.

    A page lists them, since a browser learns of an import only once it has the module that imports: one round trip
    for each level. ``import()`` is left to the moment that needs it.
    """
    found = dict.fromkeys(names)
    for name in (unread := list(names)):
        for path in _IMPORT.findall((FOLDER / name).read_text(encoding="utf-8")):
            imported = (FOLDER / name).parent.joinpath(path).resolve().relative_to(FOLDER).as_posix()
            if imported not in found:
                found[imported] = None
                unread.append(imported)
    return list(found)[len(names) :]


class WebApp(RoutedApp):
    """An application that serves its static files at addresses with their hash."""

    def __init__(self, name: str) -> None:
        super().__init__(name, static_folder=FOLDER, static_url_path=STATIC + assets_hash())
        self.jinja_env.globals.update(imported_modules=imported_modules)
        self.add_url_rule(f"{STATIC}<path:filename>", endpoint="static")  # `url_for` builds the first rule

    def send_static_file(self, filename: str) -> Response:
        """Return a static file; `filename` may begin with the hash of another release."""
        found = _HASH.match(filename)
        response = super().send_static_file(filename[found.end() :] if found else filename)
        if request.path.startswith(f"{self.static_url_path}/"):
            response.headers["Cache-Control"] = IMMUTABLE
        return response


if __name__ == "__main__":
    print(assets_hash())  # noqa: T201 (for ami/provision.sh, which stores the files in a folder of that name)
