"""The web application: `gunicorn -c web_tier/gunicorn.py 'web_tier.app:create_app()'`."""

from collections.abc import Callable

from flask import Flask
from jinja2 import FileSystemLoader

from core.config import Config, load_config
from core.format import FILTERS, fleet_sentence
from core.jobs.store import JobStore
from services.errors import NotFoundError
from services.s3 import Bucket
from services.sqs import Queue
from web_tier.api.classify import classic, classify, predictions
from web_tier.api.documentation import api_docs
from web_tier.api.presigned import direct
from web_tier.api.probes import admission, health, metrics
from web_tier.api.schemas import ROOT
from web_tier.api.v1 import api, limits_api, tokens_api
from web_tier.auth.audit import log_audit_events
from web_tier.auth.context import AuthContext, AuthServices, create_auth, install_auth
from web_tier.auth.guard import install_guard, install_identification
from web_tier.features import FOLDER, modules, parts
from web_tier.http.assets import WebApp
from web_tier.http.backend import Backend, install_backend
from web_tier.http.middleware import BehindProxy, Middleware, install_compression
from web_tier.http.parsing import BoundedRequest
from web_tier.http.problems import answer_problems
from web_tier.http.rate_limits import install_rate_limiter
from web_tier.pages.account import account_pages, visitor
from web_tier.pages.image import image_pages
from web_tier.pages.job import job_not_found, job_pages, live
from web_tier.pages.sign_in import sign_in_pages
from web_tier.pages.upload import upload_pages
from web_tier.results.progress import waiting_sentence
from web_tier.results.services import install_result_services

for _routes in (upload_pages, job_pages, image_pages):
    _routes.register_error_handler(NotFoundError, job_not_found)

PAGES = (
    upload_pages,
    job_pages,
    image_pages,
    live,
    sign_in_pages,
    account_pages,
    api_docs,
    classic,
    predictions,
    admission,
    health,
    metrics,
)
"""Routes of the core at the addresses that they declare."""

API = (api, classify, direct, tokens_api, limits_api)
"""Routes of the core below `/api/v1`."""

SMALL_BODY_BYTES = 64 * 1024
"""Most that a request may send, except for uploads, which have their own limit."""


def create_app(
    config: Config | None = None,
    *,
    store: JobStore | None = None,
    input_bucket: Bucket | None = None,
    request_queue: Queue | None = None,
    auth: AuthServices | None = None,
    inspect: Callable[..., object] | None = None,
) -> Flask:
    """Return the application; it calls no service before its first request.

    Args:
        config: by default that of config.yaml and the environment.
        store: by default what `config` names, as are the next two.
        input_bucket: where images go.
        request_queue: where requests go.
        auth: the sign-in.
        inspect: inspects an image, as in `Backend`.

    Raises:
        ConfigError: when the configuration is not valid, or the keys of sessions are missing.
    """
    app = WebApp(__name__)
    app.config["MAX_CONTENT_LENGTH"], app.request_class = SMALL_BODY_BYTES, BoundedRequest
    config = config or load_config()
    backend = Backend(config, store, input_bucket, request_queue, inspect)
    install_backend(app, backend)
    install_result_services(app, backend)
    uploads_to = (lambda: backend.direct.forms.origin) if config.web.direct_uploads else str
    Middleware(config.web, backend.metrics, config.metrics.cloudwatch_namespace, uploads_to).install(app)
    sign_in = create_auth(backend) if auth is None else AuthContext(lambda: auth, auth.sessions.keys)
    install_auth(app, sign_in)
    install_identification(app, sign_in)
    install_rate_limiter(app, backend)
    install_guard(app)
    if sign_in.signs_in:
        log_audit_events(app)
    install_compression(app)
    answer_problems(app)
    app.jinja_env.filters.update(
        FILTERS,
        fleet_sentence=lambda fleet: fleet_sentence(fleet, backend.reports.silent_seconds(fleet)),
        waiting_sentence=lambda fleet: waiting_sentence(fleet, backend.reports.silent_seconds(fleet)),
    )
    app.jinja_env.globals.update(visitor=visitor, parts=parts)
    app.jinja_loader = FileSystemLoader([f"{app.root_path}/{app.template_folder}", FOLDER])
    for blueprint in (*API, *(each.api for each in modules("api"))):  # first, since they add forms to the pages
        app.register_blueprint(blueprint, url_prefix=ROOT)
    for blueprint in (*PAGES, *(each.pages for each in modules("pages"))):
        app.register_blueprint(blueprint)
    app.register_blueprint(health, url_prefix=ROOT, name="health_v1")
    if config.web.behind_proxy:
        app.wsgi_app = BehindProxy(app.wsgi_app)  # type: ignore[method-assign]
    return app
