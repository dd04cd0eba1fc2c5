"""Configuration: for any content of a file or the environment, there is a valid configuration or a `ConfigError`.

An input is the YAML of a file, a NUL, and assignments of overrides, a line each; where the file is empty, they
override the configuration that ships.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from core.config import PREFIX, Config, load_config, parse_config
from services.errors import ConfigError

ROOT = Path(__file__).parents[3]
MAX_MESSAGE_BYTES = 100_000
"""Characters of an error; one that repeats what it was given for ever would fill a log."""

WORDS = (
    *(b"fleet:", b"web:", b"auth:", b"prices:", b"instance_hour: {", b"schedule: [{", b"max_workers: ", b"port: "),
    *(
        b"\x00",
        b"FLEET__MAX_WORKERS=",
        b"WEB__HOSTS=[",
        b"AUTH__MODE=oidc",
        b"&a ",
        b"*a",
        b"<<: *a",
        b"? [",
        b"!!",
    ),
    *(
        b"!!binary ",
        b"!!timestamp ",
        b"!!int ",
        b"!!float ",
        b"!!set ",
        b"!!omap ",
        b"2026-99-99",
        b"[[[[",
        b"{? ",
        b".nan",
    ),
    *(b".inf", b"0x", b"0b", b"1:00", b"null", b"~", b"%YAML 9", b"--- ", b'"\\ud800"', b'"\\U00110000"', b"__"),
)

_SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
_FOLDER = tempfile.TemporaryDirectory(prefix="fleetsight-fuzz-")
_FILE = Path(_FOLDER.name) / "config.yaml"


def seeds() -> Iterator[bytes]:
    yield yaml.safe_dump(_SHIPPED, default_flow_style=True, width=10_000).encode() + b"\x00"
    for section, values in _SHIPPED.items():
        yield yaml.safe_dump({section: values}).encode() + b"\x00"
    yield b"\x00FLEET__MAX_WORKERS=3\nFLEET__SCHEDULE=[]\nWEB__PORT=80"
    yield b"a: &a [1, 2]\nb: *a\n\x00AUTH__MODE=none"


def target(data: bytes) -> None:
    text, _, lines = data.partition(b"\x00")
    try:
        config = _read(text, _overrides(lines))
    except ConfigError as error:
        assert 0 < len(str(error)) <= MAX_MESSAGE_BYTES, f"an error of {len(str(error))} characters"
    else:
        assert parse_config(config.model_dump(mode="json")) == config


def _read(text: bytes, overrides: Mapping[str, str]) -> Config:
    if not text:
        return parse_config(_SHIPPED, overrides)
    _FILE.write_bytes(text)
    return load_config(_FILE, overrides)


def _overrides(lines: bytes) -> dict[str, str]:
    pairs = (line.partition("=") for line in lines.decode(errors="surrogateescape").splitlines())
    return {f"{PREFIX}{name}": value for name, _, value in pairs}
