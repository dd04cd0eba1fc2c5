"""Bootstrap's files, served from the installed package, so that pages load nothing from other hosts."""

from importlib.util import find_spec
from pathlib import Path

from flask import Blueprint

from services.errors import ConfigError

PACKAGE = "flask_bootstrap"


def bootstrap_files() -> Blueprint:
    """Return the blueprint that serves Bootstrap 5 at `/static/bootstrap/…`, endpoint `bootstrap.static`.

    Only the package's files are used: importing its code would load its forms into every web process.

    Raises:
        ConfigError: the package is not installed.
    """
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError("Bootstrap is not installed: run ./scripts/setup.sh run")
    folder = Path(found.origin).parent / "static" / "bootstrap5"
    return Blueprint("bootstrap", __name__, static_folder=folder, static_url_path="/static/bootstrap")
