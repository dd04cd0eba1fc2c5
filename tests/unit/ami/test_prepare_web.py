"""What nginx needs of an instance: a certificate with its key, and the configuration's limits."""

import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError

from ami.files.web.opt.fleetsight import prepare_web
from ami.files.web.opt.fleetsight.prepare_web import NotPreparedError, from_parameter, keep_pair, limits, self_signed
from tests.conftest import ROOT

SECRET = "-----BEGIN PRIVATE KEY-----not to be shown"


def pair(folder: Path) -> tuple[str, str]:
    """Return a certificate and its key as PEM."""
    self_signed(folder)
    return (folder / "certificate.pem").read_text(), (folder / "key.pem").read_text()


def is_a_pair(folder: Path) -> bool:
    """Tell whether nginx could use what is in `folder`."""
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return True


def test_an_instance_without_a_certificate_signs_its_own_whose_key_nobody_else_reads(tmp_path: Path) -> None:
    self_signed(tmp_path / "tls")
    assert is_a_pair(tmp_path / "tls")
    assert (tmp_path / "tls" / "key.pem").stat().st_mode & 0o777 == 0o600
    shown = ("openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", str(tmp_path / "tls" / "certificate.pem"))
    assert "DNS:localhost" in subprocess.run(shown, capture_output=True, text=True, check=True).stdout


def test_a_certificate_that_is_there_stays(tmp_path: Path) -> None:
    assert pair(tmp_path) == pair(tmp_path)


def test_the_certificate_of_the_parameter_store_is_kept(tmp_path: Path) -> None:
    certificate, key = pair(tmp_path / "made")
    said = json.dumps({"certificate": certificate, "key": key})
    keep_pair(tmp_path / "tls", *from_parameter("/fleetsight/tls", lambda: said))
    assert is_a_pair(tmp_path / "tls")
    assert (tmp_path / "tls" / "key.pem").read_text() == key
    assert (tmp_path / "tls" / "key.pem").stat().st_mode & 0o777 == 0o600


def test_a_key_of_another_certificate_replaces_nothing(tmp_path: Path) -> None:
    kept = pair(tmp_path / "tls")
    other, key = pair(tmp_path / "one")[0], pair(tmp_path / "other")[1]
    with pytest.raises(NotPreparedError, match="no pair"):
        keep_pair(tmp_path / "tls", other, key)
    assert pair(tmp_path / "tls") == kept


@pytest.mark.parametrize(
    "value", [SECRET, json.dumps([SECRET]), json.dumps({"key": SECRET}), json.dumps({"certificate": SECRET})]
)
def test_a_parameter_that_holds_no_pair_is_named_and_not_shown(value: str) -> None:
    with pytest.raises(NotPreparedError, match="/mine/tls") as caught:
        from_parameter("/mine/tls", lambda: value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_is_no_pem_is_not_shown_either(tmp_path: Path) -> None:
    with pytest.raises(NotPreparedError) as caught:
        keep_pair(tmp_path, SECRET, SECRET)
    assert SECRET not in str(caught.value)
    assert not list(tmp_path.glob("*key*"))


def test_limits_are_those_of_the_configuration() -> None:
    said = limits(max_request_bytes=1000, wait_seconds=300, port=8001)
    assert "client_max_body_size 1000;" in said
    assert "server 127.0.0.1:8001;" in said
    assert "proxy_read_timeout 330s;" in said  # longer than a request may wait for its image


# ---- The whole of it, in places of a test's own


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The instance's folders, somewhere else, and the project as its application."""
    (tmp_path / "app").symlink_to(ROOT)
    monkeypatch.setattr(prepare_web, "HOME", tmp_path)
    monkeypatch.setattr(prepare_web, "TLS", tmp_path / "tls")
    monkeypatch.setattr(prepare_web, "LIMITS", tmp_path / "limits.conf")
    monkeypatch.setattr("shutil.chown", lambda *_: None)
    monkeypatch.syspath_prepend(str(ROOT))
    return tmp_path


def test_a_setting_of_the_stack_reaches_nginx(places: Path) -> None:
    prepare_web.main({"FLEETSIGHT__WEB__MAX_REQUEST_BYTES": "5000"})
    assert "client_max_body_size 5000;" in (places / "limits.conf").read_text()
    assert is_a_pair(places / "tls")


def test_a_configuration_that_is_not_valid_stops_the_start_with_the_key(places: Path) -> None:
    with pytest.raises(NotPreparedError, match=r"web\.port"):
        prepare_web.main({"FLEETSIGHT__WEB__PORT": "none"})
    assert not (places / "tls").exists()


class Store:
    """A client of the parameter store, which holds one parameter."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    def get_parameter(self, **asked: Any) -> Any:
        """Return the parameter as SSM does."""
        if self._value is None:
            raise ClientError({"Error": {"Code": "ParameterNotFound", "Message": "none"}}, "GetParameter")
        assert asked == {"Name": "/mine/tls", "WithDecryption": True}
        return {"Parameter": {"Value": self._value}}


def offer(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    """Let botocore's clients be `store`."""
    monkeypatch.setattr(botocore.session.Session, "create_client", lambda *_, **__: store)


def test_the_parameter_is_read_decrypted(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = pair(places / "made")
    offer(monkeypatch, Store(json.dumps({"certificate": certificate, "key": key})))
    prepare_web.main({"FLEETSIGHT_TLS_PARAMETER": "/mine/tls"})
    assert (places / "tls" / "certificate.pem").read_text() == certificate


def test_a_parameter_that_is_not_there_is_named(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Store(None))
    with pytest.raises(NotPreparedError, match=r"/mine/tls .*ParameterNotFound"):
        prepare_web.main({"FLEETSIGHT_TLS_PARAMETER": "/mine/tls"})
