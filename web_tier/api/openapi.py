"""The OpenAPI 3.1 document (https://spec.openapis.org/oas/v3.1.1), made of the models that check and answer.

An `Operation` says what the models do not: the address, the words, and which answers and problems there are.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from core.ids import ULID_PATTERN
from web_tier.fleet_orders import INSTANCE_ID_PATTERN
from web_tier.problems import CONTENT_TYPE as PROBLEM
from web_tier.problems import Problem

JSON = "application/json"
VERSION = "3.1.1"

Schema = dict[str, Any]
Model = type[BaseModel]
Mode = Literal["validation", "serialization"]
_REFERENCE = "#/components/schemas/{model}"
_ANYWHERE = (500, 503)
"""Problems that every operation may have."""

_TO_USERS = (401, 403, 429)
"""Those that operations for users may have besides."""

SECURITY_SCHEMES: Mapping[str, Any] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "Where people sign in (`auth.mode: cognito`): a token of the user pool, or a personal token "
        "(`fst_...`), which signed-in users make on the account page. `Bearer` may be left out.",
    }
}
_BY_TOKEN: tuple[Schema, ...] = ({"bearer": []}, {})
"""By a token, or by nothing: whether people sign in is configuration."""

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
class Answer:
    """An answer of an operation: a `model` as JSON, text of `media_type` when there is no model, or no body."""

    status: int
    says: str
    model: Model | None = None
    media_type: str | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """A body that an operation takes: a `model`, or what `schema` says, as `media_type`."""

    media_type: str
    model: Model | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the API.

    Attributes:
        name: its operationId, unique.
        path: with `{name}` for each id in it.
        parameters: models of parameters, and where those are.
        bodies: the kinds of body that it takes, any one of them.
        body_required: whether there must be one.
        problems: statuses of the problems that it may answer with, besides those that every operation may have.
        stream: whether its answer goes on until one of both sides ends it.
        public: whether strangers may ask for it, too.
    """

    name: str
    method: Literal["get", "post", "put", "delete"]
    path: str
    summary: str
    answers: tuple[Answer, ...]
    tag: str = "Jobs"
    description: str = ""
    parameters: tuple[tuple[Literal["query", "header"], Model], ...] = ()
    bodies: tuple[Body, ...] = ()
    body_required: bool = True
    problems: tuple[int, ...] = ()
    stream: bool = False
    public: bool = False


def document(operations: Sequence[Operation], *, title: str, description: str, version: str) -> Schema:
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
    """The schemas of all models: of what is taken as it validates, of what is answered as it is written."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        taken: list[Model] = [body.model for each in operations for body in each.bodies if body.model]
        answered: list[Model] = [answer.model for each in operations for answer in each.answers if answer.model]
        answered.append(Problem)
        modes: dict[tuple[Model, Mode], None] = {(model, "validation"): None for model in taken}
        modes |= {(model, "serialization"): None for model in answered}
        self._references, definitions = models_json_schema(list(modes), ref_template=_REFERENCE)
        self.components: Schema = definitions["$defs"]

    def taken(self, model: Model) -> Schema:
        return self._references[model, "validation"]

    def answered(self, model: Model) -> Schema:
        return self._references[model, "serialization"]


def _operation(operation: Operation, schemas: _Schemas) -> Schema:
    described: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": operation.description,
        "tags": [operation.tag],
        "parameters": [*_ids(operation.path), *_parameters(operation)],
        "responses": _responses(operation, schemas),
        "security": [] if operation.public else list(_BY_TOKEN),
    }
    if operation.bodies:
        content = {body.media_type: {"schema": _body_schema(body, schemas)} for body in operation.bodies}
        described["requestBody"] = {"required": operation.body_required, "content": content}
    if operation.stream:
        described["x-stream"] = True
    return described


def _ids(path: str) -> list[Schema]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": _id_pattern(name)}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _id_pattern(name: str) -> str:
    """Return the form of an id: EC2's for an instance, ours for all else."""
    return INSTANCE_ID_PATTERN if name == "instance_id" else ULID_PATTERN


def _parameters(operation: Operation) -> list[Schema]:
    return [
        {"name": name, "in": place, "description": schema.pop("description", ""), "required": False, "schema": schema}
        for place, model in operation.parameters
        for name, schema in _optional_fields(model)
    ]


def _optional_fields(model: Model) -> Iterable[tuple[str, Schema]]:
    """Yield the fields of a model of parameters: none is required, and one that is left out stands for null."""
    for name, schema in model.model_json_schema()["properties"].items():
        [shown] = [kind for kind in schema.pop("anyOf", [{}]) if kind.get("type") != "null"]
        if schema.get("default", ...) is None:
            del schema["default"]
        schema.pop("title", None)
        yield name, {**shown, **schema}


def _body_schema(body: Body, schemas: _Schemas) -> Schema:
    return schemas.taken(body.model) if body.model else dict(body.schema or {})


def _responses(operation: Operation, schemas: _Schemas) -> Schema:
    responses: Schema = {}
    for answer in operation.answers:
        responses[str(answer.status)] = _response(answer.says, answer.status, _content(answer, schemas))
    for status in sorted({*operation.problems, *_ANYWHERE, *(() if operation.public else _TO_USERS)}):
        content = {PROBLEM: {"schema": schemas.answered(Problem)}}
        there = responses.setdefault(str(status), _response(PROBLEMS[status], status, {}))
        there["content"] = there.get("content", {}) | content
    return responses


def _response(says: str, status: int, content: Schema) -> Schema:
    response: Schema = {"description": says, "headers": {"X-Request-Id": _header("Names the request in the log.")}}
    if status == HTTPStatus.CREATED:
        response["headers"]["Location"] = _header("The path of what was created.")
    if status == HTTPStatus.UNAUTHORIZED:
        response["headers"]["WWW-Authenticate"] = _header("How a token is sent (RFC 6750).")
    if status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
        response["headers"]["Retry-After"] = _header("Seconds until it is worth another try.")
    return response | ({"content": content} if content else {})


def _header(description: str) -> Schema:
    return {"description": description, "schema": {"type": "string"}}


def _content(answer: Answer, schemas: _Schemas) -> Schema:
    if answer.model is not None:
        return {answer.media_type or JSON: {"schema": schemas.answered(answer.model)}}
    return {answer.media_type: {"schema": {"type": "string"}}} if answer.media_type else {}
