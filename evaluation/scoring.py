"""The score of one submission, in a process of its own (limits.py): a dict that JSON can hold."""
import base64
import hashlib
import io
import math
import os
import time

import numpy as np
import torch
from PIL import Image

from data.images import printable, read_image
from data.masks import NO_CLASS, VOID
from evaluation.counts import COMPUTE
from evaluation.predictions import read_images, read_labels, run_checkpoint
from evaluation.rubrics import predict_baseline
from evaluation.submissions import TROUBLES, content_digest, is_checkpoint, list_files, say_why
from evaluation.truth import METRICS
from utils import colorize_mask


def grade_submission(truth, job):
    """Grade a folder, zip, table of labels or checkpoint; {"unchanged": True} where its content is still the same.

    job: its source, its last grade's `content` or None, the truth's digest, and device and dtype for a checkpoint.
    """
    source, before, truth_digest, device, dtype = job
    torch.set_num_threads(1)  # the processes are as many as the cores
    digest, started = content_digest(source), time.monotonic()
    content = digest and f"{truth_digest} {digest}"
    if content and content == before:
        return {"unchanged": True}

    def predict(troubles):
        network, found = is_checkpoint(source), False
        if not network or os.path.isdir(source):
            read = read_labels if truth.task == "classification" else read_images
            for pair in read(truth, list_files(source, troubles), troubles):
                found = True
                yield pair
        if network and not found:
            for lines in troubles.values():
                lines.clear()  # a run's other files
            yield from run_checkpoint(truth, source, device, dtype)

    grade = grade_predictions(truth, predict, source)
    return grade | {"content": content, "seconds": round(time.monotonic() - started, 2)}


def grade_baseline(truth, name):
    """Grade a prediction that needs no network."""
    torch.set_num_threads(1)
    return grade_predictions(truth, lambda _: predict_baseline(truth, name))


def grade_predictions(truth, predict, source=""):
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
        error = problem
        troubles["refused"].append(say_why(problem, source))
    troubles["missing"] += [printable(name) for i, name in enumerate(truth.names) if i not in found and i not in unused]
    equal = sum(each["equal"] for each in found.values())
    digest = hashlib.sha256("".join(found[index]["digest"] for index in sorted(found)).encode()).hexdigest()
    return score_rows(truth, {index: each["row"] for index, each in found.items()}) | {
        "status": judge(truth, error, len(found), equal, troubles), "reason": getattr(error, "limit", ""),
        "given": len(found), "equal": equal, "void": float(np.mean([each["void"] for each in found.values()] or [0])),
        "troubles": {trouble: lines[:200] for trouble, lines in troubles.items()},
        "trouble counts": {trouble: len(lines) for trouble, lines in troubles.items()},
        "digest": digest if any(each["names a class"] for each in found.values()) else None,
        "worst": [draw_worst(truth, *each) for each in worst if not found[each[1]]["equal"]],
    }


def compare(truth, index, prediction):
    """What is known of a prediction beside its score: a digest, whether it is equal to the truth in all that counts,
    whether it names any class, and the share that it leaves void."""
    target = truth.targets[index]
    if truth.task == "segmentation":
        scored = target != VOID
        equal = not (scored & (prediction != target)).any()
        void = np.count_nonzero(scored & (prediction == VOID)) / max(np.count_nonzero(scored), 1)
        names_class = bool((prediction < NO_CLASS).any())
    else:
        equal, void = bool(np.all(prediction == target)), 0
        names_class = truth.task == "colorization" or prediction >= 0
    digest = hashlib.sha256(b"%d:" % index + np.ascontiguousarray(prediction).tobytes()).hexdigest()
    return {"digest": digest, "equal": equal, "void": void, "names a class": names_class}


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
    """The metrics of the images' rows, by index, with the intervals of the bootstrap samples."""
    compute = COMPUTE[truth.task]
    rows = np.stack([rows[i] if i in rows else truth.row(i, None) for i in range(len(truth.names))]).astype(float)
    metrics, resampled = compute(rows.sum(0)), compute(np.tensordot(truth.samples, rows, 1))
    few = len(rows) < 5  # they differ too little from sample to sample
    return {
        "metrics": {metric: float(metrics[metric]) for metric in truth.metrics},
        "intervals": {metric: [None, None] if few else np.percentile(resampled[metric], (2.5, 97.5)).tolist()
                      for metric in truth.metrics},
        "by class": [None if math.isnan(value) else float(value) for value in metrics.get("by class", ())]}


def draw_worst(truth, score, index, prediction):
    """(caption, data URI of image, truth and prediction side by side)"""
    name, target = printable(truth.names[index]), truth.targets[index]
    caption, arrays = f"{name}: {METRICS[truth.task][0]} {score:.3f}", [prediction]
    if truth.task == "classification":
        guess = truth.classes[prediction] if prediction >= 0 else "no class"
        caption, arrays = f"{name}: {guess}, is {truth.classes[target]}", []
    elif truth.task == "segmentation":
        arrays = [colorize_mask(mask, truth.colors) for mask in (target, prediction)]
    images = [read_image(truth.images[index]), *map(Image.fromarray, arrays)]
    size = (220, max(1, min(440, 220 * images[0].height // images[0].width)))
    strip = Image.new("RGB", (224 * len(images) - 4, size[1]), "white")
    for i, image in enumerate(images):
        strip.paste(image.resize(size, Image.Resampling.BOX), (224 * i, 0))
    strip.save(buffer := io.BytesIO(), "JPEG", quality=80)
    return caption, "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
