"""`fleetsight state`: copies, restores and removes a state, as a person types it."""

import os
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.config import Config
from core.provision import provision, provision_table
from scripts.cli import fleetsight
from scripts.run.sign_in import OPERATOR, LocalSignIn, prepare_sign_in
from scripts.run.state import StateFolderError, open_state
from services.accounts import Accounts
from services.clients import Clients
from services.users import Account, CodeRequired, UserPool

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


def test_a_later_run_keeps_the_operator_and_session_keys_and_changes_the_password(
    clients: Clients, config: Config, tmp_path: Path
) -> None:
    provision_table(clients, config)

    def prepare() -> tuple[LocalSignIn, Account, str]:
        sign_in = prepare_sign_in(clients, config.names.job_table, tmp_path, name="kept", second_factor=True)
        pool = UserPool(clients.cognito_idp, sign_in.pool_id, sign_in.client_id)
        assert isinstance(pool.sign_in(OPERATOR, sign_in.password), CodeRequired)
        [operator] = Accounts(clients.cognito_idp, sign_in.pool_id).list()
        return sign_in, operator, sign_in.keys.read_text()

    first, second = prepare(), prepare()
    assert first[1:] == second[1:]
    assert (first[0].pool_id, first[0].client_id) == (second[0].pool_id, second[0].client_id)
    assert first[0].password != second[0].password


def test_a_changed_configuration_changes_the_queues_of_a_state(clients: Clients, config: Config) -> None:
    provision(clients, config)
    queues = config.queues.model_copy(update={"visibility_timeout_seconds": 77})
    provision(clients, config.model_copy(update={"queues": queues}))
    url = clients.sqs.get_queue_url(QueueName=config.queue_name(config.names.request_queue))["QueueUrl"]
    found = clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    assert found == {"VisibilityTimeout": "77"}
