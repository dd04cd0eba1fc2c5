"""The model page: what a model is, its classes, and the other models."""

from flask import request, url_for

from core.bundle_facts import BundleFacts
from core.fleet.models import FleetSnapshot
from core.jobs.models import Job
from core.model_catalog import ModelCatalog
from services.errors import NotFoundError
from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend, render_with_fleet
from web_tier.http.parameters import clean_search
from web_tier.http.routes import Routes
from web_tier.pages.job import job_not_found

pages = Routes("models")
pages.register_error_handler(NotFoundError, job_not_found)


PRECISIONS = {
    "fp32": "fp32: 32-bit floating point",
    "bf16": "bf16: 16-bit floating point, faster, with small differences from fp32",
    "int8": "int8: 8-bit integers, fastest, with small differences from fp32",
    "exact": "exact: fast at first, and computed again in fp32 where the answer is close",
}
"""A text for each precision of a bundle."""


@pages.app_template_global()
def model_facts() -> BundleFacts:
    """Return what the header of each page shows of the model of new jobs."""
    served = current_backend().served
    return served.facts(served.default_model())


@pages.app_template_global()
def model_catalog() -> ModelCatalog | None:
    """Return the models that a new job may name; None if the web tier cannot read the only one."""
    return current_backend().served.recent_catalog()


@pages.app_template_global()
def failed_model(fleet: FleetSnapshot | None) -> tuple[str | None, bool]:
    """Return that workers cannot load a model, None if they can load all, and whether a roll-back would help.

    It does if new jobs get this model, and got another one before.
    """
    if fleet is None or not fleet.failed_models:
        return None, False
    catalog, digest = model_catalog(), fleet.failed_models[0]
    known = catalog.find(digest) if catalog else None
    can_roll_back = catalog is not None and catalog.default == digest and catalog.previous is not None
    name = known.name if known else digest[:12]
    return f"Workers cannot load the model {name}: its images wait or fail.", can_roll_back


@pages.app_template_global()
def model_address(job: Job | None = None) -> str:
    """Return the address of the page of a job's model, or else of that of new jobs."""
    return url_for("models.model_page", job=job.job_id if job else None)


@pages.get("/model", right=Right.READ)
def model_page() -> str:
    """Show the model of the query's `job`, or else its `name`, by default that of new jobs; classes contain `q`.

    A job has its model for good, also when the catalogue has it no more.
    """
    served, search = current_backend().served, clean_search(request.args.get("q", ""))
    job = user_jobs().job(job_id) if (job_id := request.args.get("job")) else None
    catalog = served.recent_catalog()
    if job is not None:
        facts = served.facts(job.model)
    else:  # a digest that any user may make up costs no call of S3, and no place of a reader
        named = catalog and catalog.find(request.args.get("name", ""))
        facts = served.facts(named.for_job) if named else model_facts()
    shown = None if catalog is None or facts.digest is None else catalog.find(facts.digest)
    return render_with_fleet(
        "models/model.html",
        facts=facts,
        job=job,
        shown=shown,
        catalog=catalog,
        precision=PRECISIONS.get(facts.precision, facts.precision),
        search=search,
        matching={label for label in facts.labels if search.casefold() in label.casefold()},
    )
