"""How a worker spreads its work over its machine: chosen once, at its start, from cores and memory.

One single-threaded stream for each core beats one stream on all of them: no thread waits at a barrier for a
thread that has lost its core to the decoder. Larger batches than eight, and of images of 224 pixels than four, were
no faster on any CPU that we measured (docs/measurements.md); a GPU wants more.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.config import AUTO_MAX_WORKERS, EngineName, WorkerSettings
from core.jobs.pack_objects import MAX_PACK_BYTES
from services.sqs import BATCH

BATCHES_IN_HAND = 3
"""For each stream: one in the network, one before it and one behind; more would be kept from other workers."""

BATCH_WAIT_SECONDS = 0.005
"""How long the first image of a batch waits for others: a tenth of the time of a small network for them."""

CPU_BATCH = 8
GPU_BATCH = 32

CPU_BATCH_BYTES = 40 * 2**20
"""Most memory of a batch on a CPU: of 4 images of 224 pixels. Eight took 35 MiB more, and less than 2% less time."""

NETWORK_BYTES = 16
"""What a network keeps of an image while it computes, as a multiple of its input: up to 13 for ResNets in fp32."""

MEMORY_SHARE = 8
"""Batches may take this part of the machine's memory, 1/8; weights, images and the process itself need theirs."""

MODELS_SHARE = 4
"""Models may take this part of the machine's memory, 1/4, unless `worker.model_megabytes` is set."""

COMPILED_BYTES = 8 * 2**20
"""Memory of a further model besides its weights and batches: the demo network takes 9 MiB in all."""

CALLS_PER_CORE = 8
"""Fetches, and as many puts, under way at once for each core: 250 images/s of a core at 30 ms a call."""

MAX_CALLS = 64

WORKER_BYTES: Final[Mapping[EngineName, int]] = {"openvino": 128 * 2**20, "torch": 640 * 2**20}
"""Memory of a further worker and its decoder without the network and packs, by engine."""

WEIGHTS_COPIES = 2.5
"""Memory of a network in a further worker, as a multiple of its weights, with what compiling it takes.

Once compiled, a ResNet-50 takes 1.9, for packed weights and batches. The file of the bundle is mapped, and so shared.
"""

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class HostResources:
    """What a worker may use: CPU cores, and all of the memory, not only what is free now."""

    cores: int
    memory_bytes: int


@dataclass(frozen=True)
class Sizing:
    """How many of everything a worker has.

    Attributes:
        streams: batches that are classified side by side, each by a thread of its own.
        engine_threads: threads of the engine, all streams together.
        batch_size: images in one run of the network, at most.
        fetch_threads: threads that read from the input bucket.
        publish_threads: threads that write into the output bucket.
        batch_wait_seconds: how long the first image of a batch waits for the others.
        model_bytes: memory that the loaded models may take together, by estimate; one is always loaded.
    """

    streams: int
    engine_threads: int
    batch_size: int
    decode_threads: int
    fetch_threads: int
    publish_threads: int
    batch_wait_seconds: float
    model_bytes: int

    @property
    def in_flight(self) -> int:
        """How many messages the worker holds at once, at most: what keeps every stage busy, and no more."""
        classifying = BATCHES_IN_HAND * max(BATCH, self.streams * self.batch_size)
        return max(classifying, self.fetch_threads + self.streams * self.batch_size + self.publish_threads)


def this_machine(root: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> HostResources:
    """Return the cores and the memory that this process may use; control groups may allow less than the machine has.

    Args:
        root: where version 2 of control groups is mounted; https://docs.kernel.org/admin-guide/cgroup-v2.html
        membership: the kernel's file that names this process's group.
    """
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for group in _control_groups(root, membership):
        if (allowed := _words(group / "memory.max")) and allowed[0].isdecimal():
            memory = min(memory, int(allowed[0]))
        if len(quota := _words(group / "cpu.max")) == 2 and quota[0].isdecimal():
            # Of one and a half cores, two threads have more than one.
            cores = min(cores, max(1, math.ceil(int(quota[0]) / int(quota[1]))))
    return HostResources(cores, memory)


def _control_groups(root: Path, membership: Path) -> list[Path]:
    """Return the folder of this process's control group and those above it; each of them limits it."""
    own = next((line.strip().removeprefix("0::/") for line in _lines(membership) if line.startswith("0::/")), "")
    folder = root / own
    # A container may see the path that its group has outside, with ".." in it.
    return (
        [root] if ".." in folder.parts else [each for each in (folder, *folder.parents) if each.is_relative_to(root)]
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # no control groups, or no such limit in this one
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def worker_bytes(engine: EngineName, weights_bytes: int) -> int:
    """Return the memory of a worker of one thread, with its decoder; `weights_bytes` is the size of its network."""
    return WORKER_BYTES[engine] + pack_threads(1) * MAX_PACK_BYTES + round(WEIGHTS_COPIES * weights_bytes)


def pack_threads(decode_threads: int) -> int:
    """Return how many threads read packs: each holds one until it has passed on its last image."""
    return decode_threads + 1


def fitting_workers(machine: HostResources, bytes_each: int) -> int:
    """Return the number of workers, 1 to `AUTO_MAX_WORKERS`, that a machine that they share has room for.

    Each has a core to itself: a further one would only add its start and its memory. Half of the memory is left to
    the other processes.
    """
    return max(1, min(AUTO_MAX_WORKERS, machine.cores, machine.memory_bytes // 2 // bytes_each))


def model_bytes(weights_bytes: int, images: int, input_size: int) -> int:
    """Return the memory of a model that computes so many images at once, estimated from the size of its weights.

    `input_size` is the longer side of its input in pixels.
    """
    return COMPILED_BYTES + round(WEIGHTS_COPIES * weights_bytes) + images * _image_bytes(input_size)


def fitting_batch(config: WorkerSettings, machine: HostResources, streams: int, input_size: int) -> int:
    """Return how many images of a network are computed in one batch, for which `machine` has room."""
    image_bytes = _image_bytes(input_size)
    fast_batch = GPU_BATCH if config.engine == "torch" else min(CPU_BATCH, CPU_BATCH_BYTES // image_bytes)
    in_memory = machine.memory_bytes // MEMORY_SHARE // streams // image_bytes
    return config.batch_size or max(1, min(fast_batch, in_memory))


def _image_bytes(input_size: int) -> int:
    return NETWORK_BYTES * 3 * input_size**2 * 4


def sized(config: WorkerSettings, machine: HostResources, input_size: int) -> Sizing:
    """Return the sizes for `machine`; those that `config` sets to other than 0 stay as they are set.

    `input_size` is the longer side of the network's input in pixels.
    """
    threads = config.threads or machine.cores
    # Torch has one set of threads for the process, and one batch fills a GPU.
    streams = 1 if config.engine == "torch" else threads
    calls = config.call_threads or min(CALLS_PER_CORE * machine.cores, MAX_CALLS)
    return Sizing(
        streams=streams,
        engine_threads=threads,
        batch_size=fitting_batch(config, machine, streams, input_size),
        decode_threads=threads,
        fetch_threads=calls,
        publish_threads=calls,
        batch_wait_seconds=BATCH_WAIT_SECONDS,
        model_bytes=config.model_megabytes * 2**20 or machine.memory_bytes // MODELS_SHARE,
    )
