"""The OpenAPI document of `/api/v1` (https://spec.openapis.org/oas/v3.1.1).

The decorator `operation` describes a route where the route is defined. Address and method come from the route, texts
from its docstring, schemas from the models of requests and responses.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from inspect import getdoc
from typing import Any, TypeVar

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from core.ids import ULID_PATTERN
from services.ec2 import INSTANCE_ID_PATTERN
from web_tier.api.schemas import ROOT
from web_tier.auth.permissions import Right
from web_tier.http.problems import CONTENT_TYPE as PROBLEM
from web_tier.http.problems import Problem
from web_tier.http.routes import all_routes

DESCRIPTION = """Images in, labels out.

Create a job, add images to it in one or more requests, then follow its status and read its results. Every image that
is accepted gets exactly one result. A single image is answered while you wait by `POST /api/v1/classify`. Images can
also go straight to the bucket: ask for forms (`uploads`), send them, commit.

Where people sign in, each request carries a token: `Authorization: Bearer TOKEN`.

An error response is problem JSON (RFC 9457): `type` is stable and for programs, `detail` says what to do, and the log
contains `trace_id`. A request may name its trace by a `traceparent` header (W3C Trace Context)."""

INFO = {"title": "Fleetsight", "description": DESCRIPTION, "version": "1.0.0"}

TAGS = ("Single images", "Jobs", "Results", "System", "Tokens")
"""Groups of operations of the core, in the order of the page; those of features follow."""

JSON = "application/json"
FORM = "multipart/form-data"
BYTES = "application/octet-stream"
EVENTS = "text/event-stream"
FILE: Mapping[str, Any] = {"type": "string", "format": "binary"}

Schema = dict[str, Any]
Model = type[BaseModel]
Schemas = Mapping[tuple[Any, JsonSchemaMode], Schema]
View = TypeVar("View", bound=Callable[..., Any])

SECURITY_SCHEMES: Mapping[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "Where people sign in (`auth.mode: oidc`): a token of the provider, or a personal token "
        "(`fst_...`), which signed-in users make on the account page. `Bearer` may be omitted.",
    }
}

PROBLEMS: Mapping[int, str] = {
    400: "A parameter, a header or the form of the body is wrong; `detail` names it.",
    401: "There is no token, or it is wrong, expired or revoked; `WWW-Authenticate` says how one is sent.",
    403: "The caller may not do this, and `detail` says who may; or the request comes from a page of a web site that "
    "may not call this API (`web.cors_origins`).",
    404: "There is nothing of that id, or no longer.",
    408: "The body came too slowly, or stalled.",
    409: "The job is cancelled (`job-cancelled`), and takes no images until a retry resumes it; or its images come "
    "from S3 (`job-takes-no-images`).",
    413: "The body is larger, or has more files, than is allowed; nothing of it was accepted.",
    415: "The operation does not accept a body of this type.",
    422: "The body was understood and cannot be taken; `detail` says why.",
    429: "Too many requests came, too much is open already, or the day's images or bytes are used up; try again "
    "after `Retry-After` seconds.",
    500: "Something went wrong on our side; the log has it under the request id.",
    503: "A service that this needs does not answer just now; try again after `Retry-After` seconds.",
}


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A response of an operation; its `content` is a model as JSON, text of a media type, or None without a body."""

    status: int
    description: str
    content: Model | str | None = None


@dataclass(frozen=True, slots=True)
class ApiOperation:
    """The description of a route without its address; the fields are those of the decorator `operation`."""

    name: str
    summary: str
    description: str
    responses: tuple[ApiResponse, ...]
    tag: str
    parameters: Mapping[str, Model]
    bodies: Mapping[str, Model | Mapping[str, Any]]
    problems: frozenset[int]


@dataclass(frozen=True, slots=True)
class ApiRoute:
    """An operation at its address; `public` is whether it needs no sign-in."""

    path: str
    method: str
    public: bool
    operation: ApiOperation


_OPERATIONS: dict[Callable[..., Any], ApiOperation] = {}


def operation(
    *responses: ApiResponse,
    tag: str = "Jobs",
    name: str = "",
    query: Model | None = None,
    header: Model | None = None,
    body: Model | Mapping[str, Model | Mapping[str, Any]] | None = None,
    problems: Iterable[int] = (),
) -> Callable[[View], View]:
    """Describe a route in the OpenAPI document; its docstring becomes summary and description.

    Args:
        responses: possible responses besides problems.
        tag: the group of the operation.
        name: operationId, unique; by default the name of the function.
        query: model of the parameters in the query.
        header: model of the parameters in headers.
        body: model of the JSON body, or models and schemas by media type; a request has one of them.
        problems: statuses of problems that do not follow from parameters and body.
    """
    bodies = body if isinstance(body, Mapping) else {} if body is None else {JSON: body}
    parameters = {place: model for place, model in (("query", query), ("header", header)) if model is not None}
    statuses = {*problems, *([400] if query else []), *([413, 422] if bodies else [])}

    def describe(view: View) -> View:
        summary, _, description = (getdoc(view) or "").partition("\n\n")
        _OPERATIONS[view] = ApiOperation(
            name=name or view.__name__,
            summary=summary.removesuffix("."),
            description=" ".join(description.split()),
            responses=responses,
            tag=tag,
            parameters=parameters,
            bodies=bodies,
            problems=frozenset(statuses),
        )
        return view

    return describe


def api_routes(app: Flask) -> list[ApiRoute]:
    """Return the routes of `app` that have a description, tag by tag."""
    routes = []
    for route in all_routes(app):
        described = _OPERATIONS.get(app.view_functions[route.endpoint])
        if described is not None and route.rule.startswith(ROOT) and not route.rule.endswith("/"):
            [method] = (route.methods or set()) - {"HEAD", "OPTIONS"}
            path = re.sub(r"<(\w+)>", r"{\1}", route.rule)
            routes.append(ApiRoute(path, method.lower(), route.right is Right.PUBLIC, described))
    tags = [*TAGS, *(route.operation.tag for route in routes)]
    return sorted(routes, key=lambda route: tags.index(route.operation.tag))


@lru_cache(maxsize=1)
def api_document(app: Flask) -> Schema:
    """Return the OpenAPI document of `app`; callers must not change it."""
    routes = api_routes(app)
    # Schemas of requests are as they are validated, those of responses as they are serialised.
    models: dict[tuple[Model, JsonSchemaMode], None] = {(Problem, "serialization"): None}
    for route in routes:
        accepted = [body for body in route.operation.bodies.values() if isinstance(body, type)]
        returned = [each.content for each in route.operation.responses if isinstance(each.content, type)]
        models |= {(model, "validation"): None for model in accepted}
        models |= {(model, "serialization"): None for model in returned}
    schemas, definitions = models_json_schema(list(models), ref_template="#/components/schemas/{model}")
    paths: Schema = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = _operation(route, schemas)
    return {
        "openapi": "3.1.1",
        "info": INFO,
        "paths": paths,
        "components": {"schemas": definitions["$defs"], "securitySchemes": SECURITY_SCHEMES},
    }


def _operation(route: ApiRoute, schemas: Schemas) -> Schema:
    operation = route.operation
    described: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": operation.description,
        "tags": [operation.tag],
        "parameters": list(_parameters(route)),
        "responses": _responses(route, schemas),
        "security": [] if route.public else [{"bearer": []}, {}],  # sign-in is optional by configuration
    }
    if operation.bodies:
        content, required = dict[str, Any](), False
        for media_type, body in operation.bodies.items():
            if isinstance(body, Mapping):
                content[media_type], required = {"schema": body}, True
            else:
                content[media_type] = {"schema": schemas[body, "validation"]}
                required |= any(field.is_required() for field in body.model_fields.values())
        described["requestBody"] = {"required": required, "content": content}
    return described


def _parameters(route: ApiRoute) -> Iterator[Schema]:
    for name in re.findall(r"{(\w+)}", route.path):
        pattern = INSTANCE_ID_PATTERN if name == "instance_id" else ULID_PATTERN
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": pattern}}
    for place, model in route.operation.parameters.items():
        # No parameter is required, and an absent one is null.
        for name, schema in model.model_json_schema()["properties"].items():
            [shown] = [kind for kind in schema.pop("anyOf", [{}]) if kind.get("type") != "null"]
            if schema.get("default", ...) is None:
                del schema["default"]
            schema.pop("title", None)
            described = {"name": name, "in": place, "description": schema.pop("description", ""), "required": False}
            yield described | {"schema": shown | schema}


def _responses(route: ApiRoute, schemas: Schemas) -> Schema:
    responses: Schema = {}
    for response in route.operation.responses:
        described = responses[str(response.status)] = _response(response.description, response.status)
        if isinstance(response.content, str):
            described["content"] = {response.content: {"schema": {"type": "string"}}}
        elif response.content is not None:
            described["content"] = {JSON: {"schema": schemas[response.content, "serialization"]}}
    problems = {500, 503, *route.operation.problems}
    problems |= set() if route.public else {401, 403, 429}
    problems |= {404} if "{" in route.path else set()
    for status in sorted(problems):
        described = responses.setdefault(str(status), _response(PROBLEMS[status], status))
        described.setdefault("content", {})[PROBLEM] = {"schema": schemas[Problem, "serialization"]}
    return responses


def _response(description: str, status: int) -> Schema:
    headers = {
        "X-Request-Id": "Names the request in the log.",
        "traceresponse": "The trace of the request, as `traceparent` of W3C Trace Context.",
    }
    if status == HTTPStatus.CREATED:
        headers["Location"] = "The path of what was created."
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "How a token is sent (RFC 6750)."
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        headers["Retry-After"] = "Seconds until it is worth another try."
    described = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}
    return {"description": description, "headers": described}
