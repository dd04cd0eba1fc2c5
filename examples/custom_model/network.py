"""A network of your own: three classes by the mean colour of an image, exported for `fleetsight model build`.

Export it, build the bundle, and serve with it (`./scripts/setup.sh run torch` installs what the first two need):

    .venv/bin/python examples/custom_model/network.py colours.pt2
    ./scripts/fleetsight model build colours.pt2 --spec examples/custom_model/colours.yaml
    ./scripts/run.sh --model colours
"""

import sys

import torch


class MeanColour(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """Answers one logit for each of red, green and blue: the mean of that channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [N, 3] for images [N, 3, H, W]."""
        return 10 * images.mean(dim=(2, 3))


if __name__ == "__main__":
    # The number of images in a batch must be dynamic: a worker classifies as many at once as it has.
    batch = ({0: torch.export.Dim("batch")},)
    example = (torch.zeros(2, 3, 32, 32),)
    torch.export.save(torch.export.export(MeanColour().eval(), example, dynamic_shapes=batch), sys.argv[1])
