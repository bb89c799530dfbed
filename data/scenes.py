"""The embedded data set: street scenes in CamVid's 11 classes and colours, drawn with Pillow and numpy alone.

Each of the six scene types is a function that says what stands where, in metres; data/street.py draws the things and
data/light.py takes the photograph. Both work at SUPER times the final size: the image is then averaged, the mask takes
the sample at the pixel's centre.

What CamVid has no name for: whatever grows (lawns, fields, hedges, hills) is Tree, buses and lorries are Car, traffic
lights are SignSymbol, the highway's hard shoulder is Road. Water is void (255), as no class comes near it.
"""
import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image

from data.light import photograph
from data.masks import Classes, write_classes
from data.street import (ASPHALT, BLACK, CARS, COBBLES, FAR, GRASS, LORRY, PAVEMENT, ROAD, SLABS, STEEL, SUPER, TREE,
                         VOID, WALLS, Street, building, car, fence, figure, horizon, mark, tree)

CLASSES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian",
           "Bicyclist")
COLORS = ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
          (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192))
SCENE_TYPES = ("avenue", "old town", "suburb", "highway", "country road", "waterfront")
SPLITS = {"train": 1200, "val": 200, "test": 400}
SIZE = (96, 128)
HILLS, WOOD, SKYLINE = ("hills", 300, 90, 26), ("wood", 130, 6, 10), ("skyline", 250, 12, 30)
MIXED = [False, False, True]  # whether a tree is a conifer
INWARD = {-1: 0, 1: math.pi}  # the heading of what reaches over the road from a side of it


def marks(s, places, width=.08, length=8.0, gap=0.0, share=1.0):
    """Lines along the road, dashed where there is a gap."""
    phase = s.some((0.0, length + gap))
    for x in places:
        s.row(mark, x, width, start=-phase, stop=FAR, length=length, gap=gap, share=share, order=1e8)


def traffic(s, half, lanes, gap, models=CARS * 2 + [LORRY]):
    """Cars on a road of this half width, with so many lanes each way; who drives on the left comes towards us."""
    for lane in range(-lanes, lanes):
        x = half / lanes * (lane + .5)
        s.row(car, (x - .3, x + .3), models, start=(8, 8 + gap), stop=80, length=5, gap=(4, 2 * gap))


def street_life(s, half, pavement, people, bikes, lights=0.0):
    """What any street has: people and bicyclists (metres between them), signs, traffic lights and crossings."""
    signs = ["ban", "warning", "advice", "stop"]
    for side in (-1, 1):
        walk = [(side * half, side * (half + pavement))] * 6 + [(0.0, side * half)]
        s.row(figure, walk, "person", (.85, 1.1), [0, math.pi, (0, 1), (2.1, 3.1)], start=(5, people), stop=34,
              gap=(1, people * 1.6))
        s.row(figure, (.3 * side * half, .95 * side * half), "bicycle", 1, [(.05, 1.3), (1.8, 3.1)], start=(5, bikes),
              stop=20, gap=bikes)
        s.row(figure, side * (half + .5), ["red light", "green light"] if s.rng.random() < lights else signs, (.85, 1.15),
              start=(6, 28), stop=32, gap=(6, 20))
    if s.rng.random() < lights:
        z = s.some((7, 20))
        for x in np.arange(.3 - half, half - .3, 1.1).tolist():
            s.add(1e8, mark, x, z, z + 3.2, .55)


def avenue(s):
    """A wide road, trees in rows along broad pavements, tall buildings behind them."""
    half, pavement, green = s.some((6, 8.5)), s.some((4.5, 7)), s.some([0, 1.2])
    lawn = [(-1.2, ASPHALT, ROAD, 0), (1.2, GRASS, TREE, 0)] if green else []
    s.bands = [(-half, SLABS, PAVEMENT, .6), *lawn, (half, ASPHALT, ROAD, 0), (FAR, SLABS, PAVEMENT, .6)]
    marks(s, (-half / 2, half / 2), gap=4, length=4)
    if green:
        s.row(tree, 0, (4, 8), gap=(9, 13))
    else:
        marks(s, (-.15, .15))
    s.eye_x = s.some((.1, .8)) * half
    step = s.some((8, 12))
    for side in (-1, 1):
        s.row(building, side * (half + pavement), (12, 28), [0, 0, 0, 0, 3], start=(-6, 2), stop=FAR, length=(14, 24),
              gap=[0, 0, 0, 0, 0, 5])
        s.row(tree, side * (half + 1.2), (5, 10.5), (.7, 1), gap=step)
        s.row(car, side * (half - 1.1), CARS, start=(6, 14), stop=60, length=5, gap=(1, 5), share=.4)
        s.row(figure, side * (half + .6), "lamp", (1.1, 1.3), INWARD[side], gap=24)
        s.row(fence, side * (half + .3), 1.0, STEEL, 0, True, length=6.0, gap=6.0, share=s.some([0, 0, .9]))
    traffic(s, half, 2, 45)
    street_life(s, half, pavement, 8, 30, .4)


def old_town(s):
    """A narrow street of cobbles between close, tall, coloured fronts with steep roofs, lanterns and shop signs."""
    half, pavement = s.some((2.2, 3.4)), s.some((1.0, 2.2))
    front, road = half + pavement, s.some([(COBBLES, ROAD, .16), (ASPHALT, ROAD, 0)])
    s.bands = [(-half, SLABS, PAVEMENT, .5), (half, *road), (FAR, SLABS, PAVEMENT, .5)]
    s.eye_x = s.some((-.6, .6)) * half
    for side in (-1, 1):
        s.row(building, side * front, (5, 12), [(2, 4)] * 9 + [0], 2.9, 1.9, start=(-6, 2), stop=FAR, length=(5, 9),
              gap=[0] * 7 + [(2, 7)])
        s.row(figure, side * (half + .3), "lantern", (.9, 1.1), gap=15)
        s.row(figure, side * front, "shop sign", (.8, 1.1), INWARD[side], stop=32, gap=(4, 16))
        s.row(fence, side * (half + .25), 1.0, BLACK, 0, True, start=(5, 12), stop=13, length=4, share=.4)
        s.row(tree, side * (half + .7), (3.5, 6.5), .7, start=(6, 36), stop=60, gap=30)
    traffic(s, half, 1, 60, CARS)
    street_life(s, half, pavement, 8, 30, .1)


def suburb(s):
    """Detached houses with pitched roofs, in gardens behind fences and hedges."""
    half, pavement = s.some((3, 4.8)), s.some((1.4, 2.4))
    front = half + pavement
    s.bands = [(-front, GRASS, TREE, 0), (-half, SLABS, PAVEMENT, .6), (half, ASPHALT, ROAD, 0),
               (front, SLABS, PAVEMENT, .6), (FAR, GRASS, TREE, 0)]
    marks(s, (0,), .07, 3, 3, s.some([0, 1]))
    s.eye_x = s.some((-.3, .6)) * half
    for side in (-1, 1):
        garden = s.some((3, 7))
        if s.some([True, False]):
            s.row(fence, side * (front + .3), 1.1, s.vary(WALLS, .5), 0, s.some([False, True]), start=0, length=7, gap=1)
        else:  # a hedge
            s.row(tree, side * (front + .4), (1.2, 1.5), 1.6, start=3, stop=60, gap=.9)
        s.row(building, side * (front + garden), (2.8, 6.5), (2.2, 4), start=(-4, 8), stop=FAR, length=(8, 12),
              gap=(4, 9))
        s.row(tree, (side * (front + 1.5), side * (front + garden)), (4, 10), 1, MIXED, gap=(8, 24))
        s.row(car, side * (half - .8), CARS, start=(6, 14), stop=60, length=5, gap=(1, 5), share=.25)
    side = s.some([-1, 1])
    s.row(figure, side * (half + .4), "lamp", (.7, .85), INWARD[side], gap=22)
    traffic(s, half, 1, 50)
    street_life(s, half, pavement, 14, 34, .1)
    s.add(1e9, horizon, *s.some([HILLS, WOOD, SKYLINE]))


def highway(s):
    """Many lanes each way, crash barriers along their edges and between them, signs on gantries."""
    lanes = s.some([2, 3, 3])
    edge = 1.5 + 3.7 * lanes
    half, steel = edge + 2, s.vary((168, 172, 176), .3)
    s.bands = [(-half, GRASS, TREE, 0), (half, ASPHALT, ROAD, 0), (FAR, GRASS, TREE, 0)]
    marks(s, (-edge, -1.3, 1.3, edge), .12)
    marks(s, [side * (1.5 + 3.7 * i) for side in (-1, 1) for i in range(1, lanes)], .09, 6, 6)
    s.eye_x = s.some((.25, .75)) * half
    for x in (-half - .3, 0, half + .3):
        s.row(fence, x, .85, steel, .4, start=0, stop=110, length=8, gap=0)
    for side in (-1, 1):
        s.row(fence, side * (half + 2.5), s.some((2.5, 5)), s.vary((140, 146, 138), .4), 0, start=0, stop=110,
              length=8, gap=0, share=s.some([0, 0, 1]))
        s.row(tree, (side * (half + 3), side * (half + 14)), (5, 12), 1, MIXED, gap=s.some((7, 25)))
        s.row(building, (side * (half + 5), side * (half + 18)), (8, 30), start=(20, 60), length=20, gap=60, share=.5)
        s.row(figure, side * half / 2, "gantry", half / 24, start=(14, 54), gap=60)
    s.row(figure, .1, "lamp", (1.3, 1.6), [0, math.pi], gap=30, share=s.some([0, 1]))
    traffic(s, edge, lanes, 50, CARS + [LORRY])
    s.add(1e9, horizon, *s.some([HILLS, WOOD, SKYLINE]))


def country_road(s):
    """Fields and wooded hills, a narrow road with grass at its edges, a row of telegraph poles, few trees and farms."""
    half, fields = s.some((2.6, 4.2)), [(166, 154, 72), (104, 134, 56), (136, 108, 78), (170, 156, 116)]
    s.bands = [(-half - 2, s.some(fields), TREE, 1), (-half, GRASS, TREE, 0), (half, ASPHALT, ROAD, 0),
               (half + 2, GRASS, TREE, 0), (FAR, s.some(fields), TREE, 1)]
    marks(s, (0,), .07, 4.5, s.some([0, 4.5]))
    marks(s, (.2 - half, half - .2), .07, share=s.some([0, 1]))
    s.eye_x = s.some((-.2, .6)) * half
    for side in (-1, 1):
        s.row(fence, side * (half + s.some((1, 3))), 1.2, s.vary((150, 130, 104), .4), 0, True, start=0, stop=110,
              length=6, gap=0, share=s.some([0, 1, 1]))
        s.row(tree, (side * (half + 2.5), side * (half + 20)), (5, 12), 1, MIXED, start=(8, 30), stop=FAR,
              gap=s.some((15, 45)))
        s.row(building, (side * (half + 8), side * (half + 20)), (3, 6), 3.5, start=(20, 60), length=14, gap=90,
              share=.4)
    s.row(figure, s.some([-1, 1]) * (half + 2.2), "telegraph pole", stop=130, gap=18)
    traffic(s, half, 1, 40)
    street_life(s, half, 2, 40, 34)
    s.add(1e9, horizon, *s.some([HILLS, HILLS, WOOD]))


def waterfront(s):
    """Buildings on one side, on the other a promenade with railings, water, and the far shore."""
    half, promenade = s.some((3.5, 6.5)), s.some((2.5, 4.5))
    quay, front = -half - promenade, half + s.some((2, 3.5))
    s.bands = [(quay - 120, GRASS, TREE, 0), (quay, (60, 92, 112), VOID, 0), (-half, SLABS, PAVEMENT, .8),
               (half, ASPHALT, ROAD, 0), (FAR, SLABS, PAVEMENT, .6)]
    marks(s, (0,), .07, 3.5, 3.5)
    s.eye_x = s.some((-.6, .6)) * half
    s.vanish_x, s.bend = s.some((.42, .73)), abs(s.bend)  # lest the water lie outside the view
    s.row(building, front, (6, 22), [0, 0, 0, 3, 3], start=(-6, 2), stop=FAR, length=(9, 18), gap=[0, 0, 0, (2, 7)])
    s.row(fence, quay + .3, 1.1, s.vary((120, 124, 130), .6), 0, True, start=0, stop=110, length=5, gap=0)
    s.row(tree, quay + 1.5, (4, 9), .8, gap=s.some((9, 22)))
    s.row(car, half - 1, CARS, start=(6, 14), stop=60, length=5, gap=(1, 5), share=.3)
    s.row(figure, -half - .5, s.some(["lamp", "lantern"]), (.8, 1), gap=18)
    traffic(s, half, 1, 30)
    street_life(s, half, promenade, 8, 34, .2)
    s.add(1e9, horizon, *s.some([HILLS, SKYLINE, WOOD]))


LAYOUTS = (avenue, old_town, suburb, highway, country_road, waterfront)


def draw_scene(seed, split, index, size=SIZE):
    """Draw sample `index` of a split; it follows from (seed, split, index) alone, the size only samples it.

    -> image (H, W, 3) uint8, mask (H, W) uint8 of class ids (255: void), scene type 0..5
    """
    s = Street(np.random.default_rng([seed, list(SPLITS).index(split), index]), size)
    kind = index % len(SCENE_TYPES)
    LAYOUTS[kind](s)
    numbers = s.draw()
    mask = np.uint8([row[3] for row in s.rows])[numbers[SUPER // 2::SUPER, SUPER // 2::SUPER]]
    step = -1 if s.mirrored else 1
    return np.ascontiguousarray(photograph(s, numbers)[:, ::step]), np.ascontiguousarray(mask[:, ::step]), kind


def write_scenes(folder, task, splits=SPLITS):
    """Write the scenes of seed 0 as files: {train,val,test}/{images,masks} and classes.csv, or by class."""
    for split, i in ((split, i) for split in splits for i in range(SPLITS[split])):
        image, mask, kind = draw_scene(0, split, i)
        files = {SCENE_TYPES[kind]: image} if task == "classification" else {"images": image, "masks": mask}
        for place, values in files.items():
            path = Path(folder, split, place, f"{split}_{i:04d}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    if task != "classification":
        colors = dict(enumerate(COLORS)) | {VOID: (0, 0, 0)}
        write_classes(Path(folder, "classes.csv"), Classes(dict(enumerate(CLASSES)), colors, {VOID}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m data.scenes", description=write_scenes.__doc__)
    parser.add_argument("folder")
    parser.add_argument("--task", choices=("segmentation", "classification"), default="segmentation")
    args = parser.parse_args()
    try:
        write_scenes(args.folder, args.task)
    except OSError as error:
        parser.error(str(error))
