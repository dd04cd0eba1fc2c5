"""Between HTTP and the models: what a request says is checked by a model, what is answered is written by one."""

import json
from typing import Any, TypeVar

from flask import Response, request
from pydantic import BaseModel, ValidationError
from werkzeug.exceptions import BadRequest, UnprocessableEntity

from web_tier.api.queries import KeyHeader

_Model = TypeVar("_Model", bound=BaseModel)


def json_answer(body: BaseModel, status: int = 200) -> Response:
    """Return the answer that holds `body`."""
    return Response(body.model_dump_json(), status, mimetype="application/json")


def from_query(model: type[_Model]) -> _Model:
    """Return the query parameters of the current request as `model` has them.

    Raises:
        BadRequest: when one is wrong; names it with what is allowed.
    """
    return _checked(model, request.args.to_dict())


def from_body(model: type[_Model], example: str, *, may_be_empty: bool = True) -> _Model:
    """Return the JSON body of the current request; none at all is an empty object.

    Raises:
        UnprocessableEntity: when it is wrong; names what, and shows `example`.
    """
    body = request.get_data() or b"{}"
    try:
        checked = model.model_validate_json(body)
        _refuse_repeated_names(body)
    except ValueError as error:
        fault = _first_fault(error) if isinstance(error, ValidationError) else str(error)
        wanted = f"{example} or nothing" if may_be_empty else example
        raise UnprocessableEntity(f"{fault}; send {wanted}") from error
    return checked


def idempotency_key() -> str | None:
    """Return the request's Idempotency-Key, if any.

    Raises:
        BadRequest: when it is empty, too long, or has other characters than visible ASCII.
    """
    key = request.headers.get("Idempotency-Key")
    return None if key is None else _checked(KeyHeader, {"Idempotency-Key": key}).idempotency_key


def _checked(model: type[_Model], values: dict[str, Any]) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise BadRequest(_first_fault(error)) from error


def _refuse_repeated_names(body: bytes) -> None:
    """Raise ValueError if an object of valid JSON has a name twice, of which programs take one or the other."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise ValueError(f"{repeated[0]}: is there {names.count(repeated[0])} times")
        return dict(pairs)

    json.loads(body, object_pairs_hook=unique, parse_int=str, parse_float=str)


def _first_fault(error: ValidationError) -> str:
    """Return `where: what` of the first fault."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "body"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"
