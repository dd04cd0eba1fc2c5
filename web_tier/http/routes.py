"""Routes: each is declared once, beside its function, with everything that holds for its requests.

    fleet_api = Routes("fleet_api", right=Right.OPERATE, pages=fleet_pages, back="fleet.fleet_page")

    @fleet_api.post("/fleet/resume", form="/fleet/resume", audit="fleet resumed")
    def resume() -> Response: ...

The guard, the rate limits, the audit trail and the log read it from the rule of the request: there is no other list.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar, cast

from flask import Blueprint, Flask, redirect, request, url_for
from flask.typing import ResponseReturnValue
from flask.views import MethodView
from werkzeug.routing import Rule

from services.errors import ConfigError
from web_tier.auth.permissions import Right

MethodViewT = TypeVar("MethodViewT", bound=MethodView)


class Route(Rule):
    """A rule of the application, with everything that holds for its requests.

    Args:
        string: the path.
        audit: the action of a request that succeeds in the audit trail; None if it is no event.
        is_counted: whether its requests count for the rate limits.
        is_quiet: whether its requests are logged at level DEBUG, unless they are refused.
        is_authenticated: whether the sender is identified; False where every sender gets the same answer.
        is_automatic: whether open pages send its requests by themselves, so that they keep no session alive.
        checks_csrf: whether its function calls `check_csrf`, since it reads the form as it arrives.
        needs_sign_in: whether it exists only where people sign in.
        reads_shared_jobs: whether it also reads a job that is shared with the sender, who may be anonymous.

    Raises:
        ConfigError: it has no right, or it reads shared jobs and does more than read.
    """

    def __init__(  # noqa: PLR0913 (each is something that holds for a route)
        self,
        string: str,
        *,
        right: Right | None = None,
        audit: str | None = None,
        is_counted: bool = True,
        is_quiet: bool = False,
        is_authenticated: bool = True,
        is_automatic: bool = False,
        checks_csrf: bool = False,
        needs_sign_in: bool = False,
        reads_shared_jobs: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(string, **options)
        self.is_static: Final = str(self.endpoint).rpartition(".")[2] == "static"  # Flask adds these itself
        if self.is_static:
            right, is_counted, is_quiet, is_authenticated = Right.PUBLIC, False, True, False
        if right is None:
            raise ConfigError(
                f"the route {string} has no right: declare it beside its function (web_tier/http/routes.py)"
            )
        if reads_shared_jobs and (right, (self.methods or set()) - {"HEAD", "OPTIONS"}) != (Right.READ, {"GET"}):
            raise ConfigError(f"the route {string} does more than read: viewers of a shared job must not reach it")
        self.right, self.audit = right, audit
        self.is_counted, self.is_quiet, self.is_authenticated = is_counted, is_quiet, is_authenticated
        self.is_automatic, self.checks_csrf, self.needs_sign_in = is_automatic, checks_csrf, needs_sign_in
        self.reads_shared_jobs: Final = reads_shared_jobs

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        """Return the function that builds addresses, which is compiled when it is first called.

        Werkzeug compiles two for each rule when it is added, which is nine tenths of the CPU time to make an
        application, and most of them are never called.
        """
        compile_now, compiled = super()._compile_builder, list[Callable[..., tuple[str, str]]]()

        def build(route: Route, /, **values: Any) -> tuple[str, str]:
            if not compiled:
                compiled.append(compile_now(append_unknown))
            return compiled[0](route, **values)

        return build


NO_ROUTE: Final = Route("/", endpoint="no_route", right=Right.PUBLIC)
"""Stands for the route of a request that matches none: there is nothing to protect, and the answer is 404 or 405."""


class RoutedApp(Flask):
    """An application that makes each rule a `Route`."""

    url_rule_class: type[Rule] = Route


class Routes(Blueprint):
    """A blueprint of routes, with defaults for what they declare.

    Args:
        name: the beginning of their endpoints.
        pages: the blueprint to which the forms of operations are added (`form`); required for them, as is `back`.
        back: endpoint of the page to which a form redirects.
        defaults: parameters of `Route`.
    """

    def __init__(self, name: str, *, pages: "Routes | None" = None, back: str = "", **defaults: Any) -> None:
        super().__init__(name, __name__)
        self._pages, self._back, self._defaults = pages, back, defaults

    def add_url_rule(
        self,
        rule: str,
        endpoint: str | None = None,
        view_func: Callable[..., Any] | None = None,
        provide_automatic_options: bool | None = None,
        *,
        form: str | None = None,
        **options: Any,
    ) -> None:
        """Add a route, as Flask's decorators do.

        Args:
            rule: as the next three, for Flask.
            endpoint: by default the name of the function.
            view_func: the function.
            provide_automatic_options: whether Flask answers OPTIONS.
            form: address of a page's form that does what the function does, and then redirects to the page.
            options: parameters of `Route`.

        Raises:
            ConfigError: a form has no page.
        """
        declared = {**self._defaults, **options}
        super().add_url_rule(rule, endpoint, view_func, provide_automatic_options, **declared)
        if form is None:
            return
        if view_func is None or self._pages is None:
            raise ConfigError(f"the form {form} has no page: declare `pages` and `back` of its routes")
        operation, page = view_func, self._back

        @wraps(operation)
        def submit_form(**arguments: str) -> ResponseReturnValue:
            operation(**arguments)
            return redirect(url_for(page), 303)

        self._pages.add_url_rule(form, endpoint, submit_form, **declared | {"methods": ["POST"]})

    def view(self, rule: str, name: str, **options: Any) -> Callable[[type[MethodViewT]], type[MethodViewT]]:
        """Declare the route of a class that has a function for each HTTP method; its endpoint ends with `name`."""

        def declare(view: type[MethodViewT]) -> type[MethodViewT]:
            self.add_url_rule(rule, view_func=view.as_view(name), **options)
            return view

        return declare


def current_route() -> Route:
    """Return the route of the current request, or `NO_ROUTE`."""
    return cast(Route, request.url_rule or NO_ROUTE)


def all_routes(app: Flask) -> list[Route]:
    """Return the routes of `app`."""
    return [cast(Route, rule) for rule in app.url_map.iter_rules()]
