"""The gradients of every network at every narrow width, in a process each; test_gradients.py reads what is printed.

    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python tests/gradients.py

A line holds the network, the width, and the largest error of a weight's gradient in channels-last float32, compared
with contiguous float64 and as a share of its norm; or the signal that ended the process.
"""
import itertools
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from models.classifier import ResNet  # noqa: E402
from models.fcn import ResNetFCN32  # noqa: E402
from models.resnet9 import ResNet9  # noqa: E402
from models.unet import UNet  # noqa: E402

WIDTHS = (2, 3, 4, 6, 8, 16)
NETWORKS = {
    "unet": lambda width: UNet(3, 5, width),
    "unet-grey": lambda width: UNet(1, 3, width),
    "unet-no-skips": lambda width: UNet(3, 5, width, skips=False),
    "unet-grey-no-skips": lambda width: UNet(1, 3, width, skips=False),
    "fcn32": lambda width: ResNetFCN32(5, width=width),
    "resnet18": lambda width: ResNet(5, "resnet18", width),
    "resnet18-small-stem": lambda width: ResNet(5, "resnet18", width, small_stem=True),
    "resnet34": lambda width: ResNet(5, "resnet34", width),
    "resnet34-small-stem": lambda width: ResNet(5, "resnet34", width, small_stem=True),
    "resnet9": lambda width: ResNet9(5, width),
}


def gradients(model, images):
    """A list of the gradients of all weights, float64, of a loss that sees every output with a weight of its own."""
    output = model(images)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (output * weights).sum().backward()
    return [parameter.grad.double() for parameter in model.parameters()]


def largest_error(name, width):
    torch.manual_seed(0)
    model = NETWORKS[name](width)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 4.0)  # far from the ReLUs' kinks, where rounding decides on the gradient
    images = torch.randn(4, 1 if "grey" in name else 3, 64, 64)
    found = gradients(model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last))
    model.zero_grad()
    expected = gradients(model.double().to(memory_format=torch.contiguous_format), images.double())
    errors = [(a - b).norm() / b.norm() for a, b in zip(found, expected, strict=True)]
    return float(torch.stack(errors).max())  # nan where one is nan


def main():
    for name, width in itertools.product(NETWORKS, WIDTHS):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # a fault can also be a process that never ends
            print(name, width, f"{largest_error(name, width):.1e}", flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(name, width, "signal", status & 127, flush=True)


if __name__ == "__main__":
    main()
