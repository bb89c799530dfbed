"""Score one submission, in a process of its own (limits.py). A grade is a dict that JSON can hold."""
import base64
import contextlib
import hashlib
import io
import json
import math
import time
from functools import partial

import numpy as np
import torch
from PIL import Image

from data.images import printable, read_image, stop
from data.masks import VOID
from evaluation.counts import COMPUTE, METRICS, WORST_BY
from evaluation.runs import PREDICT
from evaluation.predictions import read_images, read_labels
from evaluation.submissions import TROUBLES, content_digest, is_network, list_files, say_why
from evaluation.truth import predict_baseline
from training.checkpoint import load_predictor
from utils import colorize_mask, errors_in_red, figure_colors


def grade_job(truth, job):
    """Grade a submission, or a baseline if its source is None. If it has not changed, return the grade in `record`."""
    name, source, record = job
    torch.set_num_threads(1)  # there are as many processes as cores
    started, content = time.monotonic(), None
    with contextlib.suppress(Exception):  # grade_predictions reports errors
        content = f"{truth.digest} {content_digest(source) if source else name}"
        before = json.loads(record.read_text("utf-8"))
        if content == before["content"]:
            return before
    grade = grade_predictions(truth, partial(predict, truth, name, source), source)
    return grade | {"content": content, "seconds": round(time.monotonic() - started, 2)}


def predict(truth, name, source, troubles):
    """The pairs for grade_predictions."""
    if not source:
        return enumerate(predict_baseline(truth, name))
    if is_network(source):
        return run_network(truth, source)
    read = read_labels if truth.task == "classification" else read_images
    return read(truth, list_files(source, troubles), troubles)


def run_network(truth, path):
    """Yield (index, prediction) for every true image, from a checkpoint, which is read without running code in it."""
    predictor = load_predictor(path, torch.device("cpu"), torch.float32)
    metadata = predictor.metadata
    order = sorted if truth.task == "classification" else list  # labels are given by name, pixels by number
    if (metadata["task"], order(metadata["classes"]), predictor.channels) != (truth.task, order(truth.classes), 3):
        stop("this network is for another task, or for other classes or images than the true ones")
    for index, image in enumerate(truth.images):
        prediction = PREDICT[truth.task](predictor, read_image(image, metadata.get("levels")))
        yield index, truth.classes.index(prediction[0]) if truth.task == "classification" else np.array(prediction)


def grade_predictions(truth, predict, source):
    """Score the pairs (index, prediction or None) that predict(troubles) yields. If there are several for one image,
    the worst one counts. Returns a dict of all that the pages show."""
    compute, main, worst_by = COMPUTE[truth.task], METRICS[truth.task][0], WORST_BY[truth.task]
    found, seen, worst, error = {}, set(), [], None  # found: index -> (score, row, digest, equal to the truth)
    troubles = {trouble: [] for trouble in TROUBLES}
    try:
        for index, prediction in predict(troubles):
            seen.add(index)
            if prediction is None:
                continue
            row = truth.row(index, prediction)
            score = float(compute(row)[worst_by]) * (-1 if worst_by == "delta_e" else 1)
            if index in found and found[index][0] <= score:
                continue
            digest = hashlib.sha256(b"%d:" % index + np.ascontiguousarray(prediction).tobytes()).hexdigest()
            void = truth.task == "segmentation" and truth.targets[index] == VOID
            found[index] = score, row, digest, np.all((prediction == truth.targets[index]) | void)
            worst = [each for each in worst if each[1] != index] + [(score, index, prediction)]
            worst = sorted(worst, key=lambda each: each[:2])[:3]
    except Exception as problem:  # an error in one submission must not stop the others
        error = problem
        troubles["refused"].append(say_why(problem, source))
    rows = np.stack([found[i][1] if i in found else truth.row(i, None) for i in range(len(truth.names))])
    metrics, void = compute(rows.sum(0).astype(float)), 0.0
    troubles["missing"] += [printable(name) for i, name in enumerate(truth.names) if i not in seen]
    if truth.task == "segmentation" and found:
        _, true, predicted = sum(row for _, row, *_ in found.values())[:3].sum(1)
        void = 1 - float(predicted / max(true, 1))
    digest = hashlib.sha256("".join(found[index][2] for index in sorted(found)).encode()).hexdigest()
    return {
        "metrics": {metric: float(metrics[metric]) for metric in truth.metrics},
        "by class": [None if math.isnan(value) else float(value) for value in metrics.get("by class", ())],
        "status": judge(truth, error, found, troubles), "reason": getattr(error, "limit", ""), "given": len(found),
        "void": void,  # the share of pixels that are left void or have an unknown class
        "troubles": troubles,
        "digest": digest if metrics[main] else None,  # submissions without a right answer form no group
        "worst": [draw_worst(truth, *each) for each in worst if not found[each[1]][3]],
    }


def judge(truth, error, found, troubles):
    """A submission's status: the first one that is true."""
    equal = truth.task != "classification" and all(equal for *_, equal in found.values())
    return next(status for status, holds in (
        ("refused", error),
        *((kind, troubles[kind] and not found) for kind in ("wrong size", "unreadable", "refused", "misnamed")),
        ("empty", not found), ("ambiguous", troubles["ambiguous"]), ("incomplete", len(found) < len(truth.names)),
        ("equal to the truth", equal), ("ok", True)) if holds)


def draw_worst(truth, score, index, prediction):
    """(caption, {"input", "truth", "prediction", "errors in red": data URI of an image})"""
    target, path = truth.targets[index], truth.images[index]
    photo, result = read_image(path), f"{WORST_BY[truth.task]} {abs(score):.3f}"
    size, images = (220, max(1, min(440, 220 * photo.height // photo.width))), {"input": photo}
    if truth.task == "classification":
        result = f"{truth.classes[prediction] if prediction >= 0 else 'no class'}, is {truth.classes[target]}"
    else:
        if truth.task == "segmentation":
            errors, colors = errors_in_red(target, prediction), figure_colors(truth.colors)
            target, prediction = (colorize_mask(mask, colors) for mask in (target, prediction))
        else:
            images = {"input": photo.convert("L")}
            strength = (4 * np.abs(target.astype(np.int16) - prediction).max(2)).clip(0, 255)  # full red from 64 on
            errors = colorize_mask(strength, [(255, 255 - i, 255 - i) for i in range(256)])
        images |= {kind: Image.fromarray(values) for kind, values in (
            ("truth", target), ("prediction", prediction), ("errors in red", errors))}
    for kind, image in images.items():
        form = "png" if truth.task == "segmentation" and kind != "input" else "jpeg"  # JPEG would smear a mask
        image.resize(size, Image.Resampling.BOX).save(buffer := io.BytesIO(), form, quality=80)
        images[kind] = f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return f"{printable(truth.names[index])}: {result}", images
