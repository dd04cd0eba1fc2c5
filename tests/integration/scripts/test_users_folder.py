"""The commands as a person types them in a folder of their own: relative paths are there, not in the checkout."""

from pathlib import Path

import pytest

from app_tier.bundle import DEMO_BUNDLE
from scripts.demo_model.signs import samples
from scripts.run.system import free_port
from tests.support.checkouts import link_checkout
from tests.support.reader import Reader

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

OF_THE_CHECKOUT = ("click", "core", "localcloud", "scripts", "services", "web_tier")
"""Modules that nothing may import from the user's folder."""


def test_relative_paths_are_those_of_the_users_folder(tmp_path: Path) -> None:
    checkout, user = tmp_path / "checkout", tmp_path / "user"
    for folder in (checkout, user / "signs"):
        folder.mkdir(parents=True)
    link_checkout(checkout)
    here = {entry.name for entry in checkout.iterdir()}
    for sample in samples(3, seed=11):
        (user / "signs" / sample.filename).write_bytes(sample.data)
        with (user / "truth.csv").open("a") as truth:
            truth.write(f"{sample.filename},{sample.label}\n")
    (user / "net").symlink_to(DEMO_BUNDLE)
    (user / "own.yaml").write_text((checkout / "config.yaml").read_text())
    for module in OF_THE_CHECKOUT:
        (user / f"{module}.py").write_text("raise SystemExit('imported from the folder of the user')\n")
    command = "../checkout/scripts/fleetsight"
    reader = Reader(checkout, user, free_port(), {"FLEETSIGHT_CONFIG": "own.yaml"})
    start = "cd ../user && ../checkout/scripts/run.sh --model net --images signs --state kept --json run.json"
    with reader.running(start) as run:
        run.expect(r"no true label +│ +3\b")
        reader.run(
            "cd ../user",
            f"{command} classify signs --truth truth.csv --out results.csv --sort-into sorted",
            f"{command} load-test --count 3 --images signs --json load.json",
            f"{command} model show net",
        )
    written = {"kept", "load.json", "results.csv", "run.json", "sorted"}
    assert written <= {entry.name for entry in user.iterdir()}
    assert {entry.name for entry in checkout.iterdir()} == here | {".fleetsight"}
