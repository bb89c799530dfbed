"""How far a logistic regression on the pixels gets on the scene types: where it gets far, they are too easy.

    python tests/benchmarks/logistic_regression.py     (about 3 minutes on 2 cores)

Prints the strength of regularization that was best on val, and its accuracies, for every pixel and for every fourth
of each row and column.
"""
import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data.sources import open_data  # noqa: E402

warnings.filterwarnings("ignore")  # some do not converge in the iterations allowed

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", default="scenes")
parser.add_argument("--data-dir", default=str(ROOT / "data"))
args = parser.parse_args()
splits = open_data(args.data, "classification", None, args.data_dir, 0).splits
for step in (1, 4):
    pixels = {name: np.asarray(split.images)[:, :, ::step, ::step].reshape(len(split), -1) / 255
              for name, split in splits.items()}
    scaler = StandardScaler().fit(pixels["train"])
    pixels = {name: scaler.transform(values) for name, values in pixels.items()}
    models = [LogisticRegression(C=c, max_iter=200).fit(pixels["train"], splits["train"].targets)
              for c in (1e-5, 1e-4, 1e-3, 1e-2)]
    best = max(models, key=lambda model: model.score(pixels["val"], splits["val"].targets))
    val, test = (best.score(pixels[name], splits[name].targets) for name in ("val", "test"))
    print(f"every {step}. pixel: C {best.C:g}, val {val:.3f}, test {test:.3f}", flush=True)
