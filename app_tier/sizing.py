"""How a worker spreads its work over its machine: chosen once, at its start, from cores and memory.

One single-threaded stream for each core beats one stream on all of them: no thread waits at a barrier for a
thread that has lost its core to the decoder. Larger batches than eight were no faster on any CPU that we measured
(docs/performance.md); a GPU wants more.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from core.config import WorkerSettings
from services.sqs import BATCH

BATCHES_IN_HAND = 3
"""For each stream: one in the network, one before it and one behind; more would be kept from other workers."""

CPU_BATCH = 8
GPU_BATCH = 32

NETWORK_BYTES = 16
"""What a network keeps of an image while it computes, as a multiple of its input: up to 13 for ResNets in fp32."""

MEMORY_SHARE = 8
"""Batches may take this part of the machine's memory, 1/8; weights, images and the process itself need theirs."""

CALLS_PER_CORE = 8
"""Fetches, and as many puts, under way at once for each core: 250 images/s of a core at 30 ms a call."""

MAX_CALLS = 64

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


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
        decode_threads: threads that decode.
        fetch_threads: threads that read from the input bucket.
        publish_threads: threads that write into the output bucket.
        batch_wait_seconds: how long the first image of a batch waits for the others.
    """

    streams: int
    engine_threads: int
    batch_size: int
    decode_threads: int
    fetch_threads: int
    publish_threads: int
    batch_wait_seconds: float

    @property
    def in_flight(self) -> int:
        """How many messages the worker holds at once, at most: what keeps every stage busy, and no more."""
        classifying = BATCHES_IN_HAND * max(BATCH, self.streams * self.batch_size)
        return max(classifying, self.fetch_threads + self.streams * self.batch_size + self.publish_threads)


def this_machine(cgroup_limit: Path = _CGROUP_LIMIT) -> HostResources:
    """Return the cores that this process may use, and the machine's memory or what its control group allows."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed = cgroup_limit.read_text().strip()
    except OSError:  # no control groups here
        allowed = "max"
    return HostResources(len(os.sched_getaffinity(0)), min(memory, int(allowed)) if allowed.isdecimal() else memory)


def sized(config: WorkerSettings, machine: HostResources, input_size: int) -> Sizing:
    """Return the sizes for `machine`; those that `config` sets to other than 0 stay as they are set.

    `input_size` is the height and width of the network's input in pixels.
    """
    threads = config.threads or machine.cores
    # Torch has one set of threads for the process, and one batch fills a GPU.
    streams = 1 if config.engine == "torch" else min(config.streams or threads, threads)
    calls = min(CALLS_PER_CORE * machine.cores, MAX_CALLS)
    fast_batch = GPU_BATCH if config.engine == "torch" else CPU_BATCH
    image_bytes = NETWORK_BYTES * 3 * input_size**2 * 4
    batch_in_memory = machine.memory_bytes // MEMORY_SHARE // streams // image_bytes
    return Sizing(
        streams=streams,
        engine_threads=threads,
        batch_size=config.batch_size or max(1, min(fast_batch, batch_in_memory)),
        decode_threads=config.decode_threads or machine.cores,
        fetch_threads=config.fetch_threads or calls,
        publish_threads=config.publish_threads or calls,
        batch_wait_seconds=config.batch_wait_seconds,
    )
