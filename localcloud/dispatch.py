"""Which of moto's applications a request is for, remembered by the service in its signature.

Stock moto takes one lock for each request, and under it lists a directory, stats some 190 files and tries up to 200
patterns: 71% of the server's samples stood there. The answer depends on the request's credential scope alone for the
services named here; everything else goes the stock way.
"""

import gc
from collections.abc import Callable, Iterable
from typing import Any

from localcloud.calls import service_of
from localcloud.mends import mend_service

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]

# the services with an application that follows from the scope: others share a signing name, or need the path too
REMEMBERED = frozenset({"cognito-idp", "ec2", "iam", "sqs", "ssm", "sts", "dynamodb"})
_PUBLIC_TARGET = "AWSCognitoIdentityProviderService."
"""Of the calls that people make themselves, such as signing in, which have no signature."""

_NEVER_REMEMBERED = ("/moto-api", "/favicon.ico", "/latest/", "/v20180820/")


class RememberingDispatcher:
    """A WSGI application that asks `stock` once for each service.

    Args:
        stock: moto's ``DomainDispatcherApplication`` or equal.
    """

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self._known: dict[str, WsgiApp] = {}

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Pass the request to the application of its service."""
        return self.application_for(environ)(environ, start_response)

    def application_for(self, environ: dict[str, Any]) -> WsgiApp:
        """Return the application for a request, from memory where that is sound."""
        key = memory_key(environ)
        if key is None:
            return self._ask(environ)
        if (known := self._known.get(key)) is None:
            known = self._known[key] = self._ask(environ)
        return known

    def _ask(self, environ: dict[str, Any]) -> WsgiApp:
        application: WsgiApp = self._stock.get_application(environ)
        return application


def memory_key(environ: dict[str, Any]) -> str | None:
    """Return what determines the application of a request, or None where more than its scope does."""
    authorization, path = environ.get("HTTP_AUTHORIZATION", ""), environ.get("PATH_INFO", "")
    if not authorization and path == "/" and environ.get("HTTP_X_AMZ_TARGET", "").startswith(_PUBLIC_TARGET):
        return "cognito-idp"
    service = service_of(environ)
    if not service or path.startswith(_NEVER_REMEMBERED):
        return None
    if service == "s3":
        return None if "s3-control" in environ.get("HTTP_HOST", "") else service
    if service == "dynamodb":  # its API version and its streams are in the target
        return f"dynamodb {environ.get('HTTP_X_AMZ_TARGET', '').partition('.')[0]}"
    return service if service in REMEMBERED else None


def stock_dispatcher() -> Any:
    """Build moto's own dispatcher; its applications are patched before their first request."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    def create_mended(service: Any) -> Any:
        if service == "cloudformation":  # moto's needs the models of every service, and makes resources past them
            from localcloud.stacks.api import StacksApplication

            return StacksApplication()
        mend_service(service)
        application = create_backend_app(service)
        gc.freeze()  # what a service is made of stays: each full collection would walk through it for 100 ms
        return application

    return DomainDispatcherApplication(create_mended)
