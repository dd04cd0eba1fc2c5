"""A worker's start: from its process to its first published prediction, against a start the torch way.

The worker is the real one, ``python -m app_tier``, on a local cloud where a message waits. Moments are those of
that cloud's queues, on the same clock, so that nothing polls while it starts. The torch way imports torch and
torchvision, makes ResNet-18 and answers once, without any cloud; it stands for a worker that would do both.
"""

import compileall
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from app_tier.bundle import DEMO_BUNDLE, load_bundle
from app_tier.engine_imports import import_torch
from benchmarks.local_services import LocalServices
from benchmarks.measure import usage_of
from benchmarks.report import Bar, Report
from core.bundle_manifest import BundleError
from localcloud.launch import LocalCloud
from scripts.demo_model.signs import samples
from scripts.model.torchvision_network import build_torchvision
from scripts.run.system import ROOT

MAX_RATIO = 0.2
MAX_MEMORY_RATIO = 0.7
MAX_SECONDS = 60.0

TORCH_WAY: Final = """
import json, os, time
from benchmarks.measure import usage_of
import torch
from torchvision import models
network = models.resnet18(weights=None).eval()
with torch.inference_mode():
    network(torch.zeros(1, 3, 224, 224)).softmax(1)
answered_at = time.time()
print(json.dumps({"answered_at": answered_at, "peak_mb": usage_of(os.getpid()).peak_mb}))
"""
"""How the usual worker starts; prints the epoch seconds of its first answer and its peak memory in MiB."""


@dataclass(frozen=True)
class Start:
    """One start, in seconds from the process's, and its most resident memory in MiB."""

    answer_s: float
    peak_mb: float
    poll_s: float = 0.0


def run(quick: bool) -> Report:
    """Measure the demo network, ResNet-18 at 224 and the torch way in turns; the fastest of several counts."""
    for folder in ("services", "core", "localcloud", "app_tier"):  # as set-up does
        compileall.compile_dir(ROOT / folder, quiet=1)
    resnet = random_resnet18()
    with tempfile.TemporaryDirectory() as state, LocalCloud(Path(state), hypervisor=False) as cloud:
        bench = StartBench(cloud)
        kinds: Mapping[str, Callable[[], Start]] = {
            "demo": lambda: bench.start(DEMO_BUNDLE),
            "resnet18": lambda: bench.start(resnet),
            "torch": torch_way,
        }
        seen: dict[str, list[Start]] = {name: [] for name in kinds}
        for _ in range(3 if quick else 9):  # in turns, so that what else the machine does slows all alike
            for name, begin in kinds.items():
                seen[name].append(begin())
    return report_of({name: min(starts, key=lambda start: start.answer_s) for name, starts in seen.items()})


def random_resnet18() -> Path:
    """Return the folder of a bundle with random weights, which cost what trained ones cost; it is kept.

    Raises:
        BundleError: it cannot be built.
    """
    folder = ROOT / ".fleetsight" / "bench" / "resnet18"
    try:
        load_bundle(folder)
    except BundleError:
        torch = import_torch()
        from torchvision import models

        with tempfile.TemporaryDirectory() as scratch:
            torch.save(models.get_model("resnet18", weights=None).state_dict(), Path(scratch, "random.pth"))
            build_torchvision("resnet18", folder, Path(scratch, "random.pth"))
    return folder


def report_of(starts: Mapping[str, Start]) -> Report:
    """Return the report of each kind's fastest start."""
    torch = starts["torch"]
    figures: dict[str, float] = {}
    for name, start in starts.items():
        figures |= {f"{name}_answer_s": start.answer_s, f"{name}_peak_mb": start.peak_mb}
    for name in ("demo", "resnet18"):
        figures |= {
            f"{name}_first_poll_s": starts[name].poll_s,
            f"{name}_start_to_torch_ratio": starts[name].answer_s / torch.answer_s,
            f"{name}_memory_to_torch_ratio": starts[name].peak_mb / torch.peak_mb,
        }
    bars = (
        Bar(
            "ResNet-18: process start to first prediction ÷ torch",
            figures["resnet18_start_to_torch_ratio"],
            MAX_RATIO,
        ),
        Bar("ResNet-18: peak memory ÷ torch", figures["resnet18_memory_to_torch_ratio"], MAX_MEMORY_RATIO),
    )
    return Report("coldstart", figures, bars)


def torch_way() -> Start:
    """Start the torch way once."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-c", TORCH_WAY],
        cwd=ROOT,
        check=True,
        timeout=MAX_SECONDS,
        stdout=subprocess.PIPE,
    )
    reported = json.loads(done.stdout)
    return Start(reported["answered_at"] - began, reported["peak_mb"])


class StartBench:
    """The services of a local cloud, and one image to classify."""

    def __init__(self, cloud: LocalCloud) -> None:
        self._services = LocalServices(cloud)
        self._image = next(samples(1, seed=1, sizes=(((64, 64), 1.0),))).data

    def start(self, bundle: Path) -> Start:
        """Let one worker start with a message waiting, answer, and end itself when idle."""
        sent = time.time()
        ref = self._services.request(self._image)
        began = time.time()
        environment = self._services.environment | {
            "FLEETSIGHT__WORKER__THREADS": "1",
            "FLEETSIGHT__WORKER__BUNDLE": str(bundle),
        }
        with subprocess.Popen(
            [sys.executable, "-m", "app_tier"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as worker:
            peak, deadline = 0.0, time.monotonic() + MAX_SECONDS
            while worker.poll() is None:
                if time.monotonic() > deadline:
                    worker.kill()
                    raise RuntimeError(f"the worker has not ended after {MAX_SECONDS:.0f} s")
                usage = usage_of(worker.pid)
                peak = max(peak, usage.peak_mb) if usage else peak
                time.sleep(0.05)
        ((sent_at, response),) = self._services.answers()
        if response.image_id != ref.image_id or response.status != "done":
            raise RuntimeError(f"the worker answered {response.to_json()}")
        # The response is sent right after the prediction has been put; SQS's clock is this machine's.
        polled = sent + (response.timings.queued or 0.0) / 1000 - began
        return Start(sent_at - began, peak, polled)
