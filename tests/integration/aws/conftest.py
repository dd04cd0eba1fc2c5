"""The account of the AWS commands: of ministack, with what it lacks for them."""

import re
from collections.abc import Iterator

import pytest

from localcloud.launch import REGION
from scripts.aws.context import AwsAccount, AwsContext
from scripts.aws.deploy.settings import upload_template
from tests.support.aws_builders import MortalAccount
from tests.support.aws_stage import account_at
from tests.support.emulator import running_emulator


@pytest.fixture(scope="session")
def accounts(emulated_url: str) -> tuple[MortalAccount, AwsAccount]:
    """The account of a process that may be killed, and an observer: making their clients costs more than a bake."""
    return MortalAccount(REGION, endpoint_url=emulated_url), account_at(emulated_url)


GAPS: dict[str, tuple[str, str]] = {
    "no !Split in a condition": (r"(?<=BundleIsInS3: ).*", '!Equals [!Ref BundleAddress, "s3:"]'),
    "no signals of instances": (r"^    CreationPolicy: .*\n", ""),
}
"""Parts of the template that ministack lacks, by regular expressions, and what replaces them."""


@pytest.fixture(scope="session")
def emulated_url(_no_real_aws: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an account of ministack with `emulator_mends`, for all tests of a process."""
    folder = tmp_path_factory.mktemp("account")
    with running_emulator(folder, services="", extension="tests.support.emulator_mends") as endpoint_url:
        yield endpoint_url


@pytest.fixture(scope="module")
def account(emulated_url: str) -> Iterator[AwsAccount]:
    """That account; `up` uploads the template without the gaps."""

    def upload(context: AwsContext, body: str) -> str:
        """Upload the template; ministack knows only URLs with the bucket in the path."""
        for gap, (pattern, instead) in GAPS.items():
            body, count = re.subn(pattern, lambda _, instead=instead: instead, body, flags=re.MULTILINE)  # type: ignore[misc]
            assert count, gap
        return re.sub(r"//([^.]+)\.(s3\.[^/]+)", r"//\2/\1", upload_template(context, body))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.aws.deploy.up.upload_template", upload)
        yield account_at(emulated_url)
