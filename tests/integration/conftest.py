"""The account of rehearsals: one for each module, since moto searches everything that earlier tests have left."""

from collections.abc import Iterator

import pytest

from localcloud.launch import REGION, LocalCloud
from scripts.aws.context import AwsAccount
from tests.support.account import ACCOUNT_APIS
from tests.support.aws_builders import MortalAccount
from tests.support.aws_stage import account_at


@pytest.fixture(scope="module")
def account_cloud(_no_real_aws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud without moto's 500 images, all of which it searches for each of ours; its instances compute nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        with LocalCloud(tmp_path_factory.mktemp("account"), hypervisor=False, extensions=ACCOUNT_APIS) as cloud:
            yield cloud


@pytest.fixture(scope="module")
def accounts(account_cloud: LocalCloud) -> tuple[MortalAccount, AwsAccount]:
    """The account of a process that may be killed, and an observer: making their clients costs more than a bake."""
    url = account_cloud.endpoint_url
    return MortalAccount(REGION, endpoint_url=url), account_at(url)
