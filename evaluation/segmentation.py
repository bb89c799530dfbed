"""Segmentation: a network is scored and drawn on a split, and predicts masks for anyone's images."""
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import utils
from evaluation import as_batch, enlarge, print_by_class
from evaluation.tiles import tiled_scores

BY_CLASS = {"iou": "IoU", "dice": "Dice", "precision": "precision", "recall": "recall"}


@torch.inference_mode()
def predicted_masks(predictor, split):
    """Yield (truth, prediction), uint8 masks (B, H, W) on the device, over a split; several processes share it."""
    predictor.model.eval()
    for images, masks, _ in utils.batches(split, 32, predictor.device):
        yield masks, predicted_classes(predictor, images)


def predicted_classes(predictor, images):
    """Images (B, 3, H, W) uint8 on the device -> classes (B, H, W) uint8; tile by tile, if the run was trained so."""
    if not predictor.metadata.get("tile"):
        return predictor(images.float() / 255).argmax(1).byte()

    def tiled(image):
        bands = tiled_scores(predictor, lambda top, bottom: image[:, top:bottom], image.shape[1:])
        return torch.cat([scores.argmax(0).byte() for scores in bands])

    return torch.stack([tiled(image) for image in images])


@torch.inference_mode()
def score_segmentation(predictor, split, outlines=True):
    """Scores on a split: miou, pixel_accuracy, frequency_weighted_iou, boundary_f1 (which takes time, and needs
    `outlines`), and those BY_CLASS, each a dict, with None for 0/0."""
    classes, pixels, edges = predictor.metadata["classes"], [], []
    for truth, prediction in predicted_masks(predictor, split):
        pixels.append(utils.pixel_counts(truth, prediction, len(classes)).sum(0).numpy())
        if outlines:
            pairs = zip(truth.cpu().numpy(), prediction.cpu().numpy())
            edges += [utils.outline_counts(*pair, len(classes)) for pair in pairs]
    scores = utils.segmentation_scores(sum(utils.gather(pixels)))
    scores = {key: {name: None if np.isnan(score) else float(score) for name, score in zip(classes, value)}
              if key in BY_CLASS else float(value) for key, value in scores.items()}
    if outlines:
        scores["boundary_f1"] = float(utils.boundary_f1(sum(utils.gather(edges))))
    return scores


def print_segmentation(scores):
    """A row a class, then the means."""
    print_by_class(scores, BY_CLASS)
    for key in ("miou", "pixel_accuracy", "frequency_weighted_iou", "boundary_f1"):
        utils.log(f"{key.replace('_', ' ')}: {scores[key]:.4f}")


@torch.inference_mode()
def draw_segmentation(predictor, split, path):
    """Image, truth and prediction side by side for six images spread evenly over a split."""
    chosen, colors = utils.evenly(len(split), 6), predictor.metadata["colors"]
    images, truth = np.asarray(split.images[chosen]), np.asarray(split.targets[chosen])
    prediction = predicted_classes(predictor, torch.from_numpy(images).to(predictor.device)).cpu().numpy()
    rows = [(image.transpose(1, 2, 0), utils.colorize_mask(t, colors), utils.colorize_mask(p, colors))
            for image, t, p in zip(images, truth, prediction)]
    utils.plot_images(rows, [("image", "truth", "prediction")], path, list(zip(predictor.metadata["classes"], colors)))


@torch.inference_mode()
def predict_segmentation(predictor, image, probabilities=None):
    """A Pillow image of any size -> class ids (H, W) uint8 at its own size.

    `probabilities`, an array (K, H, W), is filled with those of the classes.
    """
    mask, top = np.empty((image.height, image.width), np.uint8), 0
    for scores in score_bands(predictor, image):
        bottom = top + scores.shape[1]
        mask[top:bottom] = scores.argmax(0).byte().cpu().numpy()
        if probabilities is not None:
            probabilities[:, top:bottom] = scores.softmax(0).cpu().numpy()
        top = bottom
    return mask


def score_bands(predictor, image):
    """Yield class scores (K, rows, W) float of a Pillow image, at its own size, band after band from the top down.

    Scores, not ids, are enlarged: outlines come out smooth instead of in steps.
    """
    metadata, own = predictor.metadata, (image.height, image.width)
    if not metadata.get("tile"):
        yield from enlarge(predictor(as_batch(image, metadata["size"], predictor.device))[0].float(), own)
        return
    seen = tuple(max(round(side * scale), 1) for side, scale in zip(own, metadata["scale"]))  # as in training
    small = image if seen == own else image.resize(seen[::-1], Image.Resampling.BILINEAR)

    def rows(top, bottom):
        strip = np.array(small.crop((0, top, small.width, bottom)))
        return torch.from_numpy(strip).to(predictor.device).permute(2, 0, 1)

    done = 0
    for scores in tiled_scores(predictor, rows, seen):
        first, last = (round(row * own[0] / seen[0]) for row in (done, done + scores.shape[1]))
        done += scores.shape[1]
        if last > first:
            yield F.interpolate(scores[None], (last - first, own[1]), mode="bilinear")[0]


def with_palette(mask, colors, ids):
    """Classes (H, W) uint8 as a palette image: a viewer shows their `colors`, and its bytes are their `ids`, those of
    the masks that the network was trained with."""
    bytes_, palette = np.zeros(256, np.uint8), np.zeros((256, 3), np.uint8)
    bytes_[: len(ids)], palette[ids] = ids, colors
    image = Image.fromarray(bytes_[mask])
    image.putpalette(palette.tobytes())
    return image
