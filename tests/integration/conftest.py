"""The account of rehearsals."""

import pytest

from localcloud.launch import REGION, LocalCloud
from scripts.aws.context import AwsAccount
from tests.support.aws_builders import MortalAccount
from tests.support.aws_stage import account_at


@pytest.fixture(scope="session")
def accounts(cloud: LocalCloud) -> tuple[MortalAccount, AwsAccount]:
    """The account of a process that may be killed, and an observer: making their clients costs more than a bake."""
    return MortalAccount(REGION, endpoint_url=cloud.endpoint_url), account_at(cloud.endpoint_url)
