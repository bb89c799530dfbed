"""Classification: score and draw a network on a split; predict the class of any image."""
import numpy as np
import torch

from evaluation import as_batch
from utils import batches, plot_images, plot_matrix, write_csv


def class_probabilities(predictor, images):
    """Images (B, C, H, W) float in [0, 1] -> probabilities (B, K) float. With `mirror` they are the means over the
    images and their mirror images (ten views in Krizhevsky et al. 2012)."""
    views = (images, images.flip(3)) if predictor.metadata["mirror"] else (images,)
    return sum(predictor(view).float().softmax(1) for view in views) / len(views)


@torch.inference_mode()
def score_classification(predictor, split):
    """accuracy, top5, class_scores, confusion (K, K), of counts, and probabilities (N, K)."""
    predictor.model.eval()
    classes, probabilities, labels = predictor.metadata["classes"], [], []
    for images, targets, _ in batches(split, 256, predictor.device):
        probabilities.append(class_probabilities(predictor, images.float() / 255).cpu())
        labels.append(targets.cpu())
    probabilities, labels = torch.cat(probabilities), torch.cat(labels)
    pairs = labels * len(classes) + probabilities.argmax(1)
    confusion = torch.bincount(pairs, minlength=len(classes) ** 2).view(len(classes), -1).numpy()
    hits, count = int(confusion.trace()), int(confusion.sum())
    top5 = probabilities.topk(min(5, len(classes))).indices == labels[:, None]
    return {"accuracy": hits / count, "top5": float(top5.any(1).float().mean()), **class_scores(confusion, classes),
            "confusion": confusion, "probabilities": probabilities.numpy()}


def class_scores(confusion, classes):
    """Counts (K, K), one row per true class -> precision, recall and f1, each a dict by class, with None for a class
    without images, and their macro averages over the other classes."""
    hits, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    columns = {"precision": hits / predicted.clip(1), "recall": hits / true.clip(1),
               "f1": 2 * hits / (true + predicted).clip(1)}
    scores = {f"macro_{key}": float(column[true > 0].mean()) for key, column in columns.items()}
    return scores | {key: {name: float(value) if count else None for name, value, count in zip(classes, column, true)}
                     for key, column in columns.items()}


def draw_classification(confusion, probabilities, split, classes, folder):
    """Draw confusion.png and .csv, one row per true class, and mistakes.png, the twelve most confident mistakes."""
    share = confusion / confusion.sum(1, keepdims=True).clip(1)
    plot_matrix(share, "{:.2f}", classes, classes, folder / "confusion.png", xlabel="prediction", ylabel="truth",
                title=f"shares of each true class; accuracy {confusion.trace() / confusion.sum():.3f}")
    write_csv(folder / "confusion.csv", ({"truth": name} | dict(zip(classes, counts.tolist()))
                                         for name, counts in zip(classes, confusion)))
    prediction, truth = probabilities.argmax(1), np.asarray(split.targets)
    sureness = np.where(prediction != truth, probabilities.max(1), 0)
    worst = [i for i in np.argsort(-sureness)[:12] if sureness[i]]
    images = [np.asarray(split.images[i]).transpose(1, 2, 0) for i in worst]
    captions = [f"predicted {classes[prediction[i]]} ({sureness[i]:.0%})\nis {classes[truth[i]]}" for i in worst]
    plot_images([("", [*zip(captions, images)])], folder / "mistakes.png")


@torch.inference_mode()
def predict_classification(predictor, image):
    """A Pillow image of any size -> its class's name and probability."""
    batch = as_batch(image, predictor.metadata["size"], predictor.device)
    probability, index = class_probabilities(predictor, batch)[0].max(0)
    return predictor.metadata["classes"][int(index)], float(probability)
