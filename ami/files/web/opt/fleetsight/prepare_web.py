"""Write the files that nginx and the web tier need on an instance: certificate, session keys and nginx's limits.

`start web` starts the unit `fleetsight-prepare`. It runs this script with the settings of the user data, retries
it if it fails, and then starts the other units. The certificate comes from the SSM parameter named by
`FLEETSIGHT_TLS_PARAMETER` (a SecureString with the JSON `{"certificate": PEM, "key": PEM}`), or this instance signs
one itself. With sign-in, the session keys come from the SecureString named by `FLEETSIGHT_SESSION_KEYS_PARAMETER`,
and the client's secret from the one named by `FLEETSIGHT_CLIENT_SECRET_PARAMETER`, if there is one. The script never
prints a secret.
"""

import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HOME = Path("/opt/fleetsight")
TLS = Path("/etc/fleetsight/tls")
SESSION_KEYS = Path("/etc/fleetsight/session-keys")
CLIENT_SECRET = Path("/etc/fleetsight/client-secret")
"""Both are readable only by root. systemd passes them to the web tier's unit in memory (`LoadCredential=`)."""
SIGN_IN = Path("/etc/fleetsight/sign-in.env")
"""The environment of the web tier's unit that follows from them."""
LIMITS = Path("/etc/nginx/fleetsight/limits.conf")
LARGE_BODIES = Path("/etc/nginx/fleetsight/large-bodies.conf")
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
"""Address ranges that contain the load balancer's addresses."""
SELF_SIGNED_DAYS = 825
NGINX = "www-data"
"""Owner of the private key: nginx does not run as root."""


class NotPreparedError(Exception):
    """Raised when the certificate, the session keys or a valid configuration is missing. It has no secrets."""


def main(environment: Mapping[str, str]) -> None:
    """Write the certificate, the session keys and nginx's limits."""
    sys.path.insert(0, str(HOME / "app"))
    from core.config import load_config
    from services.errors import ConfigError

    try:
        config = load_config(HOME / "app" / "config.yaml", environment)
    except ConfigError as error:
        raise NotPreparedError(str(error)) from error
    if config.auth.mode == "none" and not config.auth.open:
        raise NotPreparedError(
            "there is no sign-in (auth.mode none), and nginx serves the page to all clients that can reach "
            "it: enable sign-in (`fleetsight up --set CreateUserPool=true`), or allow all clients to see and do "
            "everything (`fleetsight up --set CreateUserPool=false`, which sets auth.open to true)"
        )
    place = (config.aws.region, config.aws.endpoint_url)
    if config.auth.mode == "oidc":
        name = environment.get("FLEETSIGHT_SESSION_KEYS_PARAMETER", "")
        keep_session_keys(SESSION_KEYS, name, lambda: _parameter(name, "FLEETSIGHT_SESSION_KEYS_PARAMETER", *place))
    else:
        write(SESSION_KEYS, "", 0o600)  # LoadCredential= of the unit needs the file, also without sign-in
    name = environment.get("FLEETSIGHT_CLIENT_SECRET_PARAMETER", "")
    secret = _parameter(name, "FLEETSIGHT_CLIENT_SECRET_PARAMETER", *place, is_optional=True).strip() if name else ""
    write(CLIENT_SECRET, secret, 0o600)
    # The path of the credential: https://systemd.io/CREDENTIALS/
    file = "FLEETSIGHT_CLIENT_SECRET_FILE=/run/credentials/fleetsight-web.service/client-secret\n"
    write(SIGN_IN, file if secret else "", 0o644)
    said = limits(config.classic.wait_seconds, config.web.port, config.web.hosts)
    if environment.get("FLEETSIGHT_BEHIND_LOAD_BALANCER") == "true":
        said += client_addresses()
    write(LIMITS, said, 0o644)
    write(LARGE_BODIES, large_bodies(config.web.max_request_bytes), 0o644)
    if name := environment.get("FLEETSIGHT_TLS_PARAMETER", ""):
        keep_pair(TLS, *from_parameter(name, lambda: _parameter(name, "FLEETSIGHT_TLS_PARAMETER", *place)))
    else:
        self_signed(TLS)
    shutil.chown(TLS / "key.pem", NGINX, NGINX)


def limits(wait_seconds: float, port: int, hosts: Sequence[str]) -> str:
    """Return nginx's settings that follow from the configuration.

    Args:
        wait_seconds: longest time for which a request waits for its image. nginx waits 30 s longer for the response.
        port: port on which gunicorn listens.
        hosts: host names of the page. nginx redirects only to these, to localhost and to IP addresses.
    """
    names = "".join(f'    "{name}" $host;\n' for name in dict.fromkeys(("localhost", *hosts)))
    forwarded = "".join(f'    "{name}" "{name}";\n' for name in hosts)
    return (
        f"proxy_read_timeout {int(wait_seconds) + 30}s;\n"
        f"upstream web_tier {{\n    server 127.0.0.1:{port};\n    keepalive 64;\n    keepalive_timeout 20s;\n}}\n"
        'map $host $own_host {\n    default "";\n    "~^[0-9.]+$" $host;\n    "~^\\[[0-9a-f:.]+\\]$" $host;\n'
        f"{names}}}\n"
        # CloudFront sends the name of the static site in this header.
        f"map $http_x_forwarded_host $page_host {{\n    default $http_host;\n{forwarded}}}\n"
    )


def large_bodies(max_request_bytes: int) -> str:
    """Return nginx's settings for requests with a large body, of at most `max_request_bytes`."""
    return f"client_max_body_size {max_request_bytes};\nauth_request /.may-send;\n"


def client_addresses() -> str:
    """Return nginx's settings behind a load balancer, which sends each client's address in X-Forwarded-For.

    The security group allows only the load balancer to reach this instance. The load balancer appends the address to
    the header that the client sent, so nginx uses only the last address.
    """
    trusted = "".join(f"set_real_ip_from {network};\n" for network in PRIVATE_NETWORKS)
    return f"{trusted}real_ip_header X-Forwarded-For;\nreal_ip_recursive off;\n"


def from_parameter(name: str, get: Callable[[], str]) -> tuple[str, str]:
    """Return the certificate and key that `get` reads from the parameter `name`.

    Raises:
        NotPreparedError: the parameter cannot be read, or does not contain both.
    """
    try:
        pair = json.loads(get())
        return str(pair["certificate"]), str(pair["key"])
    except (ValueError, KeyError, TypeError) as error:
        # Only the type of the error: a message of the JSON parser could quote the key.
        raise NotPreparedError(
            f'the parameter {name} (FLEETSIGHT_TLS_PARAMETER) is not JSON {{"certificate": PEM, "key": PEM}}: '
            f"{type(error).__name__}"
        ) from None


def keep_pair(folder: Path, certificate: str, key: str) -> None:
    """Write `certificate` and `key` into `folder` if they match.

    Raises:
        NotPreparedError: they are not PEM, or do not match.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    write(folder / "new-certificate.pem", certificate, 0o644)
    write(folder / "new-key.pem", key, 0o600)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
            folder / "new-certificate.pem", folder / "new-key.pem"
        )
    except (ssl.SSLError, OSError) as error:
        (folder / "new-key.pem").unlink()
        raise NotPreparedError(f"OpenSSL cannot use the certificate and key: {error}") from None
    (folder / "new-certificate.pem").rename(folder / "certificate.pem")
    (folder / "new-key.pem").rename(folder / "key.pem")


def keep_session_keys(path: Path, name: str, get: Callable[[], str]) -> None:
    """Write the session keys that `get` reads from the parameter `name` to a file at `path` for root only.

    Raises:
        NotPreparedError: `name` is empty, the parameter cannot be read, or its value is invalid.
    """
    from services.errors import ConfigError
    from web_tier.auth.session_keys import KEYS_FILE_VARIABLE, load_session_keys

    if not name:
        raise NotPreparedError(
            "sign-in is enabled (auth.mode oidc), and FLEETSIGHT_SESSION_KEYS_PARAMETER names no parameter with "
            "the session keys: `fleetsight up` creates it, and the stack's user data names it"
        )
    write(path, get(), 0o600)
    try:
        load_session_keys({KEYS_FILE_VARIABLE: str(path)})
    except ConfigError as error:
        path.unlink()
        raise NotPreparedError(
            f"the parameter {name} (FLEETSIGHT_SESSION_KEYS_PARAMETER) is invalid: {error}"
        ) from error


def self_signed(folder: Path) -> None:
    """Create a private key and a self-signed certificate unless they exist.

    Raises:
        NotPreparedError: OpenSSL failed.
    """
    if (folder / "key.pem").exists():
        return
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    new_key, new_certificate = folder / "new-key.pem", folder / "new-certificate.pem"
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", str(new_key))
    names = ("-subj", "/CN=fleetsight", "-addext", "subjectAltName=DNS:fleetsight,DNS:localhost,IP:127.0.0.1")
    end = ("-days", str(SELF_SIGNED_DAYS), "-out", str(new_certificate))
    made = subprocess.run(
        ("openssl", "req", "-x509", *key, *names, *end), check=False, capture_output=True, text=True, timeout=60
    )
    if made.returncode:
        raise NotPreparedError(f"OpenSSL created no certificate: {made.stderr.strip()}")
    new_certificate.rename(folder / "certificate.pem")
    new_key.rename(folder / "key.pem")


def write(path: Path, content: str, mode: int) -> None:
    """Write a file, created with its `mode` so that it is never readable by others."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(content)


def _parameter(name: str, variable: str, region: str, endpoint_url: str | None, *, is_optional: bool = False) -> str:
    """Return the decrypted value of the SSM parameter `name`, which the environment variable `variable` sets.

    An optional parameter that does not exist is empty.

    Raises:
        NotPreparedError: it does not exist, or this instance's role is not allowed to read it.
    """
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    patient = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 5})
    try:
        session = botocore.session.get_session()
        client: Any = session.create_client("ssm", region_name=region, endpoint_url=endpoint_url, config=patient)
        return str(client.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])
    except (BotoCoreError, ClientError) as error:
        if is_optional and isinstance(error, ClientError) and error.response["Error"]["Code"] == "ParameterNotFound":
            return ""
        raise NotPreparedError(
            f"the parameter {name} ({variable}) cannot be read: {error}; create it (`fleetsight up` creates the "
            "session keys), and allow the web role to read it"
        ) from error


if __name__ == "__main__":
    try:
        main(os.environ)
    except NotPreparedError as failure:
        sys.exit(f"fleetsight: {failure}")
