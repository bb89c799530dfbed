"""ResNet-9 (Page 2018, "How to train your ResNet", https://github.com/davidcpage/cifar10-fast), for small images."""
from collections import OrderedDict

from torch import nn

from models.normalize import normalize


class ConvBlock(nn.Sequential):
    """A 3x3 convolution, with `pool` half the resolution, batch norm, ReLU."""

    def __init__(self, in_channels, out_channels, pool=False):
        pooling = {"pool": nn.MaxPool2d(2, ceil_mode=True)} if pool else {}
        super().__init__(OrderedDict(conv=nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), **pooling,
                                     bn=nn.BatchNorm2d(out_channels), relu=nn.ReLU(inplace=True)))


class Residual(nn.Module):
    """Two ConvBlocks beside a shortcut."""

    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = ConvBlock(channels, channels), ConvBlock(channels, channels)

    def forward(self, x):
        return x + self.conv2(self.conv1(x))


class ResNet9(nn.Module):
    """Images (B, in_channels, H, W) float in [0, 1] -> logits (B, classes) float.

    It convolves, then halves the resolution by pooling; ResNet-18 uses strides. It learns in few epochs."""

    def __init__(self, classes, width=64, in_channels=3):
        super().__init__()
        self.stem = ConvBlock(in_channels, width)
        self.layer1 = nn.Sequential(ConvBlock(width, 2 * width, pool=True), Residual(2 * width))
        self.layer2 = ConvBlock(2 * width, 4 * width, pool=True)
        self.layer3 = nn.Sequential(ConvBlock(4 * width, 8 * width, pool=True), Residual(8 * width))
        self.fc = nn.Linear(8 * width, classes, bias=False)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.stem(normalize(x)))))
        return 0.125 * self.fc(x.amax((2, 3)))  # the paper's scale: logits begin small
