"""The stack's template as other programs read it: cfn-lint, and the shell that runs its user data."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.aws.deploy.settings import TEMPLATE_PATH, config_parameters
from tests.support.stack_template import GIVEN, user_data

TEMPLATES = ("WebTemplate", "WorkerTemplate")


def test_cfn_lint_has_nothing_to_say_by_its_strictest_rules() -> None:
    command = Path(sys.executable).parent / "cfn-lint"
    done = subprocess.run(
        [command, "--include-checks", "I", "W", "--", TEMPLATE_PATH], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr


@pytest.mark.parametrize("name", TEMPLATES)
def test_user_data_is_a_shell_script_without_secrets(name: str) -> None:
    script = user_data(name)
    assert script.startswith("#!/bin/sh\n")
    done = subprocess.run(["sh", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"secret|password|token|AKIA|resolve:(ssm-secure|secretsmanager)", script, re.IGNORECASE)


@pytest.mark.parametrize(("tier", "name"), [("WebTemplate", "WebSettings"), ("WorkerTemplate", "WorkerSettings")])
def test_settings_have_the_last_word_in_user_data_and_a_shell_reads_them(
    tier: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = '["a b", {"x": 1}]'
    line = config_parameters({"worker.idle_seconds": "7", "worker.batch_size": value})[name]
    monkeypatch.setitem(GIVEN, name, line)
    script = user_data(tier).rsplit("\n", 2)[0]
    shown = subprocess.run(["sh", "-c", f"{script}\nenv"], capture_output=True, text=True, check=True, env={}).stdout
    assert "FLEETSIGHT__WORKER__IDLE_SECONDS=7\n" in shown
    assert f"FLEETSIGHT__WORKER__BATCH_SIZE={value}\n" in shown
