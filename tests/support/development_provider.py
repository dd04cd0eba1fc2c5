"""A development provider in a thread, for tests in which people sign in."""

from collections.abc import Iterator
from contextlib import contextmanager

from werkzeug.serving import make_server

from scripts.run.provider import create_app
from scripts.run.system import free_port
from tests.support.servers import serving


@contextmanager
def development_provider() -> Iterator[str]:
    """Serve a provider on a free port of loopback; yield its issuer."""
    port = free_port()
    issuer = f"http://127.0.0.1:{port}"
    with serving(make_server("127.0.0.1", port, create_app(issuer), threaded=True)):
        yield issuer
