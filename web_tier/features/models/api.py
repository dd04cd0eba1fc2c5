"""The API of models: which there are, and for operators which of them new jobs get."""

from collections.abc import Callable
from datetime import datetime
from typing import Self

from flask import Response
from flask.typing import ResponseReturnValue
from pydantic import BaseModel, ConfigDict, Field
from werkzeug.exceptions import NotFound

from core.messages import PLACE_PATTERN
from core.model_catalog import (
    NAME_PATTERN,
    ModelCatalog,
    ModelVersion,
    UnknownModelError,
)
from web_tier.api.schemas import ROOT
from web_tier.auth.audit import audit_details
from web_tier.auth.identity import current_identity
from web_tier.auth.permissions import Right
from web_tier.features.models.catalog import rolled_back, with_default, without_model
from web_tier.features.models.pages import pages
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parsing import json_response, parse_body
from web_tier.http.routes import Routes

api = Routes("models_api", pages=pages, back="fleet.fleet_page")


class ModelBody(ApiBody):
    """A model that jobs may name."""

    name: str
    digest: str = Field(description="SHA-256 of everything in the bundle that affects a result; results state it.")
    is_default: bool = Field(description="Whether jobs that name no model get it.")
    short_side: int | None = Field(
        description="Pixels to which it scales the shorter side of an image; null if the bundle cannot be read."
    )
    is_previous: bool | None = Field(default=None, description="Whether a roll-back returns to it; for operators.")
    place: str | None = Field(default=None, description="Where workers load the bundle from; for operators.")
    added_at: datetime | None = Field(default=None, description="For operators.")
    added_by: str | None = Field(
        default=None, description="The operator, or `worker.bundle` for the configuration; for operators."
    )

    @classmethod
    def from_version(cls, version: ModelVersion, catalog: ModelCatalog, *, for_operators: bool) -> Self:
        """Return the body of a version."""
        facts = current_backend().served.facts(version.for_job)
        is_default = version.digest == catalog.default
        body = cls(name=version.name, digest=version.digest, is_default=is_default, short_side=facts.short_side)
        if not for_operators:
            return body
        return body.model_copy(
            update={
                "is_previous": version.digest == catalog.previous,
                "place": version.place,
                "added_at": version.added_at,
                "added_by": version.added_by,
            }
        )


class ModelsBody(ApiBody):
    """The models that jobs may name; none if the web tier cannot read the only one."""

    default: str | None = Field(description="Name of the model of jobs that name none.")
    models: tuple[ModelBody, ...]

    @classmethod
    def from_catalog(cls, catalog: ModelCatalog | None) -> Self:
        """Return the body of the catalogue for the current user."""
        if catalog is None:
            return cls(default=None, models=())
        operates = current_identity().operates
        models = tuple(ModelBody.from_version(each, catalog, for_operators=operates) for each in catalog.versions)
        return cls(default=catalog.default_version.name, models=models)


class AddModel(BaseModel):
    """A bundle to offer to jobs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    place: str = Field(
        pattern=PLACE_PATTERN,
        description="A folder or zip on the machine of the web tier, or `s3://BUCKET/PREFIX` or "
        "`s3://BUCKET/KEY.zip` that it may read.",
    )
    name: str | None = Field(
        default=None,
        pattern=NAME_PATTERN,
        description="By default the bundle's own name, with a part of its digest if another bundle has it.",
    )


class DefaultModel(BaseModel):
    """The model of new jobs."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=64, description="Name or digest of a model that `GET /models` lists.")


@api.get("/models", right=Right.READ)
@operation(ApiResponse(200, "In the order in which they were added.", ModelsBody), name="list_models", tag="Models")
def list_models() -> Response:
    """List the models that jobs may name."""
    return json_response(ModelsBody.from_catalog(current_backend().served.catalog()))


@api.post("/models", right=Right.OPERATE, audit="model added")
@operation(ApiResponse(201, "Jobs may name it.", ModelBody), name="add_model", tag="Models", body=AddModel)
def add() -> ResponseReturnValue:
    """Add a model that jobs may name.

    The bundle is copied to the model bucket, from where workers load it when a job needs it. A bundle that cannot be
    read, or is not whole, is rejected, and so is another name for a bundle that is known already.
    """
    wanted = parse_body(AddModel, '{"place": "s3://bucket/prefix", "name": "..."}', may_be_empty=False)
    version, catalog = current_backend().served.add(wanted.place, wanted.name, _editor())
    audit_details(model=version.name, digest=version.digest, place=wanted.place)
    body = ModelBody.from_version(version, catalog, for_operators=True)
    return json_response(body, 201), {"Location": f"{ROOT}/models"}


@api.delete("/models/<name>", right=Right.OPERATE, audit="model removed")
@operation(
    ApiResponse(204, "New jobs cannot name it any more."), name="remove_model", tag="Models", problems=(404, 422)
)
def remove(name: str) -> ResponseReturnValue:
    """Remove a model.

    Jobs with the model go on. The default cannot be removed.
    """
    try:
        current_backend().served.change(lambda catalog: without_model(catalog, name))
    except UnknownModelError as error:
        raise NotFound(str(error)) from error
    return "", 204


@api.put("/models/default", right=Right.OPERATE, audit="default model chosen")
@operation(ApiResponse(200, "The models.", ModelsBody), name="set_default_model", tag="Models", body=DefaultModel)
def set_default() -> Response:
    """Give new jobs another model.

    Jobs that exist finish with their model, also images that are added to them. Nothing restarts: workers load the
    model when its first image arrives.
    """
    wanted = parse_body(DefaultModel, '{"model": "NAME"}', may_be_empty=False)
    return _changed(lambda before: with_default(before, wanted.model))


@api.post("/models/roll-back", form="/models/roll-back", right=Right.OPERATE, audit="model rolled back")
@operation(ApiResponse(200, "The models.", ModelsBody), name="roll_back_model", tag="Models", problems=(422,))
def roll_back() -> Response:
    """Give new jobs the model that they got before. A second call returns."""
    chosen = list[str]()

    def change(before: ModelCatalog) -> ModelCatalog:
        # Chosen once: a change whose reply was lost is made again, and must not return.
        chosen[:] = chosen or [rolled_back(before).default]
        return with_default(before, chosen[0])

    return _changed(change)


def _editor() -> str:
    """Return the operator who sent the current request."""
    return current_identity().name


def _changed(change: Callable[[ModelCatalog], ModelCatalog]) -> Response:
    """Change which model new jobs get; return the models, and add the new default to the audit event."""
    catalog = current_backend().served.change(change)
    audit_details(default=catalog.default_version.name)
    return json_response(ModelsBody.from_catalog(catalog))
