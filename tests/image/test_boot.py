"""The images boot as instances of the local cloud: machines of their own, which work and end as on EC2.

Root, systemd-nspawn and the images are needed; `conftest` says what happens where they are missing.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetsight_client.api import ApiClient
from localcloud.launch import LocalCloud
from localcloud.tests.support.cloud_clients import (
    CloudClients,
    describe_instance,
    launch_instances,
    wait_for_state,
)
from scripts.run.system import free_port
from services.ec2 import Fleet
from tests.chaos.conftest import RunningSystem, signs
from tests.image.machines import console_of, console_says, machine_of, traces_of
from tests.support.booted.images import LocalImage
from tests.support.booted.leftovers import disk_of
from tests.support.booted.machines import BootedCloud, BootedSystem
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.thorough]


@pytest.fixture(scope="module")
def cloud(worker_image: LocalImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A cloud whose instances boot the workers' image."""
    with BootedCloud(tmp_path_factory.mktemp("boot"), worker_image.root.parent) as started:
        yield started
    assert traces_of(started.state_dir) == []


@pytest.fixture
def ec2(cloud: LocalCloud) -> Any:
    return CloudClients(cloud.endpoint_url)("ec2")


def test_two_machines_of_one_image_answer_forty_images_and_end_by_themselves(
    worker_image: LocalImage, tmp_path: Path
) -> None:
    overrides = {
        "FLEETSIGHT__WEB__PORT": str(free_port()),
        "FLEETSIGHT__FLEET__POLICY": "backlog",
        "FLEETSIGHT__FLEET__IMAGES_PER_WORKER": "20",
        "FLEETSIGHT__FLEET__MAX_WORKERS": "2",
    }
    before = content_of(worker_image.root)
    system = BootedSystem(tmp_path, overrides, image=worker_image)
    try:
        system.start()
        fleet = Fleet(system.clients.ec2, system.config.names.worker_instance)
        running = RunningSystem(system, ApiClient(system.url), fleet)
        files, truth = signs(40, seed=2026)
        job_id = running.api.create_job("on machines")
        outcome = running.upload(job_id, files)
        running.wait_for_results(job_id, 40)
        assert running.right(job_id, outcome, truth) == 40
        assert running.max_seen == 2
        wait_until(lambda: not running.workers(), "the machines have powered themselves off")
        ended = fleet.instances(("terminated",))
        assert len(ended) == 2
        for each in ended:
            reason = describe_instance(system.clients.ec2, each.instance_id)["StateReason"]["Code"]
            assert reason == "Client.InstanceInitiatedShutdown"
        wait_until(lambda: not traces_of(system.state_dir), "nothing is left of them")
    finally:
        system.stop()
    assert content_of(worker_image.root) == before


def content_of(root: Path) -> dict[str, int]:
    """Return when each thing in the folders that a running system writes to was changed."""
    folders = (root / "etc", root / "var", root / "opt" / "fleetsight" / "app", root / "run")
    return {str(path): path.lstat().st_mtime_ns for folder in folders for path in folder.rglob("*")}


def test_a_machine_whose_worker_cannot_start_powers_off_all_the_same(
    cloud: LocalCloud, ec2: Any, worker_image: LocalImage
) -> None:
    script = "#!/bin/sh\nexport FLEETSIGHT__WORKER__IDLE_SECONDS=never\nexec /opt/fleetsight/start worker\n"
    (instance_id,) = launch_instances(ec2, script, ImageId=worker_image.image_id)
    wait_for_state(ec2, instance_id, "terminated")
    assert describe_instance(ec2, instance_id)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert "idle_seconds" in ec2.get_console_output(InstanceId=instance_id, Latest=True)["Output"]


def test_a_machine_reaches_its_metadata_and_the_cloud_alone_and_shuts_down_in_order(
    cloud: LocalCloud, ec2: Any, worker_image: LocalImage
) -> None:
    port = cloud.endpoint_url.rpartition(":")[2]
    # Bash's own connections: the image has no curl.
    script = f"""#!/bin/bash
reach() {{ timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null && echo reaches $1:$2; }}
reach 169.254.169.254 80
reach 127.0.0.1 {port}
for address in 169.254.169.253 10.0.0.1 1.1.1.1 127.0.0.1; do reach $address 53; done
echo tried all
"""
    (instance_id,) = launch_instances(ec2, script, ImageId=worker_image.image_id)
    machine = machine_of(cloud, instance_id)
    console_says(machine, "tried all")
    reached = set(re.findall(r"reaches (\S+)", console_of(machine)))
    assert reached == {"169.254.169.254:80", f"127.0.0.1:{port}"}
    ec2.terminate_instances(InstanceIds=[instance_id])
    wait_for_state(ec2, instance_id, "terminated")
    assert "Powering off" in console_of(machine)
    wait_until(lambda: not disk_of(machine).exists(), "its disk is gone")
