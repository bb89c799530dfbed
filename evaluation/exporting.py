"""A network for use without this project: one file that torch or an ONNX runtime loads."""
import importlib.util
import os
import warnings
from pathlib import Path

import torch

from data import InputError
from training.checkpoint import load_predictor

EXAMPLE, CHECKS = (2, 97, 83), ((1, 64, 96), (3, 50, 70))  # batch, height, width


@torch.inference_mode()
def export(args):
    """Write a run's network, normalization included, for images of any number and size: FILE.pt2 or FILE.onnx.

    It takes images (B, C, H, W) float in [0, 1]. The file is checked against the network before it is left.
    """
    path = Path(args.file)
    if path.suffix not in (".pt2", ".onnx"):
        raise InputError(f"{path}: the suffix says what to write; give .pt2 or .onnx")
    needed = [name for name in ("onnx", "onnxscript") if path.suffix == ".onnx" and not importlib.util.find_spec(name)]
    if needed:
        raise InputError(f"{path}: ONNX needs more packages: pip install {' '.join(needed)}; or give a .pt2")
    predictor = load_predictor(args.run, torch.device("cpu"), torch.float32)
    channels = predictor.metadata["network"].get("in_channels", 3)
    partial = path.with_name(f".partial-{path.name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program, least = trace(predictor.model, torch.rand(EXAMPLE[0], channels, *EXAMPLE[1:]))
            exported = (save_pt2 if path.suffix == ".pt2" else save_onnx)(program, partial)
        for shape in CHECKS:
            images = torch.rand(shape[0], channels, *shape[1:])
            if not torch.allclose(exported(images), predictor.model(images), rtol=1e-3, atol=1e-4):
                raise InputError(f"{path}: torch {torch.__version__} exports another function than the network's")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{path} takes images (B, {channels}, H, W) float32 in [0, 1], H and W from {least} up; checked on two sizes")


def trace(model, example):
    """The network as torch.export has it, and the least height and width that it takes."""
    if not hasattr(torch.export.Dim, "AUTO"):
        raise InputError(f"export needs torch 2.6 or newer; this is {torch.__version__}")
    dynamic = {axis: torch.export.Dim.AUTO for axis in (0, 2, 3)}
    program = torch.export.export(model, (example,), dynamic_shapes=(dynamic,))
    # Newer versions also hold each image to the example's order of strides, on which no value depends; see the check.
    program._guards_code = []
    return program, max(int(limits.lower) for limits in program.range_constraints.values())


def save_pt2(program, path):
    """Write a file of torch's; returns it loaded, as a function of images."""
    torch.export.save(program, path)
    return torch.export.load(path).module()


def save_onnx(program, path):
    """Write an ONNX file; returns it loaded, as a function of images."""
    import onnx.reference

    torch.onnx.export(program, (), path, dynamo=True, input_names=["images"], output_names=["output"],
                      external_data=False, verbose=False)
    session = onnx.reference.ReferenceEvaluator(str(path))
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
