"""ResNet-18 and ResNet-34 (He et al. 2015, https://arxiv.org/abs/1512.03385), for large and small images.

At width 64 the parameters have torchvision's names and shapes, so torchvision's ImageNet weights load into it."""
import torch.nn.functional as F
from torch import nn

from models.normalize import normalize

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels, out_channels, stride=1):
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Identity() if stride == 1 and in_channels == out_channels else nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x):
        # Every second pixel, then a 1x1 convolution of stride 1. Stride 2 gives the same values, but at 8 channels or
        # fewer oneDNN crashes or computes a wrong gradient (https://github.com/uxlfoundation/oneDNN/issues/6035).
        shortcut = self.downsample(x[..., :: self.stride, :: self.stride])
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class ResNet(nn.Module):
    """Images (B, in_channels, H, W) float in [0, 1] -> logits (B, classes) float.

    `small_stem` begins with one 3x3 convolution at full resolution, as in the paper for CIFAR-10, in place of a strided
    7x7 one and a max pooling, which leave 8x8 values of a 32x32 image."""

    def __init__(self, classes, depth="resnet18", width=64, small_stem=False, in_channels=3):
        super().__init__()
        self.out_channels = width * 8
        kernel, stride = (3, 1) if small_stem else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, width, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity() if small_stem else nn.MaxPool2d(3, stride=2, padding=1)
        for i, blocks in enumerate(BLOCKS[depth]):
            channels = width * 2**i
            first = BasicBlock(channels // 2, channels, stride=2) if i else BasicBlock(width, width)
            others = (BasicBlock(channels, channels) for _ in range(blocks - 1))
            setattr(self, f"layer{i + 1}", nn.Sequential(first, *others))
        self.fc = nn.Linear(self.out_channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x):
        """Images (B, C, H, W) -> the last feature map (B, 8 * width, H / 32, W / 32); H / 8 with the small stem."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(normalize(x))), inplace=True))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))
