"""A network for use without this project: one file that torch or an ONNX runtime loads."""
import importlib.util
import warnings
from pathlib import Path

import torch

from data import InputError
from training.checkpoint import load_predictor, load_run, save_checkpoint


@torch.inference_mode()
def export(args):
    """Write a run's network, with its normalization, for any number and size of images: FILE.pt2 or FILE.onnx. It takes
    images (B, C, H, W) float in [0, 1]. The new file is checked against the network. FILE.pt is for this project: the
    best checkpoint with float16 weights, half as large."""
    path = Path(args.file)
    if path.suffix not in (".pt2", ".onnx", ".pt"):
        raise InputError(f"{path}: the suffix says what to write; give .pt2, .onnx or .pt")
    if path.suffix == ".pt":
        model, metadata = load_run(args.run)
        save_checkpoint(path, metadata | {"weights": model.half().state_dict()})
        return print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    if path.suffix == ".onnx" and not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        raise InputError(f"{path}: ONNX needs more packages: pip install onnx onnxscript; or give a .pt2")
    if not hasattr(torch.export.Dim, "AUTO"):
        raise InputError(f"export needs torch 2.6 or newer; this is {torch.__version__}")
    predictor = load_predictor(args.run, torch.device("cpu"), torch.float32)
    path.parent.mkdir(parents=True, exist_ok=True)  # otherwise torch raises a RuntimeError
    channels = predictor.metadata["network"].get("in_channels", 3)
    example, dynamic = torch.rand(2, channels, 97, 83), {axis: torch.export.Dim.AUTO for axis in (0, 2, 3)}
    warnings.simplefilter("ignore")  # the exporter warns about itself
    program = torch.export.export(predictor.model, (example,), dynamic_shapes=(dynamic,))
    # Newer versions also check that strides have the example's order, on which no value depends.
    program._guards_code = []
    exported = save(program, path)
    for shape in ((1, channels, 64, 96), (3, channels, 50, 70)):
        images = torch.rand(shape)
        if not torch.allclose(exported(images), predictor.model(images), rtol=1e-3, atol=1e-4):
            path.unlink()
            raise InputError(f"{path}: torch {torch.__version__} exports another function than the network's")
    least = max(int(limits.lower) for limits in program.range_constraints.values())
    print(f"{path} takes images (B, {channels}, H, W) float32 in [0, 1], H and W from {least} up; checked on two sizes")


def save(program, path):
    """Write an exported program in the format of the path's suffix; returns the loaded file as a function of images."""
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return torch.export.load(path).module()
    import onnx.reference
    torch.onnx.export(program, (), path, dynamo=True, input_names=["images"], output_names=["output"],
                      external_data=False, verbose=False)
    session = onnx.reference.ReferenceEvaluator(str(path))
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
