"""Cross-origin requests (https://fetch.spec.whatwg.org/#http-cors-protocol): which sites' pages may call the API.

The configured origins and no others, at the addresses that programs call and nowhere else. No cookies take part, so
a page can do no more than a program that its visitor runs: with a sign-in it needs a token of its own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from flask import Flask, Response, request

from web_tier.audience import is_for_programs

ANY = "*"

PREFLIGHT: Mapping[str, str] = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
    "Access-Control-Max-Age": "600",
}
EXPOSED_HEADERS = "Content-Disposition, Location, Retry-After, X-Request-Id"


@dataclass(frozen=True)
class CrossOrigin:
    """The pages that may call the API: those of the origins `allowed`, where `*` stands for all."""

    allowed: Collection[str]

    def install(self, app: Flask) -> None:
        """Answer the preflights of `app`, and let the allowed read its answers, errors included."""
        if self.allowed:
            app.before_request(self._answer_preflight)
            app.after_request(self._with_headers)

    def lets_in(self, origin: str | None, path: str) -> bool:
        """Return whether a page of `origin` (the request's header) may call `path`."""
        return origin is not None and is_for_programs(path) and (origin in self.allowed or ANY in self.allowed)

    def _answer_preflight(self) -> Response | None:
        asks = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if asks and self.lets_in(request.headers.get("Origin"), request.path):
            return Response(status=204, headers=dict(PREFLIGHT))
        return None

    def _with_headers(self, response: Response) -> Response:
        if is_for_programs(request.path):
            response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin is not None and self.lets_in(origin, request.path):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        return response
