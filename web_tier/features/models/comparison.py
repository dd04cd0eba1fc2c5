"""The comparison of models by two figures: the share of images that failed, and the mean score of the others.

An operator promotes or rolls back a model by them. A bundle that cannot classify some images shows in the first. A
bundle with a wrong preprocessing, or one that was trained for other images, shows in the second. Both need no
reviewed images and compare models that classify different images. `GET /jobs/ID/evaluation` has the accuracy of a
job, which has one model, where users have reviewed images.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, Self

from pydantic import Field

from core.model_catalog import ModelCatalog
from core.model_results import ModelResults, ModelResultsReport
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody

Role = Literal["default", "canary"]

MIN_SCORED: Final = 100
LOWER_SCORE: Final = 0.1
"""A canary's mean score is clearly lower if it is so much below that of the default, with so many labels of each."""


class ComparedModel(ApiBody):
    """The results of a model."""

    name: str = Field(description="In the catalogue of models, or else that of the bundle.")
    digest: str
    role: Role | None = Field(description="What new jobs get it as; null for other models.")
    done: int = Field(description="Images with a label.")
    failed: int = Field(description="Images that failed.")
    failed_share: float = Field(description="Share of the images that failed, 0 to 1.")
    mean_score: float | None = Field(description="Mean score of the labels, 0 to 1; null without labelled images.")

    @classmethod
    def from_model(cls, model: ModelResults, role: Role | None) -> Self:
        """Return the results of a model that has some."""
        return cls.copied_from(
            model,
            role=role,
            failed_share=round(model.failed / (model.done + model.failed), 4),
            mean_score=round(model.score_sum / model.done, 4) if model.done else None,
        )


class ModelComparison(ApiBody):
    """The results of the models: those of the default first, then those with the most results."""

    since: datetime | None = Field(
        description="When the count began: with the last roll-out to a share of the new jobs; null without one."
    )
    models: tuple[ComparedModel, ...]
    warning: str | None = Field(
        default=None, description="That the canary's mean score is clearly lower. Other images may cause it, too."
    )

    @classmethod
    def from_report(cls, report: ModelResultsReport, catalog: ModelCatalog | None) -> Self:
        """Return the comparison; `catalog` is None if the web tier cannot read any model."""
        canary_since = None if catalog is None else catalog.canary_since
        if canary_since not in {None, report.since}:  # the controller has counted nothing since
            return cls(since=canary_since, models=())
        roles: dict[str, Role] = {}
        names: dict[str, str] = {}
        if catalog is not None:
            roles |= {catalog.canary.digest: "canary"} if catalog.canary is not None else {}
            roles[catalog.default] = "default"
            names = {each.digest: each.name for each in catalog.versions}
        models = [
            each.model_copy(update={"name": names.get(each.digest, each.name)})
            for each in report.models
            if each.done or each.failed
        ]
        models.sort(key=lambda each: (roles.get(each.digest) != "default", -each.done - each.failed))
        compared = tuple(ComparedModel.from_model(each, roles.get(each.digest)) for each in models)
        return cls(since=report.since, models=compared, warning=_score_warning(compared))


def _score_warning(models: Sequence[ComparedModel]) -> str | None:
    scored = {each.role: each for each in models if each.done >= MIN_SCORED}
    default, canary = scored.get("default"), scored.get("canary")
    if default is None or canary is None:
        return None
    points = (default.mean_score or 0) - (canary.mean_score or 0)
    if points < LOWER_SCORE:
        return None
    lower = f"The mean score of {canary.name} is {100 * points:.0f} points below that of {default.name}"
    return f"{lower}. Check its labels before you promote it."


def current_comparison() -> ModelComparison:
    """Return the comparison of the models of this system."""
    backend = current_backend()
    return ModelComparison.from_report(backend.fleet.model_results(), backend.served.recent_catalog())
