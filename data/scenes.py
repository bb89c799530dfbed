"""The embedded data set: street scenes in CamVid's 11 classes and colours, drawn with Pillow and numpy alone.

Each of the six scene types is a function that says what stands where; data/street.py draws the things and data/light.py
takes the photograph. Both are drawn at SUPER times the final size: the image is then averaged, the mask takes the
sample at the pixel's centre.

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
from data.street import (ASPECT, ASPHALT, BLACK, CLOTHES, COBBLES, FAR, GRASS, LORRY, PAVEMENT, ROAD, SLABS, STEEL,
                         SUPER, TREE, VOID, Street, bicyclist, board, building, car, conifer, fence, gantry, horizon,
                         lamp, pedestrian, sign, telegraph_pole, traffic_light, tree)

CLASSES = ("Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian",
           "Bicyclist")
COLORS = ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
          (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192))
SCENE_TYPES = ("avenue", "old town", "suburb", "highway", "country road", "waterfront")
SPLITS = {"train": 1200, "val": 200, "test": 400}
SIZE = (96, 128)


def fence_row(s, x, height, rgb, kind, step=8.0, gap=0.0):
    for z in np.arange(0, 110, step).tolist():
        s.add(z + step, fence, x, z, z + step - gap, height, rgb, kind)


def terrace(s, side, x, heights, lengths, gaps, roofs, floor=3.2, bay=2.8):
    """Buildings along one side of the street; gaps and roofs: the shares with a gap behind, a pitched roof."""
    z = s.between(-6, 2)
    while z < FAR:
        end, roof = z + s.between(*lengths), s.between(2, 4) if s.chance(roofs) else 0
        s.add(end, building, side, x, z, end, s.between(*heights), roof, s.chance(.5), floor, bay)
        z = end + (s.between(2, 7) if s.chance(gaps) else 0)


def traffic(s, half, lanes, number, lorries=.1):
    """Cars on a road of this half width, with so many lanes each way; who drives on the left comes towards us."""
    for z in (8 + 70 * s.rng.random(number) ** 1.5).tolist():
        side = s.pick((-1, 1))
        x = side * half * (s.rng.integers(lanes) + s.between(.4, .6)) / lanes
        s.add(z + 4, car, x, z, side < 0, LORRY if s.chance(lorries) else None)


def street_life(s, half, pavement, people, bikes, lights):
    """What any street has: people on the pavement and off it, bicyclists, signs, traffic lights and crossings."""
    for z in (5 + 28 * s.rng.random(s.rng.poisson(people)) ** 1.5).tolist():
        x = s.pick((-1, 1)) * (half + s.between(.2, .8) * pavement)
        s.add(z, pedestrian, x if s.chance(.85) else s.between(-half, half), z)
    for z in (5 + 14 * s.rng.random(s.rng.poisson(bikes)) ** 1.3).tolist():
        s.add(z, bicyclist, s.pick((-1, 1)) * half * s.between(.35, .95), z)
    for z in (6 + 26 * s.rng.random(s.rng.integers(1, 4)) ** 1.3).tolist():
        s.add(z, traffic_light if s.chance(lights) else sign, s.pick((-1, 1)) * (half + .5), z)
    if s.chance(lights):
        s.crossing = s.between(7, 20)


def avenue(s):
    """A wide road, trees in rows along broad pavements, tall buildings behind them."""
    half, pavement, step = s.between(6, 8.5), s.between(4.5, 7), s.between(8, 12)
    green = [(-1.2, ASPHALT, ROAD, 0), (1.2, GRASS, TREE, 0)] if s.chance(.4) else []
    s.bands = [(-half, SLABS, PAVEMENT, .6), *green, (half, ASPHALT, ROAD, 0), (FAR, SLABS, PAVEMENT, .6)]
    s.marks = [(-half / 2, .08, 8), (half / 2, .08, 8), (-.15, .07, 0), (.15, .07, 0)]
    s.eye_x = s.between(.1, .8) * half
    for side in (-1, 1):
        terrace(s, side, side * (half + pavement), (12, 28), (14, 24), gaps=.15, roofs=.2)
        s.row(4, 100, step, tree, side * (half + 1.2), (5, 10.5), (.7, 1))
        s.row(6, 60, 8, car, side * (half - 1.1), side < 0, share=.4, reach=4)
        s.row(5, 70, 24, lamp, side * (half + .6), (7.5, 9.5), -side * 1.8)
        if s.chance(.3):
            fence_row(s, side * (half + .3), 1.0, s.vary(STEEL, .5), "rails", 12.0, 6.0)
    if green:
        s.row(9, 90, 11, tree, 0, (4, 8))
    traffic(s, half, 2, s.rng.integers(2, 7))
    street_life(s, half, pavement, 4, .9, .4)


def old_town(s):
    """A narrow street of cobbles between close, tall, coloured fronts with steep roofs, lanterns and shop signs."""
    half, pavement = s.between(2.2, 3.4), s.between(1.0, 2.2)
    front = half + pavement
    road = s.pick(((COBBLES, ROAD, .16), (ASPHALT, ROAD, 0)))
    s.bands = [(-half, SLABS, PAVEMENT, .5), (half, *road), (FAR, SLABS, PAVEMENT, .5)]
    s.eye_x = s.between(-.6, .6) * half
    for side in (-1, 1):
        terrace(s, side, side * front, (5, 12), (5, 9), gaps=.12, roofs=.9, floor=2.9, bay=1.9)
        s.row(5, 70, 15, lamp, side * (half + .3), (3.2, 4), 0)
        for z in np.arange(4, 30, 5).tolist():
            if s.chance(.4):
                s.add(z, board, *sorted((side * front, side * (front - 1.2))), 2.7, 3.6, z, s.vary(s.pick(CLOTHES)))
        if s.chance(.4):
            z = s.between(5, 12)
            s.add(z + 4, fence, side * (half + .25), z, z + 4, 1.0, BLACK, "rails")
        s.row(6, 60, 30, tree, side * (half + .7), (3.5, 6.5), .7)
    traffic(s, half, 1, s.rng.integers(0, 3), 0)
    street_life(s, half, pavement, 4, .9, .1)


def suburb(s):
    """Detached houses with pitched roofs, in gardens behind fences and hedges."""
    half, pavement = s.between(3, 4.8), s.between(1.4, 2.4)
    front = half + pavement
    s.bands = [(-front, GRASS, TREE, 0), (-half, SLABS, PAVEMENT, .6), (half, ASPHALT, ROAD, 0),
               (front, SLABS, PAVEMENT, .6), (FAR, GRASS, TREE, 0)]
    s.marks = [(0, .06, 6)] if s.chance(.5) else []
    s.eye_x = s.between(-.3, .6) * half
    for side in (-1, 1):
        garden, kind = s.between(3, 7), s.pick(("boards", "boards", "rails", "hedge"))
        fence_row(s, side * (front + .3), 1.1, s.vary((190, 175, 155), .5), kind, gap=.8)
        z = s.between(-4, 8)
        while z < FAR:
            end = z + s.between(8, 12)
            s.add(end, building, side, side * (front + garden), z, end, s.between(2.8, 6.5), s.between(2.2, 4))
            z = end + s.between(4, 9)
            s.add(z - 2, s.pick((tree, tree, conifer)), side * (front + s.between(1.5, garden)), z - 2,
                  s.between(4, 10))
        s.row(6, 60, 8, car, side * (half - .8), side < 0, share=.25, reach=4)
    side = s.pick((-1, 1))
    s.row(5, 70, 22, lamp, side * (half + .4), (5, 6), -side)
    traffic(s, half, 1, s.rng.integers(0, 3))
    street_life(s, half, pavement, 2.5, .8, .1)
    s.add(1e9, horizon, s.pick(("hills", "wood", "skyline")), .09)


def highway(s):
    """Many lanes each way, crash barriers along their edges and between them, signs on gantries."""
    lanes = s.pick((2, 3, 3))
    edge = 1.5 + 3.7 * lanes
    half = edge + 2
    s.bands = [(-half, GRASS, TREE, 0), (half, ASPHALT, ROAD, 0), (FAR, GRASS, TREE, 0)]
    s.marks = [(side * x, .12, 0) for side in (-1, 1) for x in (1.3, edge)]
    s.marks += [(side * (1.5 + 3.7 * i), .09, 12) for side in (-1, 1) for i in range(1, lanes)]
    s.eye_x = s.between(.25, .75) * half
    steel = s.vary((168, 172, 176), .3)
    for x in (-half - .3, 0, half + .3):
        fence_row(s, x, .85, steel, "guard")
    for side in (-1, 1):
        if s.chance(.4):
            fence_row(s, side * (half + 2.5), s.between(2.5, 5), s.vary((140, 146, 138), .4), "boards")
        for z in np.arange(10, 110, s.between(7, 25)).tolist():
            s.add(z, s.pick((tree, conifer, tree)), side * (half + s.between(3, 14)), z, s.between(5, 12))
        if s.chance(.5):
            z = s.between(20, 60)
            s.add(z + 20, building, side, side * (half + s.between(5, 18)), z, z + 20, s.between(8, 30))
    s.row(14, 110, 40, gantry, s.pick((-half - 1, .2)), half + 1)
    if s.chance(.6):
        s.row(5, 70, 30, lamp, .1, (9, 11), -2.5)
    traffic(s, edge, lanes, s.rng.integers(5, 12), .25)
    s.add(1e9, horizon, s.pick(("hills", "wood", "skyline")), .12)


def country_road(s):
    """Fields and wooded hills, a narrow road with grass at its edges, a row of telegraph poles, few trees and farms."""
    half = s.between(2.6, 4.2)
    fields = (166, 154, 62), (104, 138, 48), (136, 106, 72), (170, 156, 112)
    s.bands = [(-half - 2, s.pick(fields), TREE, 1), (-half, GRASS, TREE, 0), (half, ASPHALT, ROAD, 0),
               (half + 2, GRASS, TREE, 0), (FAR, s.pick(fields), TREE, 1)]
    s.marks = [(0, .07, s.pick((0, 9)))] + ([(-half + .2, .07, 0), (half - .2, .07, 0)] if s.chance(.5) else [])
    s.eye_x = s.between(-.2, .6) * half
    for side in (-1, 1):
        if s.chance(.6):
            fence_row(s, side * (half + s.between(1, 3)), 1.2, s.vary((150, 130, 104), .4), "rails", 6.0)
        for z in np.arange(s.between(8, 30), FAR, s.between(15, 45)).tolist():
            s.add(z, s.pick((tree, tree, conifer)), side * (half + s.between(2.5, 20)), z, s.between(5, 12))
        if s.chance(.4):
            z = s.between(20, 60)
            s.add(z + 14, building, side, side * (half + s.between(8, 20)), z, z + 14, s.between(3, 6), 3.5)
    s.row(6, 130, 18, telegraph_pole, s.pick((-1, 1)) * (half + 2.2))
    traffic(s, half, 1, s.rng.integers(0, 4), .15)
    street_life(s, half, 2, .6, .7, 0)
    s.add(1e9, horizon, s.pick(("hills", "hills", "wood")), .15)


def waterfront(s):
    """Buildings on one side, on the other a promenade with railings, water, and the far shore."""
    half, promenade = s.between(3.5, 6.5), s.between(2.5, 4.5)
    quay, front = -half - promenade, half + s.between(2, 3.5)
    water = (60, 92, 112)
    s.bands = [(quay - 120, GRASS, TREE, 0), (quay, water, VOID, 0), (-half, SLABS, PAVEMENT, .8),
               (half, ASPHALT, ROAD, 0), (FAR, SLABS, PAVEMENT, .6)]
    s.marks = [(0, .07, 7)]
    s.eye_x = s.between(-.6, .6) * half
    s.look_at(s.between(.42, .73), abs(s.bend))  # lest the water lie outside the view
    terrace(s, 1, front, (6, 22), (9, 18), gaps=.25, roofs=.4)
    fence_row(s, quay + .3, 1.1, s.vary((120, 124, 130), .6), "rails", 5.0)
    s.row(5, 90, s.between(9, 22), tree, quay + 1.5, (4, 9), .8)
    s.row(6, 60, 8, car, half - 1, False, share=.3, reach=4)
    s.row(5, 70, 18, lamp, -half - .5, (5, 6), s.pick((0, 1.2)))
    traffic(s, half, 1, s.rng.integers(1, 5))
    street_life(s, half, promenade, 4, .8, .2)
    s.add(1e9, horizon, s.pick(("hills", "skyline", "wood")), .08)


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
