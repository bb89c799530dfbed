"""The score of one submission, in a process of its own (limits.py): a dict that JSON can hold."""
import base64
import hashlib
import io
import math
import os
import time
from collections import defaultdict

import numpy as np
import torch
from PIL import Image

from data.images import printable, read_image
from data.masks import NO_CLASS, VOID
from evaluation.counts import COMPUTE, colorization_known
from evaluation.limits import is_out_of_memory
from evaluation.predictions import match_files, read_images, read_labels, run_checkpoint
from evaluation.rubrics import predict_baseline
from evaluation.submissions import TROUBLES, content_digest, is_checkpoint, list_files, say_why
from evaluation.truth import METRICS, PERFECT
from utils import colorize_mask


def grade_submission(truth, truth_digest, device, dtype, job):
    """Grade a folder, zip, table of labels or checkpoint. job: its path and its last grade's `content`, or None.

    Returns the grade, a dict that JSON can hold, or {"unchanged": True} where the content is still the same.
    """
    path, before = job
    torch.set_num_threads(1)  # the processes are as many as the cores
    content = f"{truth_digest} {content_digest(path)}"
    if content == before:
        return {"unchanged": True}

    def predict(troubles):
        network = is_checkpoint(path)
        if network and not os.path.isdir(path):
            return run_checkpoint(truth, path, device, dtype)
        files = list_files(path, troubles)
        if truth.task == "classification":
            predictions = list(read_labels(truth, files, troubles))
            predicted = bool(predictions)
        else:
            predictions = read_images(truth, files, troubles)
            predicted = bool(match_files(truth, files, defaultdict(list)))
        if predicted or not network:
            return predictions
        for lines in troubles.values():
            lines.clear()  # a run's other files
        return run_checkpoint(truth, path, device, dtype)

    started = time.monotonic()
    grade = grade_predictions(truth, predict, path)
    return grade | {"content": content, "seconds": round(time.monotonic() - started, 2)}


def grade_predictions(truth, predict, path=""):
    """Score the (index, prediction or None) pairs that predict(troubles) yields: a dict of all that the pages tell.

    Of several predictions for one image the worst counts.
    """
    compute, main = COMPUTE[truth.task], METRICS[truth.task][0]
    found, unused, worst, error = {}, set(), [], None
    troubles = {trouble: [] for trouble in TROUBLES}
    try:
        for index, prediction in predict(troubles):
            if prediction is None:
                unused.add(index)
                continue
            row = truth.row(index, prediction)
            score = float(compute(row)[main])
            if index in found and found[index]["score"] <= score:
                continue
            found[index] = {"score": score, "row": row, **compare(truth, index, prediction)}
            worst = [each for each in worst if each[1] != index]
            worst = sorted([*worst, (score, index, prediction)], key=lambda each: each[:2])[:3]
    except Exception as problem:  # whatever is wrong with one submission, the others are still to be graded
        if is_out_of_memory(problem):
            raise
        error = problem
        troubles["refused"].append(say_why(problem, path))
    absent = [i for i in range(len(truth.names)) if i not in found and i not in unused]
    troubles["missing"] += [printable(truth.names[i]) for i in absent]
    rows = {index: each["row"] for index, each in found.items()}
    equal = sum(each["equal"] for each in found.values())
    digest = hashlib.sha256("".join(found[index]["digest"] for index in sorted(found)).encode()).hexdigest()
    return score_rows(truth, rows) | {
        "status": judge(truth, error, len(found), equal, troubles), "reason": getattr(error, "limit", ""),
        "given": len(found), "equal": equal, "void": float(np.mean([each["void"] for each in found.values()] or [0])),
        "troubles": {trouble: lines[:200] for trouble, lines in troubles.items()},
        "trouble counts": {trouble: len(lines) for trouble, lines in troubles.items()},
        "digest": digest if any(each["means something"] for each in found.values()) else None,
        "worst": [draw_worst(truth, *each) for each in worst if each[0] < PERFECT[truth.task]],
    }


def compare(truth, index, prediction):
    """What is known of a prediction beside its score: a digest, whether it is equal to the truth in all that counts,
    whether it names any class, and the share that it leaves void."""
    target = truth.targets[index]
    digest = hashlib.sha256(b"%d:" % index + np.ascontiguousarray(prediction).tobytes()).hexdigest()
    if truth.task == "classification":
        return {"digest": digest, "equal": bool(prediction == target), "means something": prediction >= 0, "void": 0}
    if truth.task == "colorization":
        return {"digest": digest, "equal": np.array_equal(prediction, target), "means something": True, "void": 0}
    scored = target != VOID
    void = np.count_nonzero(scored & (prediction == VOID)) / max(np.count_nonzero(scored), 1)
    return {"digest": digest, "equal": not (scored & (prediction != target)).any(), "void": void,
            "means something": bool((prediction < NO_CLASS).any())}


def judge(truth, error, given, equal, troubles):
    """A submission's status."""
    whole = given == len(truth.names)
    if error or not whole and truth.missing == "refuse":
        return "refused"
    if not given:  # empty is only what is empty
        return next((kind for kind in ("wrong size", "unreadable", "refused", "misnamed") if troubles[kind]), "empty")
    if troubles["ambiguous"]:
        return "ambiguous"
    if not whole:
        return "incomplete"
    return "equal to the truth" if equal == given and truth.task != "classification" else "ok"


def score_rows(truth, rows):
    """The metrics of the images' rows, by index, with intervals; also those of the given images alone."""
    compute = COMPUTE[truth.task]
    all_rows = np.stack([rows[i] if i in rows else truth.row(i, None) for i in range(len(truth.names))]).astype(float)
    metrics = compute(all_rows.sum(0))
    alone = compute(np.sum(list(rows.values()), 0, dtype=float)) if rows else metrics
    resampled = compute(np.tensordot(truth.samples, all_rows, 1))
    few = len(all_rows) < 5  # they differ too little from sample to sample
    return {
        "metrics": {metric: float(metrics[metric]) for metric in truth.metrics},
        "alone": {metric: float(alone[metric]) for metric in truth.metrics},
        "intervals": {metric: [None, None] if few else np.percentile(resampled[metric], (2.5, 97.5)).tolist()
                      for metric in truth.metrics},
        "by class": [None if math.isnan(value) else float(value) for value in metrics.get("by class", ())]}


def draw_worst(truth, score, index, prediction):
    """(caption, data URI of image, truth and prediction side by side)"""
    caption, target = f"{printable(truth.names[index])}: {METRICS[truth.task][0]} {score:.3f}", truth.targets[index]
    if truth.task == "classification":
        guess = truth.classes[prediction] if prediction >= 0 else "no class"
        caption, images = f"{printable(truth.names[index])}: {guess}, is {truth.classes[target]}", []
    elif truth.task == "segmentation":
        images = [colorize_mask(mask, truth.colors) for mask in (target, prediction)]
    else:
        images = [prediction]
    images = [read_image(truth.images[index]), *map(Image.fromarray, images)]
    width, height = images[0].size
    size = (220, max(1, min(440, 220 * height // width)))
    strip = Image.new("RGB", (224 * len(images) - 4, size[1]), "white")
    for i, image in enumerate(images):
        strip.paste(image.resize(size, Image.Resampling.BOX), (224 * i, 0))
    strip.save(buffer := io.BytesIO(), "JPEG", quality=80)
    return caption, "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def grade_baseline(truth, name):
    """Grade a prediction that needs no network."""
    torch.set_num_threads(1)
    return grade_predictions(truth, lambda _: predict_baseline(truth, name))


def know_colors(truth, indices):
    """counts.colorization_known of some true images, as a list."""
    torch.set_num_threads(1)
    return [colorization_known(truth.targets[index]).tolist() for index in indices]
