"""The prototype of packs, docs/scale.md."""

import pytest

from benchmarks.capacity_model import CapacityModel, Setup
from benchmarks.packs import PACK_IMAGES, PackCollectorPrototype, answer_of, dollars
from benchmarks.virtual_aws import CallCosts
from benchmarks.virtual_time import VirtualExecutor
from core.config import load_config
from core.cost import WHOLE_IMAGE
from core.jobs.store import JobStore
from tests.conftest import ROOT


def test_a_pack_that_is_answered_again_is_counted_once_and_a_takeover_reads_the_same_counts() -> None:
    model = CapacityModel(Setup(CallCosts(object=0.0), core_speed=lambda: 0.0))
    job_id = model.new_job(0).job_id
    answers = [answer_of(job_id, PACK_IMAGES * number).to_json() for number in range(30)]
    model.responses.add(answers)
    collector, next_one = (
        PackCollectorPrototype(model.responses.queue(), model.items.table(), VirtualExecutor(model.virtual, 4))
        for _ in range(2)
    )
    for repeated in ([], answers[:10]):
        model.responses.add(repeated)
        while model.responses.waiting():
            model.virtual.run_tasks(collector.tick)
    model.virtual.run_tasks(collector.counts_tick)
    model.virtual.run_tasks(lambda: next_one.take_over(job_id))
    assert collector.jobs[job_id] == next_one.jobs[job_id]
    assert (collector.jobs[job_id].done, collector.jobs[job_id].failed) == (30 * 49, 30)
    assert model.virtual.run_tasks(lambda: JobStore(model.items.table()).counts(job_id).done) == [30 * 49]
    assert (model.responses.waiting(), model.responses.in_flight()) == (0, 0)


def test_packs_cost_a_twentieth_and_less_when_they_are_uploaded_as_one_object() -> None:
    config = load_config(ROOT / "config.yaml", {})
    requests = {name: each for name, each, _ in dollars(config)}
    as_it_is, an_object_each, tar = requests.values()
    assert requests["as it is"] == pytest.approx(1e6 * WHOLE_IMAGE.dollars(config.prices))
    assert an_object_each < as_it_is / 2
    assert tar < as_it_is / 20
