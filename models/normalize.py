"""The first step of every network: images in [0, 1] become numbers around 0."""
import torch

IMAGENET = (0.485, 0.229), (0.456, 0.224), (0.406, 0.225)  # mean and standard deviation of red, green and blue


def memory_format(device):
    """Channels last, which is fastest; not on Apple's GPUs, where torch computes wrong values with it."""
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


def normalize(images):
    """(B, C, H, W) float in [0, 1] -> RGB normalized as pretrained weights need it; other images in -1 to 1."""
    figures = IMAGENET if images.shape[1] == 3 else ((0.5, 0.5),) * images.shape[1]
    # One channel at a time: a tensor of these numbers would have to be copied to the GPU.
    channels = [(channel - mean) / deviation for channel, (mean, deviation) in zip(images.unbind(1), figures)]
    return torch.stack(channels, 1).contiguous(memory_format=memory_format(images.device))
