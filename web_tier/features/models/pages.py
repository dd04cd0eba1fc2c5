"""The model page: what a model is, its classes, and the other models."""

from flask import request

from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend, render_with_fleet
from web_tier.http.parameters import clean_search
from web_tier.http.routes import Routes

model_pages = Routes("models")


PRECISIONS = {
    "fp32": "fp32: 32-bit floating point",
    "bf16": "bf16: 16-bit floating point, faster, with small differences from fp32",
    "int8": "int8: 8-bit integers, fastest, with small differences from fp32",
    "exact": "exact: fast at first, and computed again in fp32 where the answer is close",
}
"""A text for each precision of a bundle."""


@model_pages.get("/model", right=Right.READ)
def model_page() -> str:
    """Show the model of the query's `job`, or else its `name`, by default that of new jobs; classes contain `q`.

    A job has its model for good, also when the catalogue has it no more.
    """
    served, search = current_backend().served, clean_search(request.args.get("q", ""))
    job = user_jobs().job(job_id) if (job_id := request.args.get("job")) else None
    catalog = served.recent_catalog()
    facts = served.facts_called(request.args.get("name", "")) if job is None else served.facts(job.model)
    shown = None if catalog is None or facts.digest is None else catalog.find(facts.digest)
    return render_with_fleet(
        "model.html",
        facts=facts,
        job=job,
        shown=shown,
        catalog=catalog,
        precision=PRECISIONS.get(facts.precision, facts.precision),
        search=search,
        matching={label for label in facts.labels if search.casefold() in label.casefold()},
    )
