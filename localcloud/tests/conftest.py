"""What every test of the local cloud has: the owner's credentials and no others, so that no call can reach AWS."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from localcloud.access_keys import owner_key

# No example fails because the machine is busy.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _no_real_aws() -> Iterator[None]:
    """Credentials of local clouds only: AWS refuses a test that forgets its endpoint, at no cost."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in owner_key().environment.items():
            patch.setenv(name, value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/dev/null")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        patch.delenv("AWS_PROFILE", raising=False)
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        yield
