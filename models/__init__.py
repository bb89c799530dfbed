"""The networks, one per file; each begins with normalize.py. This folder imports no other folder of the project."""
from functools import partial

import torch
from torch.utils.flop_counter import FlopCounterMode

from models.classifier import BLOCKS, ResNet
from models.fcn import ResNetFCN32
from models.resnet9 import ResNet9
from models.unet import UNet

NETWORKS = {"unet": UNet, "fcn32": ResNetFCN32, "resnet9": ResNet9,
            **{name: partial(ResNet, depth=name) for name in BLOCKS}}


def build_network(network):
    """The network of a description such as {"name": "unet", "in_channels": 3, ...}. Raises KeyError or TypeError."""
    settings = dict(network)
    return NETWORKS[settings.pop("name")](**settings)


def count_gflops(network, size):
    """Forward GFLOPs (two per multiply-add) of a described network for one (H, W) image, without computing any."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_network(network).eval()(torch.empty(1, network.get("in_channels", 3), *size))
    return counter.get_total_flops() / 1e9
