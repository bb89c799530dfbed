"""Colorization: score and draw a network on a split; predict the colours of any image."""
from collections import defaultdict

import numpy as np
import torch
from PIL import Image

from data import color
from evaluation import as_batch, enlarge
from utils import batches, best_to_worst, plot_images

AB_UNIT = 25  # few colours of a photograph have larger a or b, so targets are about -1 to 1
MEANS = ("psnr", "ssim", "delta_e", "colorfulness_ratio", "sharpness_ratio")
COLUMNS = ("psnr", "ssim", "delta_e", "colorfulness", "sharpness", "true_colorfulness", "true_sharpness")


def lightness_and_ab(rgb):
    """RGB (B, 3, H, W) in [0, 1] -> the input, lightness (B, 1, H, W) in [0, 1], and ab / AB_UNIT (B, 2, H, W)."""
    lab = color.rgb_to_lab(rgb)
    return lab[:, :1] / 100, lab[:, 1:] / AB_UNIT


def paint(output, lightness, metadata):
    """A network's output, logits of RGB or ab / AB_UNIT, and its input -> the coloured image (B, 3, H, W) in [0, 1]. ab
    is multiplied by a gain: a network that minimizes a distance predicts averages, which are pale."""
    if metadata["target"] == "rgb":
        return output.float().sigmoid()  # a clamp would give bright skies coloured specks
    return with_colors(lightness, output.float() * (AB_UNIT * metadata["gain"]))


def with_colors(lightness, ab=None):
    """The network's input (B, 1, H, W) and ab (B, 2, H, W); None: grey -> RGB (B, 3, H, W) float in [0, 1]."""
    ab = torch.zeros_like(lightness).expand(-1, 2, -1, -1) if ab is None else ab
    return color.lab_to_rgb(torch.cat([100 * lightness, ab], 1))


def to_images(rgb):
    """RGB (B, 3, H, W) float in [0, 1] -> (B, H, W, 3) uint8, in numpy."""
    return (255 * rgb).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def color_metrics(prediction, truth, *lab):
    """RGB (B, 3, H, W) float in [0, 1] -> the first five of COLUMNS, (B,) each; delta_e: the mean CIEDE2000. lab: both
    images in CIELAB, if already known."""
    difference = color.ciede2000(*(lab or map(color.rgb_to_lab, (prediction, truth)))).mean((1, 2))
    return (color.psnr(prediction, truth).clamp(max=100), color.ssim(prediction, truth), difference,
            color.colorfulness(prediction), color.gradient_energy(prediction))


@torch.inference_mode()
def score_colorization(predictor, split, criterion=None, baselines=False):
    """MEANS over a split and `images`, a row for each. With a criterion(output, rgb, ab) also its mean, `loss`. With
    `baselines` also the MEANS of grey and of the training set's mean colour."""
    predictor.model.eval()
    loss, rows = 0.0, defaultdict(list)
    for images, _, _ in batches(split, 32, predictor.device):
        rgb = images.float() / 255
        lightness, ab = lightness_and_ab(rgb)
        output = predictor(lightness)
        loss += float(criterion(output, rgb, ab)) * len(rgb) if criterion else 0.0
        painted = {"network": paint(output, lightness, predictor.metadata)}
        if baselines:
            mean = lightness.new_tensor(predictor.metadata["mean_ab"])[:, None, None].expand_as(ab)
            painted |= {"grey": with_colors(lightness), "mean colour": with_colors(lightness, mean)}
        truth = color.colorfulness(rgb), color.gradient_energy(rgb)
        for name, image in painted.items():
            rows[name].append(torch.stack([*color_metrics(image, rgb), *truth], 1).cpu().numpy())
    rows = {name: np.concatenate(parts).astype(float) for name, parts in rows.items()}
    means = {name: mean_metrics(parts.sum(0), len(parts)) for name, parts in rows.items()}
    scores = means.pop("network")
    if criterion:
        scores["loss"] = loss / len(split)
    if baselines:
        scores["baselines"] = means
    scores["images"] = [{"name": name} | dict(zip(COLUMNS, row))
                        for name, row in zip(split.names, rows["network"].tolist())]
    return scores


def mean_metrics(sums, images):
    """The sums of COLUMNS (7,) over so many images -> a dict of MEANS; the ratios are prediction to truth."""
    return dict(zip(MEANS, map(float, (*sums[:3] / images, *sums[3:5] / sums[5:].clip(1e-9)))))


@torch.inference_mode()
def draw_colorization(predictors, split, images, path, columns=4):
    """Draw the best, median and worst image. images: score_colorization's rows; predictors: title -> Predictor."""
    scores, device = [float(row["delta_e"]) for row in images], next(iter(predictors.values())).device
    chosen = best_to_worst(np.negative(scores))
    rgb = torch.from_numpy(np.asarray(split.images[[*chosen]])).to(device).float() / 255
    lightness, _ = lightness_and_ab(rgb)
    painted = [paint(predictor(lightness), lightness, predictor.metadata) for predictor in predictors.values()]
    strips, titles = map(to_images, (with_colors(lightness), *painted, rgb)), ["grey", *predictors, "truth"]
    rows = [(f"{label}, CIEDE2000 {scores[i]:.1f}", [*zip(titles, row)])
            for (i, label), *row in zip(chosen.items(), *strips)]
    plot_images(rows, path, columns=columns)


@torch.inference_mode()
def predict_colorization(predictor, image):
    """A Pillow image of any size, grey or not -> the coloured image at its own size. With the target "lab" the colours
    come from the network, at its size, and the lightness from the image itself."""
    lightness, _ = lightness_and_ab(as_batch(image, predictor.metadata["size"], predictor.device))
    painted = paint(predictor(lightness), lightness, predictor.metadata)[0]
    result = np.empty((image.height, image.width, 3), np.uint8)
    for rows, strip in enlarge(painted, result.shape[:2]):  # strips, as this takes many times an image's memory
        strip = strip[None]
        if predictor.metadata["target"] == "lab":
            part = image.crop((0, rows.start, image.width, rows.stop))
            own, _ = lightness_and_ab(as_batch(part, strip.shape[2:], predictor.device))
            strip = with_colors(own, color.rgb_to_lab(strip)[:, 1:])
        result[rows] = to_images(strip)[0]
    return Image.fromarray(result)
