"""Builder of the OpenAPI document (https://spec.openapis.org/oas/v3.1.1) from the models of requests and responses.

An `ApiOperation` has what the models do not have: address, texts, possible responses and problems.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from core.ids import ULID_PATTERN
from web_tier.drain_requests import INSTANCE_ID_PATTERN
from web_tier.problems import CONTENT_TYPE as PROBLEM
from web_tier.problems import Problem

JSON = "application/json"
VERSION = "3.1.1"

Schema = dict[str, Any]
Model = type[BaseModel]
Mode = Literal["validation", "serialization"]
_REFERENCE = "#/components/schemas/{model}"
_COMMON_PROBLEMS = (500, 503)
"""Problems of every operation."""

_USER_PROBLEMS = (401, 403, 429)
"""Further problems of every operation that is not public."""

SECURITY_SCHEMES: Mapping[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "Where people sign in (`auth.mode: cognito`): a token of the user pool, or a personal token "
        "(`fst_...`), which signed-in users make on the account page. `Bearer` may be left out.",
    }
}
_BY_TOKEN: tuple[Schema, ...] = ({"bearer": []}, {})
"""A token, or nothing: sign-in is optional by configuration."""

PROBLEMS: Mapping[int, str] = {
    400: "A parameter, a header or the form of the body is wrong; `detail` names it.",
    401: "There is no token, or it is wrong, expired or revoked; `WWW-Authenticate` says how one is sent.",
    403: "The caller may not do this, and `detail` says who may; or the request comes from a page of a web site that "
    "may not call this API (`web.cors_origins`).",
    404: "There is nothing of that id, or no longer.",
    408: "The body came too slowly, or stalled.",
    413: "The body is larger, or has more files, than is allowed; nothing of it was accepted.",
    415: "The body is of a type that is not taken here.",
    422: "The body was understood and cannot be taken; `detail` says why.",
    429: "Too many requests came, too much is open already, or the day's images or bytes are used up; try again "
    "after `Retry-After` seconds.",
    500: "Something went wrong on our side; the log has it under the request id.",
    503: "A service that this needs does not answer just now; try again after `Retry-After` seconds.",
}


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """A response of an operation: a `model` as JSON, text of `media_type` without a model, or no body."""

    status: int
    description: str
    model: Model | None = None
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class RequestBody:
    """A body that an operation accepts: a `model` or a `schema`, as `media_type`."""

    media_type: str
    model: Model | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ApiOperation:
    """One operation of the API.

    Attributes:
        name: operationId, unique.
        path: path with `{name}` for each id.
        parameters: models of parameters, and where these are.
        bodies: accepted kinds of body; a request has one of them.
        body_required: whether a request must have a body.
        problems: statuses of further problems of this operation.
        stream: whether the response lasts until one side closes it.
        public: whether the operation needs no sign-in.
    """

    name: str
    method: Literal["get", "post", "put", "delete"]
    path: str
    summary: str
    answers: tuple[ApiResponse, ...]
    tag: str = "Jobs"
    description: str = ""
    parameters: tuple[tuple[Literal["query", "header"], Model], ...] = ()
    bodies: tuple[RequestBody, ...] = ()
    body_required: bool = True
    problems: tuple[int, ...] = ()
    stream: bool = False
    public: bool = False


def document(operations: Sequence[ApiOperation], *, title: str, description: str, version: str) -> Schema:
    """Return the OpenAPI document of `operations`."""
    paths: Schema = {}
    schemas = _Schemas(operations)
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, schemas)
    return {
        "openapi": VERSION,
        "info": {"title": title, "description": description, "version": version},
        "paths": paths,
        "components": {"schemas": schemas.components, "securitySchemes": dict(SECURITY_SCHEMES)},
    }


class _Schemas:
    """The schemas of all models: of requests as they are validated, of responses as they are serialised."""

    def __init__(self, operations: Iterable[ApiOperation]) -> None:
        accepted: list[Model] = [body.model for each in operations for body in each.bodies if body.model]
        returned: list[Model] = [answer.model for each in operations for answer in each.answers if answer.model]
        returned.append(Problem)
        modes: dict[tuple[Model, Mode], None] = {(model, "validation"): None for model in accepted}
        modes |= {(model, "serialization"): None for model in returned}
        self._references, definitions = models_json_schema(list(modes), ref_template=_REFERENCE)
        self.components: Schema = definitions["$defs"]

    def of_request(self, model: Model) -> Schema:
        return self._references[model, "validation"]

    def of_response(self, model: Model) -> Schema:
        return self._references[model, "serialization"]


def _operation(operation: ApiOperation, schemas: _Schemas) -> Schema:
    described: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": operation.description,
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas),
        "security": [] if operation.public else list(_BY_TOKEN),
    }
    if operation.bodies:
        content = {
            body.media_type: {"schema": schemas.of_request(body.model) if body.model else dict(body.schema or {})}
            for body in operation.bodies
        }
        described["requestBody"] = {"required": operation.body_required, "content": content}
    if operation.stream:
        described["x-stream"] = True
    return described


def _parameters(operation: ApiOperation) -> list[Schema]:
    parameters: list[Schema] = []
    for name in re.findall(r"{(\w+)}", operation.path):
        pattern = INSTANCE_ID_PATTERN if name == "instance_id" else ULID_PATTERN
        schema = {"type": "string", "pattern": pattern}
        parameters.append({"name": name, "in": "path", "required": True, "schema": schema})
    for place, model in operation.parameters:
        for name, schema in _optional_fields(model):
            described = {"name": name, "in": place, "description": schema.pop("description", "")}
            parameters.append({**described, "required": False, "schema": schema})
    return parameters


def _optional_fields(model: Model) -> Iterable[tuple[str, Schema]]:
    """Yield the fields of a model of parameters: none is required, and an absent one is null."""
    for name, schema in model.model_json_schema()["properties"].items():
        [shown] = [kind for kind in schema.pop("anyOf", [{}]) if kind.get("type") != "null"]
        if schema.get("default", ...) is None:
            del schema["default"]
        schema.pop("title", None)
        yield name, {**shown, **schema}


def _responses(operation: ApiOperation, schemas: _Schemas) -> Schema:
    responses: Schema = {}
    for answer in operation.answers:
        responses[str(answer.status)] = _response(answer.description, answer.status, _content(answer, schemas))
    for status in sorted({*operation.problems, *_COMMON_PROBLEMS, *(() if operation.public else _USER_PROBLEMS)}):
        content = {PROBLEM: {"schema": schemas.of_response(Problem)}}
        response = responses.setdefault(str(status), _response(PROBLEMS[status], status, {}))
        response["content"] = response.get("content", {}) | content
    return responses


def _response(description: str, status: int, content: Schema) -> Schema:
    response: Schema = {
        "description": description,
        "headers": {"X-Request-Id": _header("Names the request in the log.")},
    }
    if status == HTTPStatus.CREATED:
        response["headers"]["Location"] = _header("The path of what was created.")
    if status == HTTPStatus.UNAUTHORIZED:
        response["headers"]["WWW-Authenticate"] = _header("How a token is sent (RFC 6750).")
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        response["headers"]["Retry-After"] = _header("Seconds until it is worth another try.")
    return response | ({"content": content} if content else {})


def _header(description: str) -> Schema:
    return {"description": description, "schema": {"type": "string"}}


def _content(answer: ApiResponse, schemas: _Schemas) -> Schema:
    if answer.model is not None:
        return {answer.media_type or JSON: {"schema": schemas.of_response(answer.model)}}
    return {answer.media_type: {"schema": {"type": "string"}}} if answer.media_type else {}
