"""Segmentation: score and draw a network on a split; predict the mask of any image."""
import numpy as np
import torch
from PIL import Image

import utils
from evaluation import as_batch, enlarge


def predicted_classes(predictor, images):
    """Images (B, C, H, W) uint8 on the device -> classes (B, H, W) uint8. With "tile": strip by strip."""
    if not predictor.metadata.get("tile"):
        return predictor(images.float() / 255).argmax(1).byte()
    images = (Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
              for image in images.permute(0, 2, 3, 1).cpu().numpy())
    masks = np.stack([predict_segmentation(predictor, image) for image in images])
    return torch.from_numpy(masks).to(predictor.device)


@torch.inference_mode()
def score_segmentation(predictor, split, outlines=True):
    """miou, ...; iou, dice, ... as dicts by class, None for 0/0; images: mIoU of each; with outlines boundary_f1."""
    predictor.model.eval()
    classes, pixels, edges = predictor.metadata["classes"], [], []
    for images, truth, _ in utils.batches(split, 32, predictor.device):
        prediction = predicted_classes(predictor, images)
        pixels.append(utils.pixel_counts(truth, prediction, len(classes)).numpy())
        if outlines:
            pairs = zip(truth.cpu().numpy(), prediction.cpu().numpy())
            edges += [utils.outline_counts(*pair, len(classes)) for pair in pairs]
    pixels = np.concatenate(pixels)
    scores = utils.segmentation_scores(pixels.sum(0))
    scores = {key: {name: None if np.isnan(score) else float(score) for name, score in zip(classes, value)}
              if value.ndim else float(value) for key, value in scores.items()}
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
def predict_segmentation(predictor, image):
    """A Pillow image of any size -> class indices (H, W) uint8 at that size, enlarged as scores: smooth outlines."""
    mask = np.empty((image.height, image.width), np.uint8)
    if predictor.metadata.get("tile"):
        bands = scores_at_own_size(predictor, image)
    else:
        small = as_batch(image, predictor.metadata["size"], predictor.device)
        bands = enlarge(predictor(small)[0].float(), mask.shape)
    for rows, scores in bands:
        mask[rows] = scores.argmax(0).byte().cpu().numpy()
    return mask


def scores_at_own_size(predictor, image):
    """A Pillow image -> yields a slice of rows and their scores (K, rows, W) float, for a network trained on crops. It
    sees strips with a margin, as far as it sees, on both sides, so memory does not grow with the image's height."""
    margin = predictor.model.receptive_radius
    step = margin * max(2**20 // image.width // margin, 1)  # a multiple of the networks' strides
    for top in range(0, image.height, step):
        first, rows = max(top - margin, 0), slice(top, min(top + step, image.height))
        strip = image.crop((0, first, image.width, min(rows.stop + margin, image.height)))
        scores = predictor(as_batch(strip, (strip.height, strip.width), predictor.device))[0].float()
        yield rows, scores[:, top - first : rows.stop - first]


def with_palette(mask, colors, ids):
    """Classes (H, W) uint8 -> a palette image: viewers show the classes' `colors`, the file holds their `ids`."""
    table, palette = np.zeros(256, np.uint8), np.zeros((256, 3), np.uint8)
    table[: len(ids)], palette[ids] = ids, colors
    image = Image.fromarray(table[mask])
    image.putpalette(palette.tobytes())
    return image
