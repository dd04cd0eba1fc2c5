"""``torch.export`` programs for tests. To import it takes torch, and so seconds: tests of every run do not."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ENDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Softmax": lambda outputs: outputs.softmax(1),
    "Sigmoid": torch.sigmoid,
}


class MeanColour(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """What `colour_network` is in ONNX."""

    def __init__(self, layout: str = "nchw", ends: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.layout, self.ends = layout, ends

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the means of three channels, or that of one channel and its negative."""
        outputs = pixels.float().mean((1, 2) if self.layout == "nhwc" else (2, 3))
        if outputs.shape[1] == 1:
            outputs = torch.cat([outputs, -outputs], 1)
        for end in self.ends:
            outputs = ENDS[end](outputs)
        return outputs


def write_pt2(
    path: Path,
    network: torch.nn.Module,
    batch: Any = torch.export.Dim("batch"),  # noqa: B008 - a constant
    shape: tuple[int, ...] = (3, 16, 16),
    kind: str = "float32",
) -> None:
    """Write the program of `network`, which takes images of `shape` and of the torch type `kind`."""
    example = torch.zeros(2, *shape, dtype=getattr(torch, kind))
    shapes = None if batch is None else ({0: batch},)
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), path)


class RunsACommand:
    """What a hostile pickle holds: loading it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)
