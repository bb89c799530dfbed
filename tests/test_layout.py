"""The layout that README describes: imports run one way, floor by floor, and nowhere in a circle."""
import ast
import graphlib

from conftest import ROOT

FLOORS = {"data": 0, "models": 0, "utils": 1, "training": 2, "evaluation": 3, "evaluate": 4, "train_classifier": 4,
          "train_segmentation": 4, "train_colorization": 4}


def imported(path):
    """The names of our own modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            inner = [f"{node.module}.{name}" for name in names]
            names = [name for name in inner if ROOT.joinpath(*name.split(".")).with_suffix(".py").exists()]
            names = names or [node.module]
        yield from (name for name in names if name.split(".")[0] in FLOORS)


def test_imports_run_one_way():
    graph = {}
    for top in FLOORS:
        for path in (ROOT / top).glob("*.py") if (ROOT / top).is_dir() else [ROOT / f"{top}.py"]:
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            graph[name] = set(imported(path))
            for other in graph[name]:
                below = FLOORS[other.split(".")[0]] < FLOORS[top] or other.split(".")[0] == top
                assert below and not other.startswith("evaluate."), f"{name} imports {other}"
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError
    assert len(graph) > 25
