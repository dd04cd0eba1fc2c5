"""moto is pinned, and what is replaced in it is still what the replacement was written for."""

import types
from importlib.metadata import version
from typing import Any

import pytest

from localcloud import patches
from localcloud.patches import (
    MODULES,
    MOTO_VERSION,
    MotoChangedError,
    NewAttribute,
    Patch,
    apply_patches,
    check_version,
    patches_of,
)

ALL = [pytest.param(m, id=m.symbol) for service in MODULES for m in patches_of(service)]


def test_moto_is_exactly_the_version_that_the_mends_were_written_for() -> None:
    assert version("moto") == MOTO_VERSION == "5.2.5"


@pytest.mark.parametrize("one", ALL)
def test_a_mended_symbol_still_exists_with_the_expected_signature(one: Patch | NewAttribute) -> None:
    one.check()


@pytest.mark.parametrize("one", ALL)
def test_a_mend_says_what_it_mends(one: Patch | NewAttribute) -> None:
    assert one.why


def test_a_symbol_that_is_gone_is_named_with_the_remedy() -> None:
    gone = Patch("moto.sqs.models:Queue.no_such_thing", (), lambda original: original, "test")
    with pytest.raises(MotoChangedError, match=r"Queue\.no_such_thing no longer exists; install moto==5\.2\.5"):
        gone.apply()


def test_a_symbol_with_another_signature_is_named_with_both() -> None:
    other = Patch("moto.sqs.models:Queue.url", ("self", "host"), lambda original: original, "test")
    with pytest.raises(MotoChangedError, match=r"\('self', 'request_url'\), expected \('self', 'host'\)"):
        other.apply()


def test_another_version_of_moto_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "version", lambda _name: "5.3.0")
    with pytest.raises(MotoChangedError, match=r"moto 5\.3\.0 is installed, 5\.2\.5 expected"):
        check_version()


def test_a_mend_replaces_the_symbol_by_what_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mended_module")
    module.double = lambda x: 2 * x  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "mended_module", module)

    def build(original: Any) -> Any:
        return lambda x: original(x) + 1

    Patch("mended_module:double", ("x",), build, "test").apply()
    assert module.double(3) == 7


def test_a_service_without_mends_is_left_as_it_is() -> None:
    assert patches_of("kms") == ()
    apply_patches("kms")


def test_an_addition_gives_a_symbol_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lacking_module")
    monkeypatch.setitem(__import__("sys").modules, "lacking_module", module)
    addition = NewAttribute("lacking_module:answer", 42, "test")
    addition.apply()
    assert module.answer == 42
    addition.check()  # again: what is there is ours


def test_an_addition_that_is_no_longer_needed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("lacking_module")
    module.answer = 41  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "lacking_module", module)
    with pytest.raises(MotoChangedError, match=r"lacking_module:answer exists; install moto==5\.2\.5"):
        NewAttribute("lacking_module:answer", 42, "test").apply()
