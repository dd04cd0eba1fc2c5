"""moto is pinned, its patched symbols are as expected, and cached names are those that stock moto derives."""

import types
import weakref
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from moto.core.serialize import AttributePickerContext, XFormedAttributePicker
from moto.core.utils import get_service_model
from moto.sqs.models import Message

from localcloud import patches
from localcloud.dynamodb import is_json_value
from localcloud.patches import (
    MODULES,
    MOTO_VERSION,
    AttributeNames,
    MotoChangedError,
    NewAttribute,
    Patch,
    apply_patches,
    check_version,
    patches_of,
)

ALL = [pytest.param(m, id=m.symbol) for service in MODULES for m in patches_of(service)]


def test_moto_has_the_version_that_the_patches_were_written_for() -> None:
    assert version("moto") == MOTO_VERSION == "5.2.5"


@pytest.mark.parametrize("one", ALL)
def test_patched_symbol_has_the_expected_signature(one: Patch | NewAttribute) -> None:
    one.check()


@pytest.mark.parametrize("one", ALL)
def test_every_patch_has_a_reason(one: Patch | NewAttribute) -> None:
    assert one.why


def test_missing_symbol_is_named_with_the_remedy() -> None:
    missing = Patch("moto.sqs.models:Queue.no_such_thing", (), lambda original: original, "test")
    with pytest.raises(MotoChangedError, match=r"Queue\.no_such_thing no longer exists; install moto==5\.2\.5"):
        missing.apply()


def test_a_symbol_with_another_signature_is_named_with_both() -> None:
    other = Patch("moto.sqs.models:Queue.url", ("self", "host"), lambda original: original, "test")
    with pytest.raises(MotoChangedError, match=r"\('self', 'request_url'\), expected \('self', 'host'\)"):
        other.apply()


def test_another_version_of_moto_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "version", lambda _name: "5.3.0")
    with pytest.raises(MotoChangedError, match=r"moto 5\.3\.0 is installed, 5\.2\.5 expected"):
        check_version()


def test_patch_replaces_a_symbol_by_what_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("patched_module")
    module.double = lambda x: 2 * x  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "patched_module", module)

    def build(original: Any) -> Any:
        return lambda x: original(x) + 1

    Patch("patched_module:double", ("x",), build, "test").apply()
    assert module.double(3) == 7


def test_service_without_patches_stays_stock() -> None:
    assert patches_of("kms") == ()
    apply_patches("kms")


def test_new_attribute_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lacking_module")
    monkeypatch.setitem(__import__("sys").modules, "lacking_module", module)
    addition = NewAttribute("lacking_module:answer", 42, "test")
    addition.apply()
    assert module.answer == 42
    addition.check()  # again: what is there is ours


def test_new_attribute_that_exists_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lacking_module")
    module.answer = 41  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "lacking_module", module)
    with pytest.raises(MotoChangedError, match=r"lacking_module:answer exists; install moto==5\.2\.5"):
        NewAttribute("lacking_module:answer", 42, "test").apply()


def contexts(service: str, operation: str, member: str) -> list[AttributePickerContext]:
    """Every member of a structure in an answer, read from a dict and from an object."""
    model = get_service_model(service)
    shape = model.operation_model(operation).output_shape.members[member].member
    for part in shape.members.values():
        part.parent = shape
    sources: tuple[object, ...] = ({}, SimpleNamespace())
    return [
        AttributePickerContext(source, name, part, None, model)
        for name, part in shape.members.items()
        for source in sources
    ]


@pytest.mark.parametrize(
    ("service", "operation", "member"),
    [("ec2", "DescribeInstances", "Reservations"), ("sqs", "ReceiveMessage", "Messages")],
)
def test_the_names_that_are_tried_are_those_of_stock_moto(service: str, operation: str, member: str) -> None:
    names, picker = AttributeNames(), XFormedAttributePicker()
    for _ in range(2):
        for context in contexts(service, operation, member):
            expected = tuple(dict.fromkeys(picker.get_possible_keys(context)))
            assert names.candidates(picker, context) == expected


def test_cached_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localcloud.patches.MAX_CACHED_NAMES", 4)
    names, picker = AttributeNames(), XFormedAttributePicker()
    for context in contexts("sqs", "ReceiveMessage", "Messages"):
        names.candidates(picker, context)
        assert len(names._known) <= 4


def test_a_member_that_a_transformer_names_is_left_to_stock_moto() -> None:
    names = AttributeNames()
    transformers = {"RunInstances.Reservation.Instances.Instance.State": str}
    assert names.may_transform(transformers, "State")
    assert not names.may_transform(transformers, "InstanceId")
    assert not names.may_transform({}, "State")


@pytest.mark.parametrize(
    ("attribute", "plain"),
    [
        ({"S": "text"}, True),
        ({"N": "1"}, True),
        ({"L": [{"S": "a"}, {"M": {"k": {"BOOL": True}}}]}, True),
        ({"SS": ["a"]}, True),
        ({"B": "AA=="}, False),
        ({"L": [{"B": "AA=="}]}, False),
        ({"M": {"k": {"BS": ["AA=="]}}}, False),
        ({}, False),
        ("text", False),
    ],
)
def test_an_attribute_with_bytes_in_it_is_not_plain(attribute: object, plain: bool) -> None:
    assert is_json_value(attribute) is plain


def test_unused_models_are_freed() -> None:
    """Stock moto never frees a model: its dashboard refers to every message and every overwritten object."""
    apply_patches("core")
    message = Message("id", "body")
    seen = weakref.ref(message)
    del message
    assert seen() is None
