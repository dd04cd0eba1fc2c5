"""Makes what nginx and the web tier need of an instance: certificate, keys for sessions, limits of the configuration.

The unit `fleetsight-prepare`, which `start web` starts, runs it with the settings of the user data, again where it
fails, and then starts the other units. The certificate is that of the parameter store (`FLEETSIGHT_TLS_PARAMETER`: a
SecureString that holds JSON, `{"certificate": PEM, "key": PEM}`), or one that this instance signs itself. The keys,
where people sign in, are those of `FLEETSIGHT_SESSION_KEYS_PARAMETER`, a SecureString too. Nothing secret is ever
printed.
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
"""Root's alone; systemd hands it to the web tier's unit, which has it in memory."""
LIMITS = Path("/etc/nginx/fleetsight/limits.conf")
LARGE_BODIES = Path("/etc/nginx/fleetsight/large-bodies.conf")
PRIVATE_NETWORKS = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
"""In which a load balancer has its addresses."""
SELF_SIGNED_DAYS = 825
NGINX = "www-data"
"""The owner of the key: nginx is never root."""


class NotPreparedError(Exception):
    """Raised when certificate, keys or a valid configuration are missing; the message says why, without secrets."""


def main(environment: Mapping[str, str]) -> None:
    """Write certificate, keys and limits."""
    sys.path.insert(0, str(HOME / "app"))
    from core.config import load_config
    from services.errors import ConfigError

    try:
        config = load_config(HOME / "app" / "config.yaml", environment)
    except ConfigError as error:
        raise NotPreparedError(str(error)) from error
    if config.auth.mode == "none" and not config.auth.open:
        raise NotPreparedError(
            "there is no sign-in (auth.mode none), and nginx shows the page to all who reach this instance: let "
            "people sign in (`fleetsight up --set CreateUserPool=true`) or, where everybody who reaches the page may "
            "see and do everything, say so (`fleetsight up --set CreateUserPool=false`, which is auth.open true)"
        )
    place = (config.aws.region, config.aws.endpoint_url)
    if config.auth.mode == "cognito":
        name = environment.get("FLEETSIGHT_SESSION_KEYS_PARAMETER", "")
        keep_session_keys(SESSION_KEYS, name, lambda: _parameter(name, "FLEETSIGHT_SESSION_KEYS_PARAMETER", *place))
    else:
        write(SESSION_KEYS, "", 0o600)  # which the unit names, whether anybody signs in or not
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
        wait_seconds: how long a request may wait for its image; nginx waits a little longer for the answer.
        port: where gunicorn listens.
        hosts: the names of the page. nginx redirects to these, to localhost and to IP addresses, and nowhere else.
    """
    names = "".join(f'    "{name}" $host;\n' for name in dict.fromkeys(("localhost", *hosts)))
    return (
        f"proxy_read_timeout {int(wait_seconds) + 30}s;\n"
        f"upstream web_tier {{\n    server 127.0.0.1:{port};\n    keepalive 64;\n    keepalive_timeout 20s;\n}}\n"
        'map $host $own_host {\n    default "";\n    "~^[0-9.]+$" $host;\n    "~^\\[[0-9a-f:.]+\\]$" $host;\n'
        f"{names}}}\n"
    )


def large_bodies(max_request_bytes: int) -> str:
    """Return nginx's settings of requests with a large body; `max_request_bytes` is the largest that is accepted."""
    return f"client_max_body_size {max_request_bytes};\nauth_request /.may-send;\n"


def client_addresses() -> str:
    """Return nginx's settings behind a load balancer, which writes the address of each client.

    Only the load balancer can reach this instance then, by its security group. It writes the address behind what
    the client has written there itself, so the last address counts, and no further one.
    """
    trusted = "".join(f"set_real_ip_from {network};\n" for network in PRIVATE_NETWORKS)
    return f"{trusted}real_ip_header X-Forwarded-For;\nreal_ip_recursive off;\n"


def from_parameter(name: str, get: Callable[[], str]) -> tuple[str, str]:
    """Return certificate and key of the parameter called `name`, which `get` reads.

    Raises:
        NotPreparedError: it cannot be read, or does not hold both.
    """
    try:
        pair = json.loads(get())
        return str(pair["certificate"]), str(pair["key"])
    except (ValueError, KeyError, TypeError) as error:
        # Not what it says: a message of the JSON parser may quote the key.
        raise NotPreparedError(
            f'the parameter {name} (FLEETSIGHT_TLS_PARAMETER) is not JSON {{"certificate": PEM, "key": PEM}}: '
            f"{type(error).__name__}"
        ) from None


def keep_pair(folder: Path, certificate: str, key: str) -> None:
    """Write `certificate` and `key` into `folder`, once it is sure that they belong together.

    Raises:
        NotPreparedError: they are no PEM, or no pair.
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
        raise NotPreparedError(f"certificate and key are no pair that OpenSSL can use: {error}") from None
    (folder / "new-certificate.pem").rename(folder / "certificate.pem")
    (folder / "new-key.pem").rename(folder / "key.pem")


def keep_session_keys(path: Path, name: str, get: Callable[[], str]) -> None:
    """Write the keys of the parameter called `name`, which `get` reads, to a file of root's at `path`.

    Raises:
        NotPreparedError: none is named, it cannot be read, or what it holds are no keys.
    """
    from services.errors import ConfigError
    from web_tier.auth.session_keys import KEYS_FILE_VARIABLE, load_session_keys

    if not name:
        raise NotPreparedError(
            "people sign in here (auth.mode cognito), and FLEETSIGHT_SESSION_KEYS_PARAMETER names no parameter with "
            "the keys of their sessions: `fleetsight up` makes it, and the stack's user data names it"
        )
    write(path, get(), 0o600)
    try:
        load_session_keys({KEYS_FILE_VARIABLE: str(path)})
    except ConfigError as error:
        path.unlink()
        raise NotPreparedError(
            f"the parameter {name} (FLEETSIGHT_SESSION_KEYS_PARAMETER) is no use: {error}"
        ) from error


def self_signed(folder: Path) -> None:
    """Make a key and a certificate that this instance signs itself, unless they are there.

    Raises:
        NotPreparedError: OpenSSL could not make them.
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
        raise NotPreparedError(f"OpenSSL made no certificate: {made.stderr.strip()}")
    new_certificate.rename(folder / "certificate.pem")
    new_key.rename(folder / "key.pem")


def write(path: Path, content: str, mode: int) -> None:
    """Write a file that cannot be read before it has its `mode`."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(content)


def _parameter(name: str, variable: str, region: str, endpoint_url: str | None) -> str:
    """Return the decrypted value of a parameter, which `variable` names.

    Raises:
        NotPreparedError: there is none, or this instance's role may not read it.
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
        raise NotPreparedError(
            f"the parameter {name} ({variable}) cannot be read: {error}; make it (`fleetsight up` makes the keys of "
            "sessions), and let the web role read it"
        ) from error


if __name__ == "__main__":
    try:
        main(os.environ)
    except NotPreparedError as failure:
        sys.exit(f"fleetsight: {failure}")
