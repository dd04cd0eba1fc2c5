"""What fuzzing has found stays found: seeds and corpus of every target, and what Hypothesis makes, hold its promises.

The fuzzing itself is `python -m tests.fuzz`; `scripts/test.sh` runs it for a minute.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import CORPUS, TARGETS


@pytest.fixture(params=TARGETS)
def module(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The module of each target."""
    yield import_module(f"tests.fuzz.targets.{request.param}")


def corpus(module: ModuleType) -> list[Path]:
    return sorted((CORPUS / module.__name__.rpartition(".")[2]).iterdir())


def test_every_target_holds_its_promises_for_its_seeds_and_its_corpus(module: ModuleType) -> None:
    for data in [*module.seeds(), *(file.read_bytes() for file in corpus(module))]:
        module.target(data)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_target_holds_its_promises_for_seeds_that_were_tampered_with(
    module: ModuleType, data: st.DataObject
) -> None:
    seed = data.draw(st.sampled_from(list(module.seeds())))
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(seed))] * 2)))
    put_in = data.draw(st.binary(max_size=20) | st.sampled_from(module.WORDS))
    module.target(seed[:start] + put_in + seed[end:])
