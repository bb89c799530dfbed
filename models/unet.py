"""U-Net (Ronneberger, Fischer and Brox 2015, https://arxiv.org/abs/1505.04597), padded and with batch norm."""
import torch
import torch.nn.functional as F
from torch import nn

from models.normalize import normalize


class DoubleConv(nn.Sequential):
    """(3x3 convolution, batch norm, ReLU) twice."""

    def __init__(self, in_channels, out_channels):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class Up(nn.Module):
    """Double the resolution, concatenate the skip if there is one, then a DoubleConv."""

    def __init__(self, in_channels, out_channels, skip):
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.conv = DoubleConv(2 * out_channels if skip else out_channels, out_channels)

    def forward(self, x, skip=None):
        x = self.up(x)
        return self.conv(x if skip is None else torch.cat([skip, x], dim=1))


class UNet(nn.Module):
    """Images (B, in_channels, H, W) float in [0, 1] -> maps (B, out_channels, H, W) float; any H and W.

    It has `width` channels at full resolution, and twice as many after each of `depth` halvings. Without `skips` it is
    a plain encoder-decoder: all information must pass through the bottleneck at H / 2^depth."""

    def __init__(self, in_channels, out_channels, width=64, depth=4, skips=True):
        super().__init__()
        self.skips, self.stride, self.receptive_radius = skips, 2**depth, 6 * 2**depth
        channels = [width * 2**i for i in range(depth + 1)]
        self.stem = DoubleConv(in_channels, width)
        self.down = nn.ModuleList([
            nn.Sequential(nn.MaxPool2d(2), DoubleConv(channels[i], channels[i + 1])) for i in range(depth)])
        self.up = nn.ModuleList([Up(channels[i + 1], channels[i], skips) for i in reversed(range(depth))])
        self.head = nn.Conv2d(width, out_channels, 1)

    def forward(self, x):
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        x = self.stem(normalize(x))
        skips = []
        for down in self.down:
            skips.append(x if self.skips else None)
            x = down(x)
        for up in self.up:
            x = up(x, skips.pop())
        return self.head(x)[..., :height, :width]
