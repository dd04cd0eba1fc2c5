"""One fuzzing process: `python -m tests.fuzz.engine TARGET FOLDER [LIBFUZZER'S OPTIONS AND FOLDERS]`; see `runner`.

Writes the target's seeds and words under FOLDER first. The code of ours that a target reaches, and the parsers in
Python below it, are instrumented as they are imported, so that an input which takes a new branch is kept and mutated.
"""

import logging
import os
import sys
from hashlib import sha1
from importlib import import_module
from pathlib import Path
from types import ModuleType

import atheris

INSTRUMENTED = [
    *("services", "core", "localcloud", "web_tier", "tests.fuzz.targets"),
    *("PIL", "werkzeug.formparser", "werkzeug.http", "werkzeug.sansio", "yaml", "joserfc", "gunicorn.http"),
]
SEEDS, WORDS = "seeds", "words"


def main(target: str, folder: str, *options: str) -> None:
    """Fuzz a target until libFuzzer's options say that it is enough."""
    logging.disable(logging.CRITICAL)
    os.environ |= {"AWS_ACCESS_KEY_ID": "fuzz", "AWS_SECRET_ACCESS_KEY": "fuzz", "AWS_EC2_METADATA_DISABLED": "true"}
    atheris.enabled_hooks.add("str")
    with atheris.instrument_imports(include=INSTRUMENTED):
        module = import_module(f"tests.fuzz.targets.{target}")
    _write_seeds(module, Path(folder))
    atheris.Setup(["tests.fuzz.engine", *options], module.target)
    atheris.Fuzz()


def _write_seeds(module: ModuleType, folder: Path) -> None:
    (folder / SEEDS).mkdir(parents=True, exist_ok=True)
    for seed in module.seeds():
        (folder / SEEDS / sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in module.WORDS)
    (folder / WORDS).write_text("".join(f'"{word}"\n' for word in escaped))


if __name__ == "__main__":
    main(*sys.argv[1:])
