"""Segmentation: score and draw a network on a split; predict the mask of any image."""
import math

import numpy as np
import torch
from PIL import Image

import utils
from evaluation import as_batch, enlarge

BY_CLASS = "iou", "dice", "precision", "recall"
TILE_PIXELS = 2**18  # pixels that go through the network together


@torch.inference_mode()
def predicted_masks(predictor, split):
    """Yield (truth, prediction), uint8 masks (B, H, W) on the device, over a split."""
    predictor.model.eval()
    for images, masks, _ in utils.batches(split, 32, predictor.device):
        yield masks, predicted_classes(predictor, images)


def predicted_classes(predictor, images):
    """Images (B, C, H, W) uint8 on the device -> classes (B, H, W) uint8. With "tile": tile by tile."""
    if not predictor.metadata.get("tile"):
        return predictor(images.float() / 255).argmax(1).byte()
    images = (Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
              for image in images.permute(0, 2, 3, 1).cpu().numpy())
    masks = np.stack([predict_segmentation(predictor, image) for image in images])
    return torch.from_numpy(masks).to(predictor.device)


@torch.inference_mode()
def score_segmentation(predictor, split, outlines=True):
    """A dict of miou, pixel_accuracy, frequency_weighted_iou; BY_CLASS, each a dict with None for 0/0; `images`, the
    mIoU of each image; with `outlines` (slow) boundary_f1."""
    classes, pixels, edges = predictor.metadata["classes"], [], []
    for truth, prediction in predicted_masks(predictor, split):
        pixels.append(utils.pixel_counts(truth, prediction, len(classes)).numpy())
        if outlines:
            pairs = zip(truth.cpu().numpy(), prediction.cpu().numpy())
            edges += [utils.outline_counts(*pair, len(classes)) for pair in pairs]
    pixels = np.concatenate(pixels)
    scores = utils.segmentation_scores(pixels.sum(0))
    scores = {key: {name: None if np.isnan(score) else float(score) for name, score in zip(classes, value)}
              if key in BY_CLASS else float(value) for key, value in scores.items()}
    scores["images"] = utils.segmentation_scores(pixels)["miou"]
    if outlines:
        scores["boundary_f1"] = float(utils.boundary_f1(sum(edges)))
    return scores


@torch.inference_mode()
def draw_segmentation(predictors, split, scores, path, columns=4):
    """Draw the best, the median and the worst image. scores: each image's mIoU. predictors: title -> Predictor."""
    chosen, metadata = utils.best_to_worst(scores), next(iter(predictors.values())).metadata
    colors = utils.figure_colors(metadata["colors"])
    images, truth = (np.asarray(array[[*chosen]]) for array in (split.images, split.targets))
    masks = [predicted_classes(predictor, torch.from_numpy(images).to(predictor.device)).cpu().numpy()
             for predictor in predictors.values()]
    strips = [images.transpose(0, 2, 3, 1), *(utils.colorize_mask(mask, colors) for mask in (*masks, truth)),
              *(utils.errors_in_red(truth, mask) for mask in masks)]
    titles = ["image", *predictors, "truth", *(f"{name}: errors" for name in predictors)]
    rows = [(f"{label}, mIoU {scores[i]:.2f}", [*zip(titles, row)])
            for (i, label), *row in zip(chosen.items(), *strips)]
    utils.plot_images(rows, path, [*zip(metadata["classes"], colors), ("void", (0, 0, 0))], columns)


@torch.inference_mode()
def predict_segmentation(predictor, image, probabilities=None):
    """A Pillow image of any size -> class ids (H, W) uint8 at its own size. `probabilities`, an array (K, H, W), is
    filled. Scores, not ids, are enlarged, so that outlines are smooth."""
    mask = np.empty((image.height, image.width), np.uint8)
    if predictor.metadata.get("tile"):
        bands = tiled_scores(predictor, image)
    else:
        small = as_batch(image, predictor.metadata["size"], predictor.device)
        bands = enlarge(predictor(small)[0].float(), mask.shape)
    for rows, scores in bands:
        mask[rows] = scores.argmax(0).byte().cpu().numpy()
        if probabilities is not None:
            probabilities[:, rows] = scores.softmax(0).cpu().numpy()
    return mask


def starts(length, tile):
    """The starts of tiles along one side: evenly spaced, neighbours overlap by a quarter of a tile or more."""
    common = tile // 4
    count = max(math.ceil((length - common) / (tile - common)), 1)
    return np.linspace(0, length - tile, count).round().astype(int).tolist()


def tiled_scores(predictor, image):
    """A Pillow image -> yields a slice of rows and the logarithms of their class probabilities (K, rows, W) float.
    Tiles overlap, and their probabilities are blended. Memory holds one row of tiles, whatever the image's height."""
    height, width = (min(pair) for pair in zip(predictor.metadata["tile"], (image.height, image.width)))
    tops, lefts = starts(image.height, height), starts(image.width, width)
    rows, columns = (torch.arange(1, side + 1, device=predictor.device) for side in (height, width))
    # The weight falls towards a tile's edges, where the network sees only a part of the surroundings.
    down, along = (torch.minimum(up, up.flip(0)).clamp(max=len(up) // 4 + 1).float() for up in (rows, columns))
    weight = down[:, None] * along
    together, sums = max(TILE_PIXELS // (height * width), 1), None
    for top, following in zip(tops, [*tops[1:], image.height]):
        band = torch.from_numpy(np.dstack(image.crop((0, top, image.width, top + height)).split())).to(predictor.device)
        for i in range(0, len(lefts), together):
            some = lefts[i : i + together]
            tiles = torch.stack([band[:, left : left + width] for left in some]).permute(0, 3, 1, 2)
            for left, scores in zip(some, predictor(tiles.float() / 255).float()):
                if sums is None:
                    sums = scores.new_zeros(len(scores), height, image.width)
                sums[:, :, left : left + width] += weight * scores.softmax(0)
        whole = sums[:, : following - top]  # no later tile changes these rows
        yield slice(top, following), (whole / whole.sum(0)).clamp(min=1e-30).log()
        sums = torch.cat([sums[:, following - top :], torch.zeros_like(whole)], 1)


def with_palette(mask, colors, ids):
    """Classes (H, W) uint8 -> a palette image: viewers show the classes' `colors`, the file holds their `ids`."""
    table, palette = np.zeros(256, np.uint8), np.zeros((256, 3), np.uint8)
    table[: len(ids)], palette[ids] = ids, colors
    image = Image.fromarray(table[mask])
    image.putpalette(palette.tobytes())
    return image
