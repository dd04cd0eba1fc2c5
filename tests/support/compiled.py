"""Templates and routes that are compiled once for all applications of a run, of which most tests make one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket as CompiledTemplate
from werkzeug.routing import Rule


class CompiledTemplates(BytecodeCache):
    """Keeps each template that was compiled."""

    def __init__(self) -> None:
        self._compiled: dict[str, bytes] = {}

    def load_bytecode(self, bucket: CompiledTemplate) -> None:
        if bucket.key in self._compiled:
            bucket.bytecode_from_string(self._compiled[bucket.key])

    def dump_bytecode(self, bucket: CompiledTemplate) -> None:
        self._compiled[bucket.key] = bucket.bytecode_to_string()


@contextmanager
def compiled_once() -> Iterator[None]:
    """Compile each template and each route once; Werkzeug compiles a function for each route of each application."""
    compile_builder, compiled = Rule._compile_builder, dict[tuple[object, ...], Any]()

    def compile_route(rule: Rule, append_unknown: bool = True) -> Any:
        key = (rule.rule, tuple(rule._trace), repr(rule.defaults), append_unknown)
        if key not in compiled:
            compiled[key] = compile_builder(rule, append_unknown)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Flask.jinja_options, "bytecode_cache", CompiledTemplates())
        patch.setattr(Rule, "_compile_builder", compile_route)
        yield
