"""Networks with seeded weights in torch, with which those that are built without torch are compared."""

import math
from collections.abc import Mapping

import torch
from torch.nn import functional

State = dict[str, torch.Tensor]


def trained(state: Mapping[str, torch.Tensor]) -> State:
    """Return weights of which no normalisation does nothing."""
    torch.manual_seed(1)
    changed = {}
    for name, value in state.items():
        if name.endswith("running_var"):
            changed[name] = 0.5 + torch.rand_like(value)
        elif value.dim() == 1:
            changed[name] = value + 0.1 * torch.randn_like(value)
        else:
            changed[name] = value
    return changed


def lite0_blocks() -> list[tuple[int, int, int, int, bool]]:
    """Return expansion, channels, kernel and stride of each block, and whether its input is added."""
    # As the authors write it: r1_k3_s11_e1_i32_o16 and so on, at width and depth 1.
    rows = (
        *("r1_k3_s1_e1_o16", "r2_k3_s2_e6_o24", "r2_k5_s2_e6_o40", "r3_k3_s2_e6_o80"),
        *("r3_k5_s1_e6_o112", "r4_k5_s2_e6_o192", "r1_k3_s1_e6_o320"),
    )
    blocks = []
    for row in rows:
        repeats, kernel, stride, expansion, channels = (int(part.lstrip("rkseo")) for part in row.split("_"))
        blocks += [(expansion, channels, kernel, 1 if n else stride, n > 0) for n in range(repeats)]
    return blocks


def lite0_state(classes: int) -> State:
    """Return seeded weights of EfficientNet-Lite0, by the names of the published ones."""
    torch.manual_seed(0)
    state: State = {}

    def add(name: str, norm: str, filters: int, inputs: int, kernel: int) -> None:
        weight = torch.randn(filters, inputs, kernel, kernel) * math.sqrt(2 / (inputs * kernel * kernel))
        state[f"{name}.weight"] = weight.to(memory_format=torch.channels_last)  # as in the published file
        for key, value in torch.nn.BatchNorm2d(filters).state_dict().items():
            state[f"{norm}.{key}"] = value

    add("_conv_stem", "_bn0", 32, 3, 3)
    inputs = 32
    for number, (expansion, channels, kernel, _, _) in enumerate(lite0_blocks()):
        block, wide = f"_blocks.{number}.", inputs * expansion
        if expansion > 1:
            add(f"{block}_expand_conv", f"{block}_bn0", wide, inputs, 1)
        add(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel)
        add(f"{block}_project_conv", f"{block}_bn2", channels, wide, 1)
        inputs = channels
    add("_conv_head", "_bn1", 1280, inputs, 1)
    state |= {"_fc.weight": torch.randn(classes, 1280) / 36, "_fc.bias": torch.randn(classes)}
    return trained(state) | {name: value for name, value in state.items() if value.dtype == torch.int64}


def lite0_logits(state: State, x: torch.Tensor) -> torch.Tensor:
    """Return the answers of EfficientNet-Lite0, computed by torch's functions."""

    def layer(x: torch.Tensor, name: str, norm: str, stride: int = 1, limited: bool = True) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        kernel, groups = weight.shape[2], x.shape[1] // weight.shape[1]
        pad = max((math.ceil(x.shape[2] / stride) - 1) * stride + kernel - x.shape[2], 0)
        x = functional.pad(x, (pad // 2, pad - pad // 2) * 2)  # TensorFlow's SAME
        x = functional.conv2d(x, weight, None, stride, groups=groups)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        x = functional.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3)
        return functional.relu6(x) if limited else x

    x = layer(x, "_conv_stem", "_bn0", 2)
    for number, (expansion, _, _, stride, is_added) in enumerate(lite0_blocks()):
        block = f"_blocks.{number}."
        y = layer(x, f"{block}_expand_conv", f"{block}_bn0") if expansion > 1 else x
        y = layer(y, f"{block}_depthwise_conv", f"{block}_bn1", stride)
        y = layer(y, f"{block}_project_conv", f"{block}_bn2", limited=False)
        x = x + y if is_added else y
    return functional.linear(layer(x, "_conv_head", "_bn1").mean((2, 3)), state["_fc.weight"], state["_fc.bias"])
