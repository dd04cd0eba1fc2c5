"""OpenID providers that we did not write, on ports of loopback, and what their users do there without a browser."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests

from scripts.run.system import free_port
from tests.support.node import NODE, install
from tests.support.waiting import DEADLINE_SECONDS, wait_until

DISCOVERY = "/.well-known/openid-configuration"
FOLDER = Path(__file__).parent / "oidc"
OPERATOR, USER = "operator", "user"
CLIENT = "fleetsight"
SECRET = "the secret of the site"


@dataclass(frozen=True)
class RunningProvider:
    """A provider on loopback.

    Attributes:
        form: fields of each of its pages, by a text in the page; `sub` stands for the user.
    """

    issuer: str
    form: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, object]:
        """The section `auth` of a site that its users sign in to."""
        return {"mode": "oidc", "issuer": self.issuer, "client_id": CLIENT}

    def sign_in(self, address: str, sub: str) -> str:
        """Do what a user does from the address of a redirect on; return the address of the site that follows."""
        browser = requests.Session()
        answer = browser.get(address, allow_redirects=False, timeout=DEADLINE_SECONDS)
        for _ in range(20):
            if answer.is_redirect:
                address = urljoin(answer.url, answer.headers["Location"])
                if not address.startswith(self.issuer):
                    return address
                answer = browser.get(address, allow_redirects=False, timeout=DEADLINE_SECONDS)
                continue
            assert answer.status_code == 200, answer.text
            fields = next(fields for text, fields in self.form.items() if text in answer.text)
            filled = {name: value.replace("SUB", sub) for name, value in fields.items()}
            action = re.search(r'<form[^>]* action="([^"]+)"', answer.text)
            target = urljoin(answer.url, action[1] if action else answer.url)
            answer = browser.post(target, filled, allow_redirects=False, timeout=DEADLINE_SECONDS)
        raise AssertionError(f"the provider does not return to the site: {answer.url}")


@contextmanager
def mock_provider(site: str) -> Iterator[RunningProvider]:
    """Run PyPI's oidc-provider-mock, which accepts every client and secret."""
    users = [
        {"sub": sub, "email": f"{sub}@example.org", "email_verified": True, "groups": groups}
        for sub, groups in ((USER, []), (OPERATOR, ["operators"]))
    ]
    claims = [option for user in users for option in ("--user-claims", json.dumps(user))]
    port = free_port()
    command = [sys.executable, "-m", "oidc_provider_mock", "--port", str(port), *claims]
    with _running(command, port):
        yield RunningProvider(f"http://127.0.0.1:{port}", {"Authorize Client": {"sub": "SUB"}})


@contextmanager
def certified_provider(site: str) -> Iterator[RunningProvider]:
    """Run npm's oidc-provider, which the OpenID Foundation has certified, with the client of a site."""
    install(FOLDER)
    port = free_port()
    forms = {
        'name="password"': {"prompt": "login", "login": "SUB", "password": "any"},
        "consent": {"prompt": "consent"},
    }
    with _running([str(NODE), str(FOLDER / "provider.mjs"), str(port), site], port):
        yield RunningProvider(f"http://127.0.0.1:{port}", forms)


@contextmanager
def _running(command: list[str], port: int) -> Iterator[None]:
    """Run a provider until the context ends; wait for its first answer."""

    def answers() -> bool:
        assert process.poll() is None, process.returncode
        with suppress(requests.ConnectionError):
            return requests.get(f"http://127.0.0.1:{port}{DISCOVERY}", timeout=DEADLINE_SECONDS).ok
        return False

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(answers, "the provider answers")
            yield
        finally:
            process.kill()


Judge = Callable[[str], AbstractContextManager[RunningProvider]]
JUDGES: dict[str, Judge] = {"oidc-provider-mock": mock_provider, "oidc-provider": certified_provider}
"""Providers by their packages; each is given the address of the site."""

EACH_JUDGE = ("oidc-provider-mock", pytest.param("oidc-provider", marks=pytest.mark.thorough))
"""Parameters of tests; the second one installs packages of npm."""
