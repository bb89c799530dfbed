"""Random changes to a whole batch at once, on the batch's device.

Each sample has its own row of DRAWS uniform numbers, which utils.batches makes from seed, epoch and index. So the
changes to an image do not depend on the batch it is in."""
import math

import torch
import torch.nn.functional as F

from data.masks import VOID

DRAWS = 10  # uniform numbers of a sample: 0 mirrors, 1 turns, 2 zooms, 3 and 4 shift, 6 to 9 recolour


def augment(images, masks, draws, size=None, window=(1.0, 1.0), flip=0.0, rotate=0.0, scale=(1.0, 1.0), shift=0.0,
            color=0.0):
    """Crop, mirror, turn, zoom, shift and recolour each image, and its mask with it. images (B, C, H, W) uint8, masks
    (B, H, W) uint8 or None, draws (B, DRAWS) float in [0, 1) -> images (B, C, *size) float in [0, 1], masks (B, *size)
    int64, VOID outside of the image. `window` is the share of height and width that a random crop shows, `flip` a
    probability, `rotate` the largest angle in degrees, `scale` the range of magnifications, `shift` the largest
    translation as a share of each side, `color` the largest change of brightness, contrast, saturation and tint."""
    images = images.float().div_(255)
    size = tuple(size or images.shape[-2:])
    if flip or rotate or shift or scale != (1.0, 1.0) or size != images.shape[-2:]:
        grid = sampling_grid(images.shape[:2] + size, draws, window, flip, rotate, scale, shift)
        images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        if masks is not None:
            masks = F.grid_sample((masks.float() - VOID)[:, None], grid, mode="nearest", align_corners=False)
            masks = masks[:, 0] + VOID  # grid_sample pads with 0, which becomes VOID
    if color:
        images = recolor(images, draws[:, 6:10], color)
    return images, None if masks is None else masks.long()


def sampling_grid(shape, draws, window, flip, rotate, scale, shift):
    """The place in the input of each pixel of an output of `shape` (B, C, H, W): (B, H, W, 2) for grid_sample."""
    (height, width), (down, across) = shape[2:], window
    signed, mirror = 2 * draws - 1, torch.where(draws[:, 0] < flip, -1.0, 1.0)
    angle = torch.deg2rad(signed[:, 1] * rotate)
    low, high = map(math.log, scale)
    zoom = torch.exp(-(low + (high - low) * draws[:, 2]))  # log-uniform: half size is as likely as double
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    # A crop or a zoomed image can be shifted further. An image that is only shifted stays sharp: by whole pixels.
    dx, dy = (((signed[:, i] * ((1 - zoom * share).clamp(min=0) + 2 * shift) + (1 - share)) * side / 2).round() * 2
              / side - (1 - share) for i, side, share in ((3, width / across, across), (4, height / down, down)))
    aspect = height / width
    theta = torch.stack([cos * mirror * across, -sin * aspect * across, dx,
                         sin * mirror / aspect * down, cos * down, dy], 1).view(-1, 2, 3)
    if theta.is_cuda:
        theta = theta.double()  # in TF32 the grid would be wrong by up to a quarter of a pixel
    return F.affine_grid(theta, shape, align_corners=False).float()


def recolor(images, draws, strength):
    """images (B, C, H, W) in [0, 1], draws (B, 4): brightness, contrast, saturation, tint, each by up to `strength`."""
    brightness, contrast, saturation, tint = (1 + strength * (2 * draws - 1))[..., None, None].split(1, 1)
    tint = 1 + torch.cat([(tint - 1) * share for share in (0.5, 0.0, -0.5)], 1)  # warm or cold
    if images.shape[1] != 3:  # no colours
        saturation = tint = 1
    grey = images.mean(1, keepdim=True)
    images = (grey + (images - grey) * saturation) * (brightness * tint)
    mean = images.mean((1, 2, 3), keepdim=True)
    return (mean + (images - mean) * contrast).clamp(0, 1)
