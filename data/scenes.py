"""The embedded data set: street scenes in CamVid's 11 classes and colours, drawn with Pillow and numpy alone.

PLANS lists the things in each scene type, with places in metres; data/street.py draws them, data/light.py takes the
photograph. Both work at SUPER times the final size: the image is then averaged, the mask takes the pixels' centres.

Things that CamVid has no class for: all plants (lawns, fields, hedges, hills) are Tree, buses and lorries are Car,
traffic lights are SignSymbol, the highway's hard shoulder is Road. Water is void (255): no class is similar."""
import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image

from data.light import CENTRE, photograph
from data.masks import Classes, write_classes
from data.street import (ASPHALT, BARK, BLACK, CARS, COBBLES, FAR, GRASS, LORRY, PAVEMENT, ROAD, SLABS, STEEL, TREE,
                         VOID, WALLS, Street, building, car, fence, figure, horizon, mark, tree)

CLASSES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian",
           "Bicyclist")
COLORS = ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
          (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192))
SCENE_TYPES = ("avenue", "old town", "suburb", "highway", "country road", "waterfront")
SPLITS = {"train": 1200, "val": 200, "test": 400}
SIZE = (96, 128)
HILLS, WOOD, SKYLINE = ("hills", 300, 90, 26), ("wood", 130, 6, 10), ("skyline", 250, 12, 30)  # horizon's arguments
SLAB, LAWN = (SLABS, PAVEMENT, .6), (GRASS, TREE, 0)
FIELDS = [(rgb, TREE, 1) for rgb in ((166, 154, 72), (104, 134, 56), (136, 108, 78), (170, 156, 116))]
SIGNS = ["ban", "warning", "advice", "stop"] * 4 + ["red light", "green light"]
TURNS = [0, math.pi, (.05, 1.2), (1.9, 3.1)]  # headings in which a figure is not too thin
TERRACE, PARKED = dict(start=(-6, 2), stop=FAR), dict(start=(6, 14), stop=60, length=5, gap=(1, 5))
ALONG, MIXED = dict(start=0, stop=110, gap=0), [False, False, True]  # MIXED: whether a tree is a conifer
# Things on both sides of the road: (thing, pavements, metres, its arguments, Street.row's arguments). Its distance from
# the road's edge is so many pavement widths plus metres. A value is a number, a range (low, high), or a list to choose.
AVENUE = [(building, 1, 0, ((12, 28), [0, 0, 0, 0, 3]), dict(TERRACE, length=(14, 24), gap=[0, 0, 0, 0, 0, 5])),
          (tree, 0, 1.2, ((5, 10.5), (.7, 1)), dict(gap=(8, 12))),
          (car, 0, -1.1, (CARS,), dict(PARKED, share=.4)),
          (figure, 0, .6, ("lamp", (1.1, 1.3)), dict(gap=24)),
          (fence, 0, .3, (1, STEEL, 0, True), dict(length=6, gap=6, share=[0, 0, .9]))]
OLD_TOWN = [(building, 1, 0, ((5, 12), [(2, 4)] * 9 + [0], 2.9, 1.9), dict(TERRACE, length=(5, 9), gap=[0] * 7 + [5])),
            (figure, 0, .3, ("lantern", (.9, 1.1)), dict(gap=15)),
            (figure, 1, 0, ("shop sign", (.8, 1.1)), dict(stop=32, gap=(4, 16))),
            (fence, 0, .25, (1, BLACK, 0, True), dict(start=(5, 12), stop=13, length=4, share=.4)),
            (tree, 0, .7, ((3.5, 6.5), .7), dict(start=(6, 36), stop=60, gap=30))]
SUBURB = [(building, 1, (3, 7), ((2.8, 6.5), (2.2, 4)), dict(start=(-4, 8), stop=FAR, length=(8, 12), gap=(4, 9))),
          (fence, 1, .3, (1.1, WALLS[2], 0, [False, True]), dict(ALONG, length=4, share=[1, 1, 0])),
          (tree, 1, .9, ((1.2, 1.5), 1.6), dict(start=3, stop=60, gap=.9, share=[0, 0, 1])),  # a hedge
          (tree, 1, (1.5, 6), ((4, 10), 1, MIXED), dict(gap=(8, 24))),
          (car, 0, -.8, (CARS,), dict(PARKED, share=.25)),
          (figure, 0, .4, ("lamp", (.7, .85)), dict(gap=22, share=[0, 1]))]
HIGHWAY = [(fence, 0, .3, (.85, STEEL, .4), dict(ALONG, length=8)),
           (fence, 0, 2.5, ((2.5, 4), (140, 146, 138)), dict(ALONG, length=8, share=[0, 0, 1])),
           (tree, 0, (3, 14), ((5, 12), 1, MIXED), dict(gap=(5, 25))),
           (building, 0, (5, 18), ((8, 30),), dict(start=(20, 60), length=20, gap=60, share=.5)),
           (figure, 0, .5, ("gantry",), dict(start=(14, 54), gap=60))]
COUNTRY = [(fence, 0, 1.5, (1.2, BARK, 0, True), dict(ALONG, length=6, share=[0, 1, 1])),
           (tree, 0, (2.5, 20), ((5, 12), 1, MIXED), dict(start=(8, 30), stop=FAR, gap=(6, 34))),
           (building, 0, (8, 20), ((3, 6), 3.5), dict(start=(20, 60), length=14, gap=90, share=.4)),
           (figure, 0, 2.2, ("telegraph pole",), dict(stop=130, gap=18, share=[0, 1]))]
QUAY = [(fence, 1, -.3, (1.1, STEEL, 0, True), dict(ALONG, length=5)), (tree, 1, -1.5, ((4, 9), .8), dict(gap=(9, 22))),
        (figure, 0, .5, (["lamp", "lantern"], (.8, 1)), dict(gap=18))]
FRONT = [(building, 1, 0, ((6, 22), [0, 0, 0, 3, 3]), dict(TERRACE, length=(9, 18), gap=[0, 0, 0, (2, 7)])),
         (car, 0, -1, (CARS,), dict(PARKED, share=.3))]
# The arguments of lay_out for each scene type, in the order of SCENE_TYPES.
PLANS = (
    dict(rows=(AVENUE, AVENUE), half=(6, 8.5), pavement=(4.5, 7), eye=(.1, .8), lanes=2, cars=45, people=8,
         lines=((.5, .08, 4, 4), (.02, .07, 8, 0)), crossing=.4),
    dict(rows=(OLD_TOWN, OLD_TOWN), half=(2.2, 3.4), pavement=(1, 2.2), eye=(-.6, .6), cars=60, people=8,
         road=[(COBBLES, ROAD, .16), (ASPHALT, ROAD, 0)]),
    dict(rows=(SUBURB, SUBURB), half=(3, 4.8), pavement=(1.4, 2.4), beyond=(LAWN, LAWN), eye=(-.3, .6),
         lines=((0, .07, 3, [0, 3]),), ends=[HILLS, WOOD, SKYLINE]),
    dict(rows=(HIGHWAY, HIGHWAY), half=(12, 15), pavement=1, walk=LAWN, beyond=(LAWN, LAWN), eye=(.25, .75), lanes=3,
         cars=50, people=0, lines=((.93, .12, 8, 0), (.08, .12, 8, 0), (.36, .09, 6, 6), (.65, .09, 6, 6)), crossing=0,
         middle=[(fence, .85, STEEL, .4), (figure, "lamp", 1.4)], ends=[HILLS, WOOD, SKYLINE]),
    dict(rows=(COUNTRY, COUNTRY), half=(2.6, 4.2), pavement=2, walk=LAWN, beyond=(FIELDS, FIELDS), eye=(-.2, .6),
         cars=40, people=40, lines=((0, .07, 4, [0, 4]), (.94, .07, 8, [0, 30])), crossing=0,
         ends=[HILLS, HILLS, WOOD]),
    dict(rows=(QUAY, FRONT), half=(3.5, 6.5), pavement=(2.2, 4.2), beyond=(((60, 92, 112), VOID, 0), SLAB),
         eye=(-.6, .6), cars=30, people=8, lines=((0, .07, 3.5, 3.5),), crossing=.2, ends=[HILLS, SKYLINE, WOOD],
         vanish=(.42, .73)))


def lay_out(s, rows, half, pavement, eye, road=(ASPHALT, ROAD, 0), walk=SLAB, beyond=(SLAB, SLAB), lines=(), lanes=1,
            cars=50, people=14, crossing=.1, middle=(), ends=None, vanish=(.27, .73)):
    """Fill a Street. rows, beyond: on the left and on the right; beyond: the ground beyond the pavements.

    half: half of the road's width; eye: the camera's place, in halves; lines: (place in halves, width, length, gap);
    lanes: in each direction; cars, people: metres between them; middle: things in the middle; ends: the horizon."""
    half, pavement = s.some(half), s.some(pavement)
    front, s.eye_x, s.vanish_x = half + pavement, s.some(eye) * half, s.some(vanish)
    s.bands = [(-front, *s.some(beyond[0])), (-half, *walk), (half, *s.some(road)), (front, *walk),
               (FAR, *s.some(beyond[1]))]
    for side, things in zip((-1, 1), rows):
        for thing, pavements, metres, args, options in things:
            off = metres if isinstance(metres, tuple) else (metres, metres)
            s.row(thing, tuple(side * (half + pavements * pavement + metre) for metre in off), *args, **options)
    for share, width, length, gap in lines:
        gap = s.some(gap)
        for x in sorted({-share * half, share * half}):
            s.row(mark, x, width, start=-s.phase, stop=FAR, length=length, gap=gap, order=1e8)
    for thing, *args in middle:
        s.row(thing, .05, *args, **(dict(ALONG, length=8) if thing is fence else dict(gap=30, share=[0, 1])))
    for lane in range(-lanes, lanes):
        x = half / lanes * (lane + .5)
        s.row(car, (x - .3, x + .3), CARS * 2 + [LORRY], start=(8, 8 + cars), stop=80, length=5, gap=(4, 2 * cars))
    for side in (-1, 1) if people else ():
        walks = [(side * half, side * front)] * 6 + [(0.0, side * half)]
        s.row(figure, walks, "person", (.85, 1.1), TURNS, start=(5, people + 5), stop=55, gap=(1, people * 1.6))
        s.row(figure, (.3 * side * half, .95 * side * half), "bicycle", 1, TURNS[2:], start=(5, 34), stop=36, gap=20)
        s.row(figure, side * (half + .5), SIGNS, (.85, 1.15), start=(6, 28), stop=55, gap=(6, 20))
    if s.rng.random() < crossing:
        z = s.some((7, 20))
        for x in np.arange(.3 - half, half - .3, 1.1).tolist():
            s.add(1e8, mark, x, z, z + 3.2, .55)
    if ends:
        s.add(2e9, horizon, *s.some(ends))


def scene_type(index):
    """The type 0..5 of the scene of this index; or an array of them."""
    return index % len(SCENE_TYPES)


def draw_scene(seed, split, index, size=SIZE):
    """Draw sample `index` of a split. The scene depends only on (seed, split, index), not on the size.

    -> image (H, W, 3) uint8, mask (H, W) uint8 of class ids (255: void), scene type 0..5"""
    s = Street(np.random.default_rng([seed, list(SPLITS).index(split), index]), size)
    kind = scene_type(index)
    lay_out(s, **PLANS[kind])
    numbers = s.draw()
    mask = np.uint8([row[3] for row in s.rows])[numbers[CENTRE, CENTRE]]
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
