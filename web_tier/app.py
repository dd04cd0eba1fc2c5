"""The web application: `gunicorn -c web_tier/gunicorn.py 'web_tier.app:create_app()'`."""

from flask import Flask

from services.config import Config, load_config
from services.jobs import JobStore
from web_tier.api.health import health
from web_tier.api.v1 import api
from web_tier.backend import Backend, install_backend
from web_tier.intake.store import ObjectStore, Sender
from web_tier.pages.routes import pages
from web_tier.pages.words import FILTERS
from web_tier.problems import answer_problems
from web_tier.request_log import log_requests
from web_tier.security import secure

SMALL_BODY_BYTES = 64 * 1024
"""Most that a request may send, except for uploads, which have their own limit."""

STATIC_SECONDS = 3600


def create_app(
    config: Config | None = None,
    *,
    store: JobStore | None = None,
    input_bucket: ObjectStore | None = None,
    request_queue: Sender | None = None,
) -> Flask:
    """Return the application; it calls no service before its first request.

    Args:
        config: by default that of config.yaml and the environment.
        store: by default what `config` names, as are the next two.
        input_bucket: where images go.
        request_queue: where requests go.

    Raises:
        ConfigError: when the configuration is not valid.
    """
    app = Flask(__name__)
    app.config.update(MAX_CONTENT_LENGTH=SMALL_BODY_BYTES, SEND_FILE_MAX_AGE_DEFAULT=STATIC_SECONDS)
    install_backend(app, Backend(config or load_config(), store, input_bucket, request_queue))
    log_requests(app)
    secure(app)
    answer_problems(app)
    app.jinja_env.filters.update(FILTERS)
    app.register_blueprint(pages)
    app.register_blueprint(api, url_prefix="/api/v1")
    app.register_blueprint(health)
    app.register_blueprint(health, url_prefix="/api/v1", name="health_v1")
    return app
