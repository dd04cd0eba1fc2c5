"""CloudFormation's API: requests as moto's core reads them, answered by `service.Stacks`."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

from moto.core.exceptions import ServiceException
from moto.core.request import Request
from moto.core.responses import ActionResult, BaseResponse, EmptyResult
from werkzeug.wrappers import Response

from services.embedded.loopback import loopback
from services.embedded.stacks import answers
from services.embedded.stacks.change_sets import ChangeSets
from services.embedded.stacks.errors import StackError
from services.embedded.stacks.kinds.kind import Place
from services.embedded.stacks.model import Stack
from services.embedded.stacks.service import Stacks
from services.embedded.stacks.sources import template_of
from services.embedded.stacks.wishes import Wish, given_parameters

_PLAYED = {"OnFailure": "ROLLBACK", "OnStackFailure": "ROLLBACK", "DisableRollback": False}
"""Options of which one value is played."""


@functools.cache
def change_sets_of(account: str, region: str) -> ChangeSets:
    """Return the change sets of an account in a region, and by them its stacks."""
    return ChangeSets(Stacks(Place(account, region), lambda service: loopback.client(service, region)))


class StackRefusal(ServiceException):  # type: ignore[misc]
    """Raised when a request is refused; of this module, so that moto looks for its code where it is."""


class _Request(Request):  # type: ignore[misc]
    from_wsgi_server = True


class StacksApplication:
    """WSGI: CloudFormation's API."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        request = _Request(environ)
        status, headers, body = StacksResponse.dispatch(request, request.url, request.headers)
        answer = Response(body, status=int(status), headers={str(k): str(v) for k, v in headers.items()})
        return answer(environ, start_response)


def _refusing(method: Callable[["StacksResponse"], Any]) -> Callable[["StacksResponse"], Any]:
    @functools.wraps(method)
    def answer(self: "StacksResponse") -> Any:
        try:
            return method(self)
        except StackError as error:
            raise StackRefusal(error.code, str(error)) from error

    return answer


class StacksResponse(BaseResponse):  # type: ignore[misc]
    """One request; each public method is a call of CloudFormation."""

    def __init__(self) -> None:
        super().__init__(service_name="cloudformation")
        self.automated_parameter_parsing = True

    @property
    def _change_sets(self) -> ChangeSets:
        return change_sets_of(self.current_account, self.region)

    @property
    def _stacks(self) -> Stacks:
        return self._change_sets.stacks

    def _get(self, name: str, otherwise: Any = None) -> Any:
        found = self.params.get(name)
        return otherwise if found is None else found

    def _wish(self, stack: Stack | None) -> Wish:
        template = template_of(self.params, None if stack is None else stack.template, self._stacks.client)
        tags = self._get("Tags")
        return Wish(
            template,
            given_parameters(stack, self._get("Parameters", [])),
            self._get("Capabilities", []),
            None if tags is None else {tag["Key"]: tag["Value"] for tag in tags},
            self._get("RoleARN"),
            bool(self._get("ImportExistingResources", False)),
        )

    def _check_played(self) -> None:
        for name, played in _PLAYED.items():
            if self._get(name, played) != played:
                raise StackError(f"{name}={self._get(name)}: the embedded cloud plays {played} only")

    @_refusing
    def create_stack(self) -> Any:
        """Begin to make a stack."""
        self._check_played()
        return ActionResult({"StackId": self._stacks.create(self._get("StackName"), self._wish(None)).id})

    @_refusing
    def update_stack(self) -> Any:
        """Begin to change a stack."""
        self._check_played()
        stack = self._stacks.find(self._get("StackName"))
        return ActionResult({"StackId": self._stacks.update(stack.id, self._wish(stack)).id})

    @_refusing
    def delete_stack(self) -> Any:
        """Begin to delete a stack."""
        deleted = self._stacks.delete(self._get("StackName"), self._get("RetainResources", []))
        if deleted is not None:
            self._change_sets.forget(deleted)
        return EmptyResult()

    @_refusing
    def create_change_set(self) -> Any:
        """Make a change set."""
        self._check_played()
        kind, name = self._get("ChangeSetType", "UPDATE"), self._get("StackName")
        if kind not in {"CREATE", "UPDATE"}:
            raise StackError(f"ChangeSetType={kind}: the embedded cloud plays CREATE and UPDATE only")
        there = self._stacks.named(name) or self._stacks.stacks.get(name)
        wish = self._wish(there)
        made = self._change_sets.create(self._get("ChangeSetName"), name, kind, wish, self._get("Description"))
        return ActionResult({"Id": made.id, "StackId": made.stack.id})

    @_refusing
    def describe_change_set(self) -> Any:
        """Tell of a change set and its changes."""
        found = self._change_sets.find(self._get("ChangeSetName"), self._get("StackName"))
        return ActionResult(answers.change_set(found))

    @_refusing
    def execute_change_set(self) -> Any:
        """Begin to make the changes of a change set."""
        self._change_sets.execute(self._get("ChangeSetName"), self._get("StackName"))
        return EmptyResult()

    @_refusing
    def delete_change_set(self) -> Any:
        """Delete a change set."""
        self._change_sets.delete(self._get("ChangeSetName"), self._get("StackName"))
        return EmptyResult()

    @_refusing
    def list_change_sets(self) -> Any:
        """Tell of a stack's change sets."""
        stack = self._stacks.find(self._get("StackName"))
        return ActionResult({"Summaries": [answers.change_set_summary(one) for one in self._change_sets.of(stack)]})

    @_refusing
    def describe_stacks(self) -> Any:
        """Tell of one stack, or of all that are not deleted."""
        name = self._get("StackName")
        found = [self._stacks.find(name)] if name else self._stacks.present()
        return ActionResult({"Stacks": [answers.stack(one) for one in found]})

    @_refusing
    def list_stacks(self) -> Any:
        """Tell briefly of stacks in certain states, or of all."""
        states = self._get("StackStatusFilter", [])
        found = [one for one in list(self._stacks.stacks.values()) if not states or one.status in states]
        return ActionResult({"StackSummaries": [answers.stack_summary(one) for one in found]})

    @_refusing
    def describe_stack_events(self) -> Any:
        """Tell what has happened to a stack, the newest first."""
        stack = self._stacks.find(self._get("StackName"))
        return ActionResult({"StackEvents": [answers.event(stack, one) for one in reversed(list(stack.events))]})

    @_refusing
    def describe_stack_resources(self) -> Any:
        """Tell of a stack's resources, or of one of them."""
        stack = self._stacks.find(self._get("StackName"))
        name = self._get("LogicalResourceId")
        found = [one for key, one in list(stack.resources.items()) if name in {None, key}]
        return ActionResult({"StackResources": [answers.resource(stack, one) for one in found]})

    @_refusing
    def describe_stack_resource(self) -> Any:
        """Tell of one resource."""
        stack, name = self._stacks.find(self._get("StackName")), self._get("LogicalResourceId")
        if name not in stack.resources:
            raise StackError(f"Resource {name} does not exist for stack {stack.name}")
        return ActionResult({"StackResourceDetail": answers.resource_detail(stack, stack.resources[name])})

    @_refusing
    def list_stack_resources(self) -> Any:
        """Tell briefly of a stack's resources."""
        stack = self._stacks.find(self._get("StackName"))
        found = list(stack.resources.values())
        return ActionResult({"StackResourceSummaries": [answers.resource_detail(stack, one) for one in found]})

    @_refusing
    def get_template(self) -> Any:
        """Return what a stack was made of."""
        stack = self._stacks.find(self._get("StackName"))
        return ActionResult({"TemplateBody": stack.template.text if stack.template else ""})

    @_refusing
    def validate_template(self) -> Any:
        """Read a template, and tell of its parameters and what it must be given leave for."""
        return ActionResult(answers.summary(template_of(self.params, None, self._stacks.client)))

    @_refusing
    def get_template_summary(self) -> Any:
        """Tell the same, of a template or of a stack's."""
        stack = self._stacks.find(self._get("StackName")) if self._get("StackName") else None
        template = template_of(self.params, stack.template if stack else None, self._stacks.client)
        return ActionResult(answers.summary(template))
