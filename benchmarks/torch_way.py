"""How the usual worker starts, as ``python -m benchmarks.torch_way``: torch, torchvision, a network in eager mode.

Prints the epoch seconds of its first answer and its peak memory in MiB, as JSON.
"""

import json
import os
import sys
import time

from benchmarks.measure import usage_of
from scripts.model.torchvision_import import import_torchvision


def main() -> int:
    """Load ResNet-18 with random weights, answer once, and print when and with how much memory."""
    models = import_torchvision().models
    import torch

    network = models.resnet18(weights=None).eval()
    with torch.inference_mode():
        network(torch.zeros(1, 3, 224, 224)).softmax(1)
    answered_at = time.time()
    usage = usage_of(os.getpid())
    sys.stdout.write(json.dumps({"answered_at": answered_at, "peak_mb": usage.peak_mb if usage else 0.0}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
