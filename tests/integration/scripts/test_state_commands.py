"""`fleetsight state`: copies, restores and removes a state, as a person types it."""

import os
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.config import Config
from core.provision import provision
from scripts.cli import fleetsight
from scripts.run.state import StateFolderError, open_state
from services.clients import Clients

pytestmark = pytest.mark.processes


def run(command: str) -> Result:
    return CliRunner().invoke(fleetsight, ["state", *shlex.split(command)])


def test_a_state_that_is_in_use_is_neither_copied_nor_removed(tmp_path: Path) -> None:
    state = tmp_path / "state"
    lock = open_state(state).lock
    for command in (f"snapshot {state} {tmp_path}/backup", f"reset {state}"):
        refused = run(command)
        assert isinstance(refused.exception, StateFolderError)
        assert str(refused.exception) == f"the state {state} is in use: stop the system that runs with it"
    os.close(lock)
    assert run(f"reset {state}").exit_code == 0


def test_a_changed_configuration_changes_the_queues_of_a_state(clients: Clients, config: Config) -> None:
    provision(clients, config)
    queues = config.queues.model_copy(update={"visibility_timeout_seconds": 77})
    provision(clients, config.model_copy(update={"queues": queues}))
    url = clients.sqs.get_queue_url(QueueName=config.queue_name(config.names.request_queue))["QueueUrl"]
    found = clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    assert found == {"VisibilityTimeout": "77"}
