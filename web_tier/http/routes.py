"""Routes: each is declared once, beside its function, with everything that holds for its requests.

    fleet_api = Routes("fleet_api", right=Right.OPERATE, pages=fleet_pages, back="fleet.fleet_page")

    @fleet_api.post("/fleet/resume", form="/fleet/resume", audit="fleet resumed")
    def resume() -> Response: ...

The guard, the rate limits, the audit trail and the log read it from the rule of the request: there is no other list.
"""

from collections.abc import Callable
from enum import StrEnum, auto
from functools import wraps
from typing import Any, Final, TypeVar, cast

from flask import Blueprint, Flask, redirect, request, url_for
from flask.typing import ResponseReturnValue
from flask.views import MethodView
from werkzeug.routing import Rule

from services.errors import ConfigError
from web_tier.auth.permissions import Right

MethodViewT = TypeVar("MethodViewT", bound=MethodView)


class Attempt(StrEnum):
    """What a form tries, which has a low limit.

    Attributes:
        PASSWORD: an account's password; all such forms share one limit.
        CODE: a code that was mailed, or that an app shows.
        MAIL: nothing; it sends a mail.
    """

    PASSWORD = auto()
    CODE = auto()
    MAIL = auto()


class Route(Rule):
    """A rule of the application, with everything that holds for its requests.

    Args:
        string: the path.
        right: the right that it requires.
        audit: what a request that succeeds is called in the audit trail; by default it is no event.
        attempt: what its form tries, if it does.
        is_counted: whether its requests count for the rate limits.
        is_quiet: whether its requests are left out of the log.
        is_authenticated: whether it is read who sends its requests; not where the answer is the same for all.
        is_automatic: whether open pages send its requests by themselves, so that they keep no session alive.
        checks_csrf: whether its function calls `check_csrf`, since it reads the form as it arrives.
        needs_sign_in: whether it exists only where people sign in.

    Raises:
        ConfigError: it has no right.
    """

    def __init__(  # noqa: PLR0913 (each is something that holds for a route)
        self,
        string: str,
        *,
        right: Right | None = None,
        audit: str | None = None,
        attempt: Attempt | None = None,
        is_counted: bool = True,
        is_quiet: bool = False,
        is_authenticated: bool = True,
        is_automatic: bool = False,
        checks_csrf: bool = False,
        needs_sign_in: bool = False,
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
        self.right, self.audit, self.attempt = right, audit, attempt
        self.is_counted, self.is_quiet, self.is_authenticated = is_counted, is_quiet, is_authenticated
        self.is_automatic, self.checks_csrf, self.needs_sign_in = is_automatic, checks_csrf, needs_sign_in


NOWHERE: Final = Route("/", endpoint="nowhere", right=Right.PUBLIC)
"""The route of requests to addresses where nothing is."""


class RoutedApp(Flask):
    """An application of which each rule is a `Route`."""

    url_rule_class: type[Rule] = Route


class Routes(Blueprint):
    """Routes with what holds for all of them, unless one declares something else.

    Args:
        name: the beginning of their endpoints.
        pages: where an operation of the API is added a second time, for the form of a page (`form`).
        back: endpoint of the page to which a browser is redirected afterwards.
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
        """Add a route, as Flask's decorators do; `form` is the address of a form that does the same."""
        facts = {**self._defaults, **options}
        super().add_url_rule(rule, endpoint, view_func, provide_automatic_options, **facts)
        if form is not None and view_func is not None and self._pages is not None:
            self._pages.add_url_rule(form, endpoint, self._with_redirect(view_func), **facts | {"methods": ["POST"]})

    def _with_redirect(self, view: Callable[..., Any]) -> Callable[..., Any]:
        """Return a view that does the same and redirects to the page."""

        @wraps(view)
        def send_form(**arguments: str) -> ResponseReturnValue:
            view(**arguments)
            return redirect(url_for(self._back), 303)

        return send_form

    def view(self, rule: str, name: str, **facts: Any) -> Callable[[type[MethodViewT]], type[MethodViewT]]:
        """Declare the route of a class with a function for each method; `name` is the end of its endpoint."""

        def declare(view: type[MethodViewT]) -> type[MethodViewT]:
            self.add_url_rule(rule, view_func=view.as_view(name), **facts)
            return view

        return declare


def current_route() -> Route:
    """Return the route of the current request."""
    return cast(Route, request.url_rule or NOWHERE)


def all_routes(app: Flask) -> list[Route]:
    """Return the routes of `app`."""
    return [cast(Route, rule) for rule in app.url_map.iter_rules()]
