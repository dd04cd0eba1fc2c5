"""Processes are killed at any time, and nothing stays behind: lifelines, locks, guard and hypervisor."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from localcloud.launch import LocalCloud, LocalCloudError
from localcloud.machines.machine import Process, end_all
from localcloud.tests.support.cloud_clients import (
    CloudClients,
    launch_instances,
    process_of,
    state_of_instance,
    stops_by_itself,
    wait_for_state,
)
from localcloud.tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes


INTERRUPTED = """
import signal, sys
from pathlib import Path
from localcloud.hypervisor import Hypervisor

hypervisor = Hypervisor("http://127.0.0.1:1", Path(sys.argv[1]))
signal.signal(signal.SIGALRM, lambda *_: hypervisor.stop())
signal.setitimer(signal.ITIMER_REAL, 0.00005, 0.00005)
for _ in range(20_000):
    hypervisor.stop()
signal.setitimer(signal.ITIMER_REAL, 0)
hypervisor.run()
"""


def test_a_stop_that_interrupts_another_does_not_wait_for_it_for_ever(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED, str(tmp_path)], timeout=DEADLINE_SECONDS, check=False)
    assert ended.returncode == 0


def test_restarted_hypervisor_adopts_running_machines_and_a_stopped_one_ends_them(state_dir: Path) -> None:
    with LocalCloud(state_dir) as cloud:
        ec2 = CloudClients(cloud.endpoint_url)("ec2")
        survivor, ended, terminated = launch_instances(ec2, MaxCount=3)
        for instance_id in (survivor, ended, terminated):
            wait_for_state(ec2, instance_id, "running")
        processes = {i: process_of(cloud, i) for i in (survivor, ended, terminated)}
        port = (state_dir / "instances" / survivor / "port").read_text()
        assert cloud.hypervisor is not None
        cloud.hypervisor.kill()
        cloud.hypervisor.wait(DEADLINE_SECONDS)
        os.kill(processes[ended].pid, signal.SIGKILL)
        ec2.terminate_instances(InstanceIds=[terminated])
        (launched,) = launch_instances(ec2)
        cloud.start_hypervisor()
        for instance_id, wanted in ((ended, "terminated"), (terminated, "terminated"), (launched, "running")):
            wait_for_state(ec2, instance_id, wanted)
        assert state_of_instance(ec2, survivor) == "running"
        assert process_of(cloud, survivor) == processes[survivor]
        assert processes[survivor].alive()
        assert not processes[terminated].alive()
        wait_until(lambda: connects(int(port)), "the metadata service listens on its port again")
        (stubborn,) = launch_instances(ec2, "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 1; done\n")
        wait_for_state(ec2, stubborn, "running")
        running = [process_of(cloud, i) for i in (survivor, launched, stubborn)]
        cloud.hypervisor.terminate()
        assert cloud.hypervisor.wait(DEADLINE_SECONDS) == 0
        assert not any(process.alive() for process in running)


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_a_cloud_stops_by_itself_while_long_polls_and_idle_connections_hang(state_dir: Path) -> None:
    cloud = LocalCloud(state_dir, hypervisor=False).start()
    try:
        address = ("127.0.0.1", int(cloud.endpoint_url.rpartition(":")[2]))
        idle = [socket.create_connection(address, 10) for _ in range(20)]
        for one in idle:
            one.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert one.recv(65536).startswith(b"HTTP/1.1 403 ")
        sqs = CloudClients(cloud.endpoint_url, attempts=1)("sqs")
        url = sqs.create_queue(QueueName="idle")["QueueUrl"]
        sent = threading.Semaphore(0)
        sqs.meta.events.register("before-send.sqs.ReceiveMessage", lambda **_: sent.release())
        polls = [threading.Thread(target=poll, args=(sqs, url)) for _ in range(8)]
        for waiting in polls:
            waiting.start()
        assert all(sent.acquire(timeout=DEADLINE_SECONDS) for _ in polls)
        assert stops_by_itself(cloud)
    finally:
        cloud.stop()
    for waiting in polls:
        waiting.join(DEADLINE_SECONDS)
    for one in idle:
        one.close()


def poll(sqs: Any, url: str) -> None:
    try:
        sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20)
    except Exception:  # noqa: BLE001 - how it ends is the server's choice, that it ends is the promise
        return


COMMAND = """
import sys, time
from pathlib import Path
from localcloud.launch import LocalCloud
cloud = LocalCloud(Path(sys.argv[1])).start()
print(cloud.endpoint_url, flush=True)
time.sleep(600)
"""


def test_when_the_command_and_the_hypervisor_are_killed_no_process_is_left(state_dir: Path) -> None:
    command = subprocess.Popen([sys.executable, "-c", COMMAND, str(state_dir)], stdout=subprocess.PIPE, text=True)
    try:
        assert command.stdout is not None
        endpoint = command.stdout.readline().strip()
        ec2 = CloudClients(endpoint)("ec2")
        for instance_id in (ids := launch_instances(ec2, MaxCount=2)):
            wait_for_state(ec2, instance_id, "running")
        processes = [state_dir / "instances" / instance_id / "process" for instance_id in ids]
        wait_until(lambda: all(each.exists() for each in processes), "both instances have a process")
        assert len(using(state_dir)) >= 6  # server (2), hypervisor, guard, instances (2)
        os.kill(next(p for p in using(state_dir) if "hypervisor" in command_of(p)), signal.SIGKILL)
    finally:
        command.kill()
        command.wait(DEADLINE_SECONDS)
        command.stdout.close() if command.stdout else None
    wait_until(lambda: not using(state_dir), "every process has ended")


def using(state_dir: Path) -> list[int]:
    """Find the processes of a cloud: those that write its logs or work in its directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            links = [entry / "cwd", *(entry / "fd").iterdir()] if entry.name.isdigit() else []
            opened = [str(link.readlink()) for link in links]
        except OSError:
            continue
        alive = any(path.startswith(str(state_dir)) for path in opened) and Process.with_pid(int(entry.name))
        if alive and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


def test_port_in_use_is_named(state_dir: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as occupied,
        pytest.raises(LocalCloudError, match=f"port {occupied.getsockname()[1]} on 127.0.0.1 cannot be used"),
        LocalCloud(state_dir, occupied.getsockname()[1]),
    ):
        pytest.fail("it must not start")
    assert end_all(state_dir) == 0


def test_a_server_that_lost_its_memory_does_not_come_back_without_it(state_dir: Path) -> None:
    with LocalCloud(state_dir, hypervisor=False) as cloud:
        server = next(p for p in using(state_dir) if parent_of(p) != os.getpid())
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: not using(state_dir), "the server has ended as a whole")
        # The kernel frees the memory of a process, by which it is found here, before it closes its sockets.
        port = int(cloud.endpoint_url.rpartition(":")[2])
        wait_until(lambda: not connects(port), "nothing listens any more")
        with pytest.raises(OSError, match="refused"):
            cloud.control("GET", "health")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_cloud_listens_on_loopback_only(computing: LocalCloud) -> None:
    port = int(computing.endpoint_url.rpartition(":")[2])
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == port
    ]
    assert listening == [f"0100007F:{port:04X}"]


def test_a_second_hypervisor_in_one_state_directory_is_refused(cloud: LocalCloud, clients: CloudClients) -> None:
    ec2 = clients("ec2")
    (instance_id,) = launch_instances(ec2)
    wait_for_state(ec2, instance_id, "running")
    first = cloud.hypervisor
    assert cloud.start_hypervisor().wait(DEADLINE_SECONDS) != 0
    cloud.hypervisor = first
    assert process_of(cloud, instance_id).alive()
    assert "is locked by another process" in (cloud.state_dir / "hypervisor.log").read_text()


def test_after_a_stop_no_process_is_left_and_a_new_cloud_has_no_instance(state_dir: Path) -> None:
    with LocalCloud(state_dir) as cloud:
        ec2 = CloudClients(cloud.endpoint_url)("ec2")
        (instance_id,) = launch_instances(ec2)
        wait_for_state(ec2, instance_id, "running")
        assert len(using(state_dir)) >= 5  # server (2), hypervisor, guard, instance
    assert using(state_dir) == []
    assert list((state_dir / "instances").iterdir()) != []
    with LocalCloud(state_dir, hypervisor=False) as cloud:
        assert CloudClients(cloud.endpoint_url)("ec2").describe_instances()["Reservations"] == []
        assert list((state_dir / "instances").iterdir()) == []
