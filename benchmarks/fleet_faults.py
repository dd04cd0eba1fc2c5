"""The product's own autoscaler over a simulated EC2 (`simulator.faults`), under faults and with many workers.

`fleet_faults` plays random schedules of faults: what must never happen, and does not. `fleet_size` measures the share
of a core of the autoscaler of 19, 250 and 1,000 busy workers, at the interval of config.yaml and while demand grows:
counts, descriptions, decisions and reports through botocore's own serialisers and parsers. Only the wire is missing,
and the operators' commands, which are read once a second.
"""

import json
import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Final

from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders

from benchmarks.report import Bar, Report
from core.config import load_config
from core.fleet.store import FleetStore
from services.clients import Clients
from services.ec2 import Fleet
from services.endpoint import Endpoint
from services.sqs import Queue
from services.table import Table
from simulator.bound import need
from simulator.faults.world import KINDS, ROOT, World, settings_of
from web_tier.autoscaler.observe import LISTED
from web_tier.autoscaler.reporting import Reporter

FULL: Final = 10_000
QUICK: Final = 200
PROCESSES: Final = 2


def run(quick: bool) -> Report:
    """Play so many schedules, half of them in each of two processes."""
    need("hypothesis", "test")
    began, share = time.perf_counter(), (QUICK if quick else FULL) // PROCESSES
    with ProcessPoolExecutor(PROCESSES) as processes:
        tally = sum(processes.map(_play, [share] * PROCESSES), Counter[str]())
    bars = tuple(Bar(f"{tally['schedules']:,} schedules: workers {kind}", tally[kind], at_most=0) for kind in KINDS)
    figures = {name: float(count) for name, count in sorted(tally.items()) if name not in KINDS}
    return Report("fleet_faults", {**figures, "this run, s": time.perf_counter() - began}, bars)


def _play(schedules: int) -> Counter[str]:
    """Play so many schedules in this process; print the first that breaks a promise, and go no further."""
    from simulator.faults import schedules as machine

    os.nice(5)
    logging.disable(logging.CRITICAL)
    try:
        return machine.play(schedules)
    except (machine.BrokenError, ExceptionGroup) as error:
        traceback.print_exception(error, file=sys.stderr)
        return machine.Schedule.tally


SIZES: Final = (19, 250, 1_000)
MEASURED_SECONDS: Final = 120.0
BOOTED_SECONDS: Final = 90.0
"""By then every worker that was launched at once has sent a heartbeat."""
MAX_SHARE: Final = 0.1
"""Highest share of a core for the autoscaler of 1,000 workers."""

DESCRIBED_INSTANCE: Final = """<item>
<reservationId>r-{number:017x}</reservationId><ownerId>111122223333</ownerId><groupSet/><instancesSet><item>
<instanceId>{id}</instanceId><imageId>ami-0abcdef1234567890</imageId>
<instanceState><code>16</code><name>{state}</name></instanceState>
<privateDnsName>ip-192-168-1-88.eu-west-1.compute.internal</privateDnsName><dnsName/><reason/><amiLaunchIndex>0</amiLaunchIndex>
<productCodes/><instanceType>{type}</instanceType><launchTime>{launched}</launchTime>
<placement><availabilityZone>{zone}</availabilityZone><groupName/><tenancy>default</tenancy></placement>
<monitoring><state>disabled</state></monitoring><subnetId>subnet-56f5f633</subnetId><vpcId>vpc-11112222</vpcId>
<privateIpAddress>192.168.1.88</privateIpAddress><ipAddress>54.194.252.215</ipAddress><sourceDestCheck>true</sourceDestCheck>
<groupSet><item><groupId>sg-e4076980</groupId><groupName>workers</groupName></item></groupSet>
<architecture>x86_64</architecture><rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/xvda</rootDeviceName>
<blockDeviceMapping><item><deviceName>/dev/xvda</deviceName><ebs><volumeId>vol-1234567890abcdef0</volumeId>
<status>attached</status><attachTime>{launched}</attachTime><deleteOnTermination>true</deleteOnTermination></ebs></item>
</blockDeviceMapping><virtualizationType>hvm</virtualizationType><clientToken>{token}</clientToken><tagSet>{tags}</tagSet>
<hypervisor>xen</hypervisor><networkInterfaceSet><item><networkInterfaceId>eni-551ba033</networkInterfaceId>
<subnetId>subnet-56f5f633</subnetId><vpcId>vpc-11112222</vpcId><description>Primary network interface</description>
<ownerId>111122223333</ownerId><status>in-use</status><macAddress>02:dd:2c:5e:01:69</macAddress>
<privateIpAddress>192.168.1.88</privateIpAddress><privateDnsName>ip-192-168-1-88.eu-west-1.compute.internal</privateDnsName>
<sourceDestCheck>true</sourceDestCheck><groupSet><item><groupId>sg-e4076980</groupId><groupName>workers</groupName></item></groupSet>
<attachment><attachmentId>eni-attach-39697adc</attachmentId><deviceIndex>0</deviceIndex><status>attached</status>
<attachTime>{launched}</attachTime><deleteOnTermination>true</deleteOnTermination></attachment>
<association><publicIp>54.194.252.215</publicIp><ipOwnerId>amazon</ipOwnerId>
<publicDnsName>ec2-54-194-252-215.eu-west-1.compute.amazonaws.com</publicDnsName></association>
<privateIpAddressesSet><item><privateIpAddress>192.168.1.88</privateIpAddress>
<privateDnsName>ip-192-168-1-88.eu-west-1.compute.internal</privateDnsName><primary>true</primary>
<association><publicIp>54.194.252.215</publicIp><ipOwnerId>amazon</ipOwnerId>
<publicDnsName>ec2-54-194-252-215.eu-west-1.compute.amazonaws.com</publicDnsName></association></item></privateIpAddressesSet>
<ipv6AddressesSet/></item></networkInterfaceSet>
<iamInstanceProfile><arn>arn:aws:iam::111122223333:instance-profile/worker</arn><id>ABCAJEDNCAA64SSD123AB</id></iamInstanceProfile>
<ebsOptimized>false</ebsOptimized><cpuOptions><coreCount>1</coreCount><threadsPerCore>1</threadsPerCore></cpuOptions>
</item></instancesSet></item>"""
"""An instance in the form of the example in
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstances.html
"""
NO_ITEMS: Final = b'{"Items": [], "UnprocessedItems": {}}'
REPLY: Final = """<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
<requestId>8f7724cf-496f-496e-8fe3-example</requestId><reservationSet>{items}</reservationSet></DescribeInstancesResponse>"""


def run_size(quick: bool) -> Report:
    """Measure fleets of each size."""
    logging.disable(logging.CRITICAL)
    figures: dict[str, float] = {}
    for size in SIZES:
        figures |= measured(size, MEASURED_SECONDS / 4 if quick else MEASURED_SECONDS)
    small, large = SIZES[0], SIZES[-1]
    launches = figures[f"{large}_launch_calls"] / figures[f"{small}_launch_calls"]
    return Report(
        "fleet_size",
        figures,
        (
            Bar(f"{large:,} instances: share of a core", figures[f"{large}_share_of_a_core"], at_most=MAX_SHARE),
            Bar(
                f"{large:,} instances: CPU ms of a round that launches", figures[f"{large}_launch_cpu_ms"], at_most=50
            ),
            Bar(f"EC2 calls of a launch: {large:,} instances ÷ {small}", launches, at_most=1, at_least=1),
        ),
    )


def measured(size: int, seconds: float) -> dict[str, float]:
    """Return the figures of a busy fleet of `size` in so many simulated seconds, and of the launch of all of it."""
    world = World(settings_of(max_workers=size, images_per_worker=1, launches_per_minute=10 * size))
    calls: Counter[str] = Counter()
    world.cloud.before_call = lambda operation: calls.update([operation])
    world.run(5)
    world.queues.send(1_000 * size)
    world.pass_second()
    began, before = time.process_time(), calls.total()
    world.run_round()
    launch, launch_calls = time.process_time() - began, calls.total() - before
    world.run(BOOTED_SECONDS)
    if len(world.cloud.alive()) != size:
        raise RuntimeError(f"{len(world.cloud.alive())} workers run, not {size}")
    wire = Wire(world)
    wire.connect()
    world.autoscaler.tick()  # the first: clients load what they need
    spent, rounds, described, descriptions = 0.0, 0, world.autoscaler.observer.cpu_seconds, wire.descriptions
    end, second, passed = world.now + seconds, world.now, 0.0
    while world.now < end:
        began = wire.cpu_seconds()
        passed += world.autoscaler.tick()
        spent, rounds = spent + wire.cpu_seconds() - began, rounds + 1
        while passed >= 1.0:
            world.queues.send(size)  # demand grows
            world.now = second
            world.pass_second()
            second, passed = world.now, passed - 1.0
        world.now = second + passed
    described = world.autoscaler.observer.cpu_seconds - described
    descriptions = wire.descriptions - descriptions
    return {
        f"{size}_description_cpu_ms": 1e3 * described / descriptions,
        f"{size}_descriptions_a_minute": 60 * descriptions / seconds,
        f"{size}_round_cpu_ms": 1e3 * (spent - described) / rounds,
        f"{size}_rounds_a_second": rounds / seconds,
        f"{size}_share_of_a_core": spent / seconds,
        f"{size}_launch_cpu_ms": 1e3 * launch,
        f"{size}_launch_calls": float(launch_calls),
    }


class Wire:
    """botocore's own clients for the autoscaler of a simulated world; replies are bytes as AWS sends them.

    Attributes:
        descriptions: replies of DescribeInstances so far.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._own_seconds = 0.0
        self.descriptions = 0
        clients = Clients(Endpoint("us-east-1", "http://127.0.0.1:9"))
        clients.session.set_credentials("benchmark", "benchmark")
        replies = {"ec2": self._instances, "sqs": self._counts, "dynamodb": lambda: NO_ITEMS}
        for service, reply in replies.items():
            client = getattr(clients, service)
            client.meta.events.register(f"before-send.{service}", partial(self._reply, reply))
        self._clients = clients

    def connect(self) -> None:
        """Let the world's autoscaler count, describe and report through these clients."""
        autoscaler, config = self._world.autoscaler, load_config(ROOT / "config.yaml", {})
        observer = autoscaler.observer
        observer.cpu_clock, observer.cpu_seconds = self.cpu_seconds, 0.0
        observer.fleet = Fleet(self._clients.ec2, observer.fleet.name)
        observer.requests = Queue(self._clients.sqs, "http://127.0.0.1:9/0/requests")
        registry = autoscaler.reporter.registry
        autoscaler.reporter = Reporter(
            FleetStore(Table(self._clients.dynamodb, "jobs")), registry, observer.clock, observer.now
        )
        autoscaler.interval_seconds = config.controller.interval_seconds

    def cpu_seconds(self) -> float:
        """Return the CPU time of this thread without what it took to make the replies."""
        return time.thread_time() - self._own_seconds

    def _reply(self, body: Callable[[], bytes], request: AWSPreparedRequest, **_: object) -> AWSResponse:
        began = time.thread_time()
        reply = AWSResponse(request.url, 200, HTTPHeaders(), Body([body()]))
        self._own_seconds += time.thread_time() - began
        return reply

    def _counts(self) -> bytes:
        counts = self._world.queues.counts()
        numbers = {"": counts.visible, "NotVisible": counts.in_flight, "Delayed": counts.delayed}
        attributes = {f"ApproximateNumberOfMessages{name}": str(number) for name, number in numbers.items()}
        return json.dumps({"Attributes": attributes}).encode()

    def _instances(self) -> bytes:
        self.descriptions += 1
        states = [{"Name": "instance-state-name", "Values": [*LISTED]}]
        pages = self._world.cloud.paginate(Filters=states)
        instances = [each for page in pages for group in page["Reservations"] for each in group["Instances"]]
        items = [
            DESCRIBED_INSTANCE.format(
                number=number,
                id=each["InstanceId"],
                state=each["State"]["Name"],
                type=each["InstanceType"],
                launched=each["LaunchTime"].strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                zone=each["Placement"]["AvailabilityZone"],
                token=each["ClientToken"],
                tags="".join(
                    f"<item><key>{tag['Key']}</key><value>{tag['Value']}</value></item>" for tag in each["Tags"]
                ),
            )
            for number, each in enumerate(instances)
        ]
        return REPLY.format(items="".join(items)).encode()


class Body(list[bytes]):
    """The body of a reply, as botocore reads it."""

    def stream(self) -> "Body":
        """Return the parts."""
        return self
