"""The networks, one a file; this folder imports nothing else of the project.

classifier.py  ResNet-18 and ResNet-34
resnet9.py     ResNet-9, for small images
fcn.py         ResNet-FCN32
unet.py        U-Net, with or without skip connections
normalize.py   the first step of every network

Here: networks are built from a description, as checkpoints hold it, and their work is counted.
"""
import torch
from torch.utils.flop_counter import FlopCounterMode

from models.classifier import BLOCKS, ResNet
from models.fcn import ResNetFCN32
from models.resnet9 import ResNet9
from models.unet import UNet


def build_network(network):
    """The network that a description such as {"name": "unet", "in_channels": 3, ...} stands for.

    Raises ValueError or TypeError for a description of no network.
    """
    settings = dict(network)
    name = settings.pop("name", None)
    if name in BLOCKS:
        return ResNet(depth=name, **settings)
    networks = {"unet": UNet, "fcn32": ResNetFCN32, "resnet9": ResNet9}
    if name not in networks:
        raise ValueError(f"there is no network called {name}")
    return networks[name](**settings)


def count_gflops(network, size):
    """Forward GFLOPs (two per multiply-add) of a described network for one (H, W) image, without computing any."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_network(network).eval()(torch.empty(1, network.get("in_channels", 3), *size))
    return counter.get_total_flops() / 1e9
