"""Large images: the network looks at overlapping tiles, and their class probabilities are blended.

Memory holds one row of tiles. It grows with an image's width and the number of classes, but not with its height.
"""
import numpy as np
import torch

PIXELS = 2**18  # that go through the network together


def starts(length, tile):
    """Where tiles of a side begin on a length: evenly, with a quarter of a tile or more in common."""
    common = tile // 4
    count = max(-(-(length - common) // (tile - common)), 1)
    return np.linspace(0, length - tile, count).round().astype(int).tolist()


def ramp(tile, device):
    """Weights (tile,) that fall towards both ends, where the network sees only one side of things."""
    rising = torch.arange(1, tile + 1, device=device)
    return torch.minimum(rising, rising.flip(0)).clamp(max=tile // 4 + 1).float()


def tiled_scores(predictor, rows, size):
    """Yield the logarithms of class probabilities, (K, h, W) float, band after band from the top of an image down.

    size: the image's (H, W). rows(top, bottom): its pixels there, uint8 (3, bottom - top, W) on the device.
    """
    height, width = (min(pair) for pair in zip(predictor.metadata["tile"], size))
    tops, lefts = starts(size[0], height), starts(size[1], width)
    weight = ramp(height, predictor.device)[:, None] * ramp(width, predictor.device)
    together, sums = max(PIXELS // (height * width), 1), None
    for top, following in zip(tops, [*tops[1:], size[0]]):
        band = rows(top, top + height)
        for i in range(0, len(lefts), together):
            some = lefts[i : i + together]
            tiles = torch.stack([band[:, :, left : left + width] for left in some])
            for left, scores in zip(some, predictor(tiles.float() / 255).float()):
                if sums is None:
                    sums = scores.new_zeros(len(scores), height, size[1])
                sums[:, :, left : left + width] += weight * scores.softmax(0)
        whole = sums[:, : following - top]  # no tile further down reaches it
        yield (whole / whole.sum(0)).clamp(min=1e-30).log()  # finite, so that it can be interpolated
        sums = torch.cat([sums[:, following - top :], torch.zeros_like(whole)], 1)
