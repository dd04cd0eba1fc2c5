"""The catalogue of models: which model a new job gets, and that no change reaches a job that exists."""

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from core.ids import ImageRef, new_id
from core.jobs.models import ImageRecord, Job
from core.jobs.requests import requests_of
from core.jobs.store import JobStore
from core.messages import RequestMessage
from core.model_catalog import (
    MAX_VERSIONS,
    CatalogRefusedError,
    CatalogStore,
    JobModel,
    ModelCatalog,
    UnknownModelError,
    with_model,
)
from tests.support.bundles import first_catalog, version_of
from tests.support.jobs import NOW
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.features.models.catalog import rolled_back, with_configured, with_default, without_model

NAMES = ("signs", "birds", "cars", "trees")


class CatalogMachine(RuleBasedStateMachine):
    """Any sequence of changes, made by several processes, against a model of names."""

    def __init__(self) -> None:
        super().__init__()
        self.table = MemoryTable()
        self.catalogs, self.jobs = CatalogStore(self.table), JobStore(self.table)
        self.names, self.default = ["signs"], "signs"
        self.previous: str | None = None
        self.expected: dict[str, JobModel] = {}

    def change(self, change: Callable[[ModelCatalog], ModelCatalog]) -> bool:
        """Make a change; return whether it was accepted. A refused one changes nothing."""
        before = dict(self.table.items)
        try:
            self.catalogs.change(change, first_catalog)
        except (CatalogRefusedError, UnknownModelError):
            assert self.table.items == before
            return False
        return True

    def set_default(self, name: str) -> None:
        """Follow another default."""
        if name != self.default:
            self.default, self.previous = name, self.default

    @rule(name=st.sampled_from(NAMES))
    def add(self, name: str) -> None:
        assert self.change(lambda catalog: with_model(catalog, version_of(name)))
        if name not in self.names:
            self.names.append(name)

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        is_possible = name in self.names and name != self.default
        assert self.change(lambda catalog: without_model(catalog, name)) is is_possible
        if is_possible:
            self.names.remove(name)
            self.previous = None if self.previous == name else self.previous

    @rule(name=st.sampled_from(NAMES))
    def use(self, name: str) -> None:
        is_possible = name in self.names
        assert self.change(lambda catalog: with_default(catalog, name)) is is_possible
        if is_possible:
            self.set_default(name)

    @rule()
    def roll_back(self) -> None:
        assert self.change(rolled_back) is (self.previous is not None)
        if self.previous is not None:
            self.set_default(self.previous)

    @rule(name=st.sampled_from(NAMES))
    def configure(self, name: str) -> None:
        assert self.change(lambda catalog: with_configured(catalog, version_of(name)))
        if name not in self.names:
            self.names.append(name)
        self.set_default(name)

    @rule(name=st.one_of(st.none(), st.sampled_from(NAMES)))
    def create_job(self, name: str | None) -> None:
        catalog, job_id = self.catalogs.find() or first_catalog(), new_id()
        if name is not None and name not in self.names:
            with pytest.raises(UnknownModelError, match=", ".join(self.names)):
                catalog.model_for_job(name)
            return
        model = catalog.model_for_job(name)
        assert model.name == (name or self.default)
        job = Job(job_id, "job", NOW, model=model)
        self.jobs.create(job)
        ref = ImageRef(job_id, new_id())
        self.jobs.record_images([ImageRecord(ref, "a.png", "png", (1,), NOW, model=job.requested_model)], NOW)
        self.expected[job_id] = model

    @precondition(lambda self: self.catalogs.find() is not None)
    @rule(name=st.sampled_from(NAMES))
    def change_at_the_same_moment_as_another_process(self, name: str) -> None:
        """Of two processes that have read the same edition, the second one changes what the first has stored."""

        def change(catalog: ModelCatalog) -> ModelCatalog:
            if not other:
                other.append(self.catalogs.change(lambda each: with_model(each, version_of("birds")), first_catalog))
            return with_model(catalog, version_of(name))

        other: list[ModelCatalog] = []
        self.catalogs.change(change, first_catalog)
        for each in ("birds", name):
            if each not in self.names:
                self.names.append(each)

    @invariant()
    def new_jobs_get_the_default(self) -> None:
        catalog = self.catalogs.find() or first_catalog()
        assert [each.name for each in catalog.versions] == self.names
        assert catalog.default_version.name == self.default
        assert (catalog.previous and catalog.named(catalog.previous).name) == self.previous

    @invariant()
    def each_job_keeps_its_model(self) -> None:
        for job_id, model in self.expected.items():
            assert self.jobs.job(job_id).model == model
            [image] = self.jobs.images(job_id)
            [(message, _)] = requests_of([image], NOW)
            request = RequestMessage.from_json(message.body)
            assert request.model == model.requested


TestCatalog = CatalogMachine.TestCase


def test_a_name_means_one_bundle_for_good_and_a_bundle_has_one_name() -> None:
    catalog = with_model(first_catalog(), version_of("birds"))
    other = version_of("birds", "f" * 64)
    with pytest.raises(CatalogRefusedError, match="another name"):
        with_model(catalog, other)
    renamed = version_of("birds").model_copy(update={"name": "swans"})
    with pytest.raises(CatalogRefusedError, match="this bundle is the model 'birds' already"):
        with_model(catalog, renamed)
    assert with_configured(catalog, renamed).versions == catalog.versions
    later = version_of("birds").model_copy(update={"place": "s3://elsewhere/birds", "added_by": "ada"})
    assert with_model(catalog, later) == catalog
    configured = with_configured(catalog, other)
    assert configured.default_version.name == "birds-ffffffffffff"
    assert [each.name for each in configured.versions][:2] == ["signs", "birds"]


def test_a_full_catalogue_refuses_another_model_but_follows_the_configuration() -> None:
    catalog = first_catalog()
    for number in range(MAX_VERSIONS - 1):
        catalog = with_model(catalog, version_of(f"model-{number}"))
    with pytest.raises(CatalogRefusedError, match="remove one"):
        with_model(catalog, version_of("one-more"))
    configured = with_configured(catalog, version_of("one-more"))
    names = [each.name for each in configured.versions]
    assert len(names) == MAX_VERSIONS
    # Neither the default before nor the new one, but the oldest other version.
    assert "model-0" not in names
    assert {"signs", "one-more"} < set(names)
