"""A grid of runs: every combination of some settings is trained. Only the best on val is tested."""
import argparse
import itertools
import traceback
from pathlib import Path

import numpy as np

from training.checkpoint import STATES
from training.run import Diverged
from utils import plot_heat_map, write_csv

GRID = {"optimizer": ["sgd", "adam"], "schedule": ["none", "step", "multistep"], "lr": [1e-4, 1e-3, 1e-2],
        "batch_size": [64, 256]}  # the grid of --sweep without values


def sweep(args, train, test):
    """train(settings, last epoch) -> (run, data) for each cell of the grid args.sweep; test(run, data) for the best."""
    grid = dict(args.sweep) or GRID
    folder = Path(args.out or f"runs/classification/sweep-{Path(args.data).name}")
    cells, rows, seconds = [dict(zip(grid, values)) for values in itertools.product(*grid.values())], [], {}

    def train_cell(name, cell, last=None):
        """Train a cell, or resume it; a finished one returns at once."""
        begun = any((folder / name / state).exists() for state in STATES)
        return train(argparse.Namespace(**vars(args) | cell | {"out": str(folder / name), "resume": begun}), last)

    def expect(name, cell):
        """The seconds that a cell will take, from its first epoch."""
        run, _ = train_cell(name, cell, 1)
        return np.mean(run.seconds) * run.args.epochs

    print(f"sweep: {len(cells)} networks; the first epoch will tell how long they take")
    for cell in cells:
        name = "-".join(map(str, cell.values()))
        rows.append({"run": name, **cell, "epochs": 0, "val_accuracy": 0.0})
        try:
            seconds = seconds or {name: expect(name, cell)}
            left = np.mean([*seconds.values()]) * (len(cells) - len(rows) + 1) / 60
            print(f"sweep {len(rows)}/{len(cells)}, about {left:.0f} minutes left: {name}")
            run, _ = train_cell(name, cell)
            rows[-1] |= {"epochs": run.epoch, "val_accuracy": run.best["score"]}
            seconds[name] = sum(run.seconds)
            del run, _  # otherwise they would be in memory together with the next run
        except Diverged as error:
            traceback.clear_frames(error.__traceback__)  # frees the run's memory and signal handlers
            print(f"{name}: {error}")
        write_csv(folder / "sweep.csv", rows)
    names = list(grid)
    plot_heat_map(rows, names[: len(names) // 2], names[len(names) // 2 :], "val_accuracy", folder / "sweep.png")
    best = max(rows, key=lambda row: row["val_accuracy"])
    print(f"best on val: {best['run']}, {best['val_accuracy']:.4f}; its test scores:")
    test(*train_cell(best["run"], {key: best[key] for key in grid}))
