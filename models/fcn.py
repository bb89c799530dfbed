"""FCN-32s on a ResNet (Long, Shelhamer and Darrell 2015, https://arxiv.org/abs/1411.4038)."""
import torch
from torch import nn

from models.classifier import ResNet


def bilinear_kernel(stride):
    """The (2 * stride, 2 * stride) kernel with which a transposed convolution interpolates bilinearly."""
    triangle = 1 - (torch.arange(2 * stride) - (stride - 0.5)).abs() / stride
    return triangle[:, None] * triangle


class ResNetFCN32(nn.Module):
    """Images (B, in_channels, H, W) float in [0, 1] -> class scores (B, classes, H, W) float; any H and W.

    The backbone makes one feature vector of each 32x32 cell, a 1x1 convolution scores it, and a single transposed
    convolution, which starts as bilinear interpolation, spreads the scores over the pixels: fast, and coarse."""

    def __init__(self, classes, width=64, in_channels=3):
        super().__init__()
        self.receptive_radius = 256  # pixels, a multiple of 32; a strip's first row sees 249 rows up
        self.backbone = ResNet(1, "resnet18", width, in_channels=in_channels)
        del self.backbone.fc  # segmentation does not use the classifier's head
        self.score = nn.Conv2d(self.backbone.out_channels, classes, 1)
        self.upsample = nn.ConvTranspose2d(classes, classes, 64, stride=32, padding=16, bias=False)
        with torch.no_grad():
            self.upsample.weight.zero_()
            self.upsample.weight[range(classes), range(classes)] = bilinear_kernel(32)

    def forward(self, x):
        height, width = x.shape[-2:]
        x = self.upsample(self.score(self.backbone.features(x)))
        return x[..., :height, :width]  # the backbone rounds H / 32 up
