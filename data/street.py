"""What a street is made of: a pinhole camera over flat ground, and every thing that stands there, as tables of shapes.

A `Street` is a small world in metres: x to the right, y up, z ahead, the camera at z = 0; its road bends to one side.
Everything is made of flat surfaces, drawn from far to near. Each has a row in a table (colour, class, material, place),
and what is drawn is that row's number. The mask follows from the numbers by one look-up, the image by data/light.py;
so the two agree to the pixel. data/scenes.py puts the things in their places.
"""
import math
from collections import namedtuple
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
VOID = 255
AIR, GROUND, MATT, LEAF, FACADE, SHOP, GLASS, GLOW = range(8)  # materials
SUPER = 3  # odd, so that one sample of each 3 x 3 block lies exactly at the pixel's centre
ASPECT = 4 / 3  # every scene is composed for this width over height, and stretched where the size differs
NEAR, FAR = 1.0, 150.0  # metres
# Colours of the sky overhead and at the horizon (the haze has that, too); what the light leaves of red, green and blue;
# how much brighter the side towards the sun is; clouds; metres until the haze has taken 63% of a colour; lamps lit?
Weather = namedtuple("Weather", "zenith horizon light sun clouds visibility lamps")
WEATHERS = (
    Weather((60, 122, 216), (196, 218, 240), (1.04, 1.0, .94), .30, .5, 700, False),  # noon
    Weather((84, 128, 200), (252, 212, 160), (1.14, .94, .72), .42, .5, 350, False),  # low sun
    Weather((176, 182, 190), (222, 224, 226), (.84, .86, .88), .05, .9, 300, False),  # overcast
    Weather((58, 70, 130), (238, 156, 116), (.56, .50, .58), .12, .6, 260, True),  # dusk
    Weather((14, 20, 46), (52, 54, 74), (.17, .18, .25), .0, .4, 250, True),  # night
    Weather((196, 200, 204), (212, 215, 218), (.82, .84, .86), .0, .0, 60, False),  # fog
    Weather((132, 140, 150), (178, 184, 190), (.60, .64, .70), .0, .9, 130, True),  # rain
)
RAIN = WEATHERS[-1]
ASPHALT, COBBLES, SLABS, GRASS, STEEL = (92, 92, 96), (124, 110, 98), (158, 150, 142), (86, 128, 52), (150, 154, 158)
BLACK, WHITE, PANE, LAMPLIGHT, BARK = (24, 24, 27), (238, 238, 234), (44, 52, 64), (255, 206, 128), (82, 66, 52)
RED, BLUE, GREEN, AMBER = (200, 22, 30), (24, 84, 190), (40, 210, 110), (250, 180, 50)
WALLS = ((198, 178, 146), (168, 96, 70), (218, 208, 190), (150, 146, 140), (214, 168, 96), (184, 124, 100),
         (146, 84, 64), (176, 184, 186), (222, 192, 156), (122, 112, 110))
ROOFS = ((158, 74, 52), (92, 82, 80), (130, 62, 48), (80, 86, 98), (164, 92, 62))
PAINTS = ((190, 26, 30), (26, 60, 148), (228, 228, 228), (36, 38, 42), (126, 130, 136), (178, 180, 184), (20, 92, 70),
          (204, 170, 52), (98, 34, 40), (84, 128, 184))
CLOTHES = PAINTS + ((206, 106, 44), (122, 76, 146), (56, 68, 94), (70, 58, 48))
LEAVES = ((62, 108, 36), (84, 124, 42), (44, 88, 44), (108, 124, 40), (158, 104, 36), (72, 102, 54))
SKINS = ((224, 180, 150), (190, 140, 106), (120, 82, 60))


class Street:
    """A table of surfaces, and a canvas that says for each sample which of them is seen there."""

    def __init__(self, rng, size):
        self.rng = rng
        self.height, self.width = size[0] * SUPER, size[1] * SUPER
        self.weather = self.pick(WEATHERS)
        self.sun, self.mirrored = self.pick((-1, 1)), self.chance(.5)  # the sun stands on the left or on the right
        self.top, self.focal = rng.uniform(.32, .64) * self.height, rng.uniform(.68, 1.15)
        # From units of the picture's height to pixels: column = left + across * tangent, row = top + down * tangent.
        self.across, self.down = self.focal * self.width / ASPECT, self.focal * self.height
        self.look_at(rng.uniform(.27, .73), rng.uniform(-.0035, .0035))
        self.eye_x, self.eye_y, self.phase = 0.0, rng.uniform(1.4, 2.9), rng.uniform(0, 12)  # phase: of the dashes
        # For the layout to fill in: (x, half width, dash length or 0) of each line on the road; the crossing's z.
        self.marks, self.crossing, self.bands, self.things = [], None, [], []
        self.rows, self.lights = [], []  # of surfaces, see surface(); (x, y, z, colour, reach in metres)
        self.shade = Image.new("L", (size[1], size[0]))  # how dark the shadows on the ground are
        self.surface((0, 0, 0), SKY, AIR, (0, 0, 1e4))

    def pick(self, items):
        return items[self.rng.integers(len(items))]

    def chance(self, probability):
        return self.rng.random() < probability

    def between(self, low, high):
        return low + (high - low) * self.rng.random()

    def vary(self, rgb, amount=.12):
        """The colour (r, g, b), a little lighter or darker and tinted."""
        gain, *tint = ((self.rng.random(4) - .5) * amount).tolist()
        return tuple(c * (1 + 2 * gain + t) for c, t in zip(rgb, tint))

    def look_at(self, vanish_x, bend):
        """Where the street's vanishing point is, as a share of the width, and how the street bends before it."""
        self.left, self.bend = vanish_x * self.width, bend

    def add(self, z, draw, *args):
        """Have draw(self, *args) called in its turn: what reaches farthest comes first."""
        self.things.append((z, draw, args))

    def row(self, start, stop, step, draw, x, *args, share=1.0, reach=0.0):
        """Things along the street, about step metres apart, on a share of the places; (low, high): anew for each."""
        for z in np.arange(start + self.between(0, step), stop, step).tolist():
            z += self.between(-.15, .15) * step
            if self.chance(share):
                self.add(z + reach, draw, x, z, *(self.between(*a) if isinstance(a, tuple) else a for a in args))

    def surface(self, rgb, label, material, origin, cell=(0, 0), side=False):
        """A new row -> its number. cell: (width, height) of what repeats on it, or of a crown; side: x is constant."""
        self.rows.append((*rgb, label, material, *origin, *cell, side))
        return len(self.rows) - 1

    def project(self, points):
        """[(x, y, z)] in metres -> [(column, row)] on the canvas."""
        flat = []
        for x, y, z in points:
            z = z if z > NEAR else NEAR
            flat.append((self.left + self.across * ((x - self.eye_x) / z + self.bend * z),
                         self.top + self.down * (self.eye_y - y) / z))
        return flat

    def polygon(self, points, rgb, label, material=MATT, shade=1.0, cell=(0, 0), side=False, thickness=None):
        """Fill (x, y, z) points; with a thickness in metres draw a line instead, at least one final pixel wide."""
        flat = self.project(points)
        if max(flat)[0] > 0 and min(flat)[0] < self.width:
            x, y, z = points[0]
            z = z if side or cell[0] else max(NEAR, (z + points[len(points) // 2][2]) / 2)
            number = self.surface([c * shade for c in rgb], label, material, (x, y, z), cell, side)
            if thickness is None:
                self.brush.polygon(flat, fill=number)
            else:
                self.brush.line(flat, fill=number, width=max(SUPER, round(thickness * self.down / max(NEAR, z))))

    def line(self, points, thickness, rgb, label, shade=1.0):
        self.polygon(points, rgb, label, MATT, shade, thickness=thickness)

    def plate(self, x0, x1, y0, y1, z, *look):
        """A rectangle that faces the camera."""
        self.polygon([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], *look)

    def stamp(self, x, y, z, radius_x, radius_y, rgb, cone=False):
        """A crown of leaves with gaps, through which one sees what is behind."""
        (left, top), (right, bottom) = self.project([(x - radius_x, y + radius_y, z), (x + radius_x, y - radius_y, z)])
        field = crowns()[cone][self.rng.integers(8)]
        width, height = math.ceil(right - left), math.ceil(bottom - top)
        if right > 0 and left < self.width and z > NEAR:
            number = self.surface(rgb, TREE, LEAF, (x, y, z), (radius_x, radius_y))
            leaves = field.resize((width, height), Image.Resampling.BILINEAR).point([0] * 128 + [255] * 128, "1")
            self.canvas.paste(number, (round(left), round(top)), leaves)

    def shadow(self, points, dark=.5):
        """A shadow over these (x, z) of the ground; dark: what it takes of the light."""
        flat = [(column / SUPER, row / SUPER) for column, row in self.project([(x, 0, z) for x, z in points])]
        ImageDraw.Draw(self.shade).polygon(flat, fill=int(255 * dark))

    def stand(self, x, z, radius_x, radius_z, height):
        """The shadows of a thing of this height: a dark one under it, a long one away from the sun."""
        if self.weather.sun > .1:
            throw = height * (.4 + 2 * self.weather.sun)
            self.shadow([(x - self.sun * throw / 2 + a * (radius_x + throw / 2), z + b * radius_z)
                         for a, b in circle(14)], .2 + self.weather.sun)
        self.shadow([(x + a * radius_x, z + b * radius_z) for a, b in circle(12)], .62)

    def draw(self):
        """The ground as the layout asks for, then every thing from far to near -> its number for each sample."""
        self.canvas = Image.fromarray(self.ground())
        self.brush = ImageDraw.Draw(self.canvas)
        for _, draw, args in sorted(self.things, key=lambda thing: -thing[0]):
            draw(self, *args)
        return np.asarray(self.canvas)

    def ground(self):
        """-> int32 (height, width): the bands of the street's cross-section and the marks on its road."""
        rows = math.ceil(self.top)  # above the horizon
        z = self.eye_y * self.down / np.maximum(np.arange(rows, self.height) + .5 - self.top, 1e-3)[:, None]
        x = ((np.arange(self.width) + .5 - self.left) / self.across - self.bend * z) * z + self.eye_x
        numbers = np.zeros((self.height, self.width), np.int32)
        band = sum((x > edge).astype(np.int32) for edge, *_ in self.bands[:-1])
        for _, rgb, label, cell in self.bands:
            number = self.surface(self.vary(rgb, .25), label, GROUND, (0, 0, 0), (cell, cell))
        numbers[rows:] = band + number + 1 - len(self.bands)
        pixel = .5 * SUPER * z / self.across  # half a final pixel in metres: narrower marks would flicker
        paint = np.zeros(x.shape, bool)
        for at, half_width, dash in self.marks:
            line = np.abs(x - at) < np.maximum(half_width, .7 * pixel)
            paint |= line & ((z + self.phase) % dash < dash / 2) if dash else line
        if self.crossing:
            paint |= (np.abs(z - self.crossing) < 1.6) & (x % 1.1 < .55)
        road = np.array([label == ROAD for _, _, label, _ in self.bands])[band]
        numbers[rows:][paint & road] = self.surface((222, 222, 218), ROAD, GROUND, (0, 0, 0))
        return numbers


@lru_cache
def circle(corners, start=0.0):
    """The corners of a regular polygon: [(cosine, sine)]."""
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    return [(math.cos(a), math.sin(a)) for a in angles]


def disc(x, y, radius, corners=12, start=0.0):
    return [(x + radius * a, y + radius * b) for a, b in circle(corners, start)]


def box(x0, x1, y0, y1):
    return (x0, y0), (x1, y0), (x1, y1), (x0, y1)


@lru_cache
def octaves(rng_seed, side, weights):
    """Noise (side, side) float32 that repeats, of standard deviation 1; weights: from its coarsest grid on."""
    rng, total = np.random.default_rng(rng_seed), np.zeros((side, side), np.float32)
    for i, weight in enumerate(weights):
        grid = np.pad(rng.standard_normal((4 << i, 4 << i), np.float32), 2, mode="wrap")
        step = side // (4 << i)
        wide = np.asarray(Image.fromarray(grid).resize([len(grid) * step] * 2, Image.Resampling.BICUBIC))
        total += weight * wide[2 * step:, 2 * step:][:side, :side]
    return total / total.std()


@lru_cache
def crowns():
    """Eight fields for round crowns and eight for conifers, as Images; leaves are where they are above 127."""
    y, x = np.mgrid[-1:1:128j, -1:1:128j].astype(np.float32)
    shapes = 1 - (x * x + y * y) ** 1.5, (y + 1) * .62 - np.abs(x) * 1.3 - (y > .93) * 2
    fields = []
    for shape in shapes:
        fields.append([])
        for i in range(8):
            ragged = shape + .22 * octaves(i, 128, (0, 1, .8, .6, .4)) - .12
            gaps = 1.25 + octaves(i + 8, 128, (0, .4, 1, 1, .6))
            values = np.clip(np.minimum(ragged, gaps) * 250 + 128, 0, 255)
            fields[-1].append(Image.fromarray(values.astype(np.uint8)))
    return fields


def horizon(s, kind, height):
    """What ends the view: hills in two rows, a wood, or a skyline (height: of the highest, in pictures)."""
    for distance in (300, 160) if kind == "hills" else (120,):
        if kind == "hills":
            tops = np.interp(np.linspace(0, 7, 120), np.arange(8), s.rng.uniform(.1, 1, 8)) * distance / 300
            tops += s.rng.uniform(0, .05, 120)
        else:
            tops = s.rng.uniform(.3, 1, 30 if kind == "skyline" else 90)
        columns, rows = np.linspace(-.1, 1.1, len(tops)) * s.width, s.top - height * tops * s.height
        if kind == "skyline":  # flat roofs
            columns, rows = columns.repeat(2)[1:], rows.repeat(2)[:-1]
        outline = [(s.width * 1.1, s.top + 1), (s.width * -.1, s.top + 1), *zip(columns.tolist(), rows.tolist())]
        look = ((140, 132, 128), BUILDING, FACADE) if kind == "skyline" else (s.vary(s.pick(LEAVES)), TREE, LEAF)
        s.brush.polygon(outline, fill=s.surface(*look, (0, 0, distance), (5, 4) if kind == "skyline" else (40, 40)))


def building(s, side, x, z0, z1, height, roof=0.0, shop=False, floor=3.2, bay=2.8, depth=10.0):
    """A box along the street from z0 to z1; roof > 0 is the height of a pitched roof on it."""
    rgb, tiles, gable = s.vary(s.pick(WALLS), .3), s.vary(s.pick(ROOFS), .2), s.chance(.5)
    street, front, back = 1 - side * s.sun * s.weather.sun, .84, x + side * depth
    middle_x, middle_z, top = (x + back) / 2, (z0 + z1) / 2, height + roof
    if s.weather.sun > .1 and side == s.sun:
        throw = x - side * height * (.5 + s.weather.sun)
        s.shadow([(x, z0), (x, z1), (throw, z1 - 2), (throw, z0 - 2)], .25 + s.weather.sun)
    cells = [(length / max(1, int(length / bay)), height / max(1, int(height / floor))) for length in (depth, z1 - z0)]
    if z0 > NEAR:
        s.plate(*((x, back) if x < back else (back, x)), 0, height, z0, rgb, BUILDING, FACADE, front, cells[0])
    if roof and gable:  # the gable towards the street
        s.polygon([(x, height, z0), (back, height, z0), (back, top, middle_z), (x, top, middle_z)], tiles, BUILDING,
                  MATT, front)
        s.polygon([(x, height, z0), (x, height, z1), (x, top, middle_z)], rgb, BUILDING, MATT, street)
        s.line([(x, height, z0), (x, top, middle_z), (x, height, z1)], .25, tiles, BUILDING)
    elif roof:
        s.polygon([(x, height, z0), (back, height, z0), (middle_x, top, z0)], rgb, BUILDING, MATT, front)
        s.polygon([(x, height, z0), (x, height, z1), (middle_x, top, z1), (middle_x, top, z0)], tiles, BUILDING, MATT,
                  street, (.3, .3), True)
    s.polygon([(x, 0, z0), (x, 0, z1), (x, height, z1), (x, height, z0)], rgb, BUILDING, SHOP if shop else FACADE,
              street, cells[1], True)
    if z0 < 60:
        s.plate(middle_x - .5, middle_x + .5, top - .5, top + .9, middle_z, (128, 70, 58), BUILDING)


def tree(s, x, z, height, slim=1.0):
    crown, rgb = height * s.between(.6, .8), s.vary(s.pick(LEAVES), .4)
    radius, middle = crown / 2 * s.between(.75, 1) * slim, height - crown / 2
    s.stand(x, z, radius * .8, radius * .6, height)
    s.polygon([(x - .17, 0, z), (x + .17, 0, z), (x + .05, middle, z), (x - .05, middle, z)], BARK, TREE)
    for a in (-.6, -.2, .3, .7):
        s.line([(x, height - crown, z), (x + a * radius, middle + crown * .2, z)], .09, BARK, TREE)
    s.stamp(x, middle, z, radius, crown / 2, rgb)


def conifer(s, x, z, height):
    s.stand(x, z, height * .2, height * .15, height)
    s.plate(x - .14, x + .14, 0, height * .3, z, BARK, TREE)
    s.stamp(x, height * .55, z, height * .24, height * .46, s.vary((40, 78, 48), .3), cone=True)


def fence(s, x, z0, z1, height, rgb, kind):
    """From z0 to z1 along the street; a hedge, boards (closed), rails (you see through) or guard (a crash barrier)."""
    shade, low = 1 - math.copysign(s.sun * s.weather.sun * .6, x - s.eye_x), height * .5 if kind == "guard" else 0
    if kind != "rails":
        points = [(x, low, z0), (x, low, z1), (x, height, z1), (x, height, z0)]
        look = (s.vary(s.pick(LEAVES), .2), TREE, LEAF) if kind == "hedge" else (rgb, FENCE, MATT)
        s.polygon(points, *look, shade, (2 if kind == "hedge" else .16, height - low), True)
    if kind in ("rails", "guard"):
        for y in (height, height * .62, height * .25) if kind == "rails" else ():
            s.line([(x, y, z0), (x, y, z1)], .05, rgb, FENCE, shade)
        for z in (z0, (z0 + z1) / 2):
            s.line([(x, 0, z), (x, height, z)], .09, rgb, FENCE, shade * .85)


# A figure is a list of parts: colour (or the name of one that changes), class, outline in (u, y) metres, material.
PERSON = (("trousers", PEDESTRIAN, ((-.16, .95), (.18, .95), (.3, 0), (.12, 0), (.02, .8), (-.16, 0), (-.34, 0))),
          ("skin", PEDESTRIAN, ((-.34, .86), (-.26, .86), (-.2, 1.4), (-.26, 1.4))),
          ("coat", PEDESTRIAN, ((-.19, .86), (.19, .86), (.24, 1.36), (.12, 1.5), (-.12, 1.5), (-.25, 1.36))),
          ("coat", PEDESTRIAN, ((.2, 1.44), (.34, 1.0), (.28, .9), (.18, 1.1))),
          ("skin", PEDESTRIAN, disc(0, 1.62, .125)),
          ("hair", PEDESTRIAN, ((-.13, 1.64), (.13, 1.64), (.09, 1.77), (-.09, 1.77))))
RIDER = tuple((rgb, BICYCLIST, outline) for rgb, outline in (
    (BLACK, disc(-.52, .36, .36)), ((120, 120, 122), disc(-.52, .36, .28)), (BLACK, disc(.52, .36, .36)),
    ((120, 120, 122), disc(.52, .36, .28)), ("frame", ((-.52, .34), (-.5, .42), (-.14, .9), (-.1, .86), (-.4, .36))),
    ("frame", ((-.16, .9), (.4, .9), (.04, .34), (-.04, .34), (.3, .84), (-.14, .84))),
    ("frame", ((.5, .36), (.56, .36), (.38, 1.08), (.3, 1.08))),
    ("trousers", ((-.3, .98), (.0, .98), (.22, .62), (.1, .2), (-.06, .22), (.02, .6))),
    ("coat", ((-.32, .9), (.02, .9), (.3, 1.5), (.12, 1.62), (-.1, 1.5))),
    ("coat", ((.1, 1.5), (.25, 1.46), (.5, 1.08), (.42, 1.04))), ("skin", disc(.27, 1.72, .14)),
    ("frame", ((.1, 1.74), (.44, 1.74), (.36, 1.9), (.18, 1.9)))))
POST = (STEEL, POLE, box(-.05, .05, 0, 2.4))
SIGNS = [(POST, (rim, SIGN, disc(0, 2.4, .5, *shape)), (face, SIGN, disc(0, 2.4, .35, *shape)),
          (mark, SIGN, box(-.2, .2, 2.32, 2.46)))
         for rim, face, mark, shape in ((RED, WHITE, BLACK, (16,)), (RED, WHITE, BLACK, (3, math.pi / 2)),
                                        (BLUE, BLUE, WHITE, (4, math.pi / 4)), (RED, RED, WHITE, (8, math.pi / 8)))]
LIGHTS = [((70, 74, 76), POLE, box(-.07, .07, 0, 2.6)), (BLACK, SIGN, box(-.26, .26, 2.3, 3.6))]
TELEGRAPH = ((BARK, POLE, box(-.11, .11, 0, 7.5)), (BARK, POLE, box(-.9, .9, 6.85, 6.98)),
             (BARK, POLE, box(-.7, .7, 6.3, 6.42)))


def figure(s, x, z, parts, size=1.0, heading=0.0, step=1, stand=True):
    """Draw the parts at (x, z), turned by heading (radians) out of the picture's plane."""
    colours = {name: s.vary(s.pick(choice)) for name, choice in (
        ("coat", CLOTHES), ("trousers", CLOTHES), ("frame", PAINTS), ("skin", SKINS), ("hair", (BARK, BLACK, COBBLES)))}
    across, away = size * step * math.cos(heading), size * math.sin(heading)
    s.stand(x, z, .3 + .5 * abs(heading > 0), .2, 1.7 * size)
    for rgb, label, outline, *material in parts:
        least = max(1.0, SUPER * z / s.across / (2 * max(u for u, _ in outline) or 1)) if label == POLE else 1
        s.polygon([(x + u * across * least, y * size, z + u * away) for u, y in outline], colours.get(rgb, rgb), label,
                  *material)


def pedestrian(s, x, z):
    figure(s, x, z, PERSON, s.between(.85, 1.1), 0, s.pick((-1, 1)) * s.between(.7, 1.1))


def bicyclist(s, x, z):
    """A bicycle and its rider, on their way along the street or across it."""
    heading = s.between(.05, .5) if s.chance(.5) else s.between(.7, 1.3)
    figure(s, x, z, RIDER, 1, heading, s.pick((-1, 1)))


def sign(s, x, z):
    figure(s, x, z, s.pick(SIGNS), s.between(.85, 1.15))


def traffic_light(s, x, z):
    on = s.rng.integers(3)
    bulbs = [(rgb if i == on else tuple(c * .25 for c in rgb), SIGN, disc(0, 2.52 + .4 * i, .15), GLOW if i == on else MATT)
             for i, rgb in enumerate((GREEN, AMBER, RED))]
    figure(s, x, z, LIGHTS + bulbs)


def telegraph_pole(s, x, z):
    figure(s, x, z, TELEGRAPH)


def lamp(s, x, z, height, reach):
    """A street lamp; reach is the arm's length towards the road, 0 for a lantern on a post."""
    rgb, lit, head = s.vary((92, 96, 100), .3), s.weather.lamps, x + reach
    s.line([(x, 0, z), (x, height, z), (head, height + .3 * (reach != 0), z)], .14, rgb, POLE)
    s.line([(x, 0, z), (x, 1, z)], .24, rgb, POLE)
    w, h = (.45, .14) if reach else (.28, .35)
    s.plate(head - w, head + w, height + .3 - h, height + .3 + h, z, LAMPLIGHT if lit else WHITE, POLE,
            GLOW if lit else MATT)
    s.lights.append((head, height, z, LAMPLIGHT, height * .8))


def board(s, x0, x1, y0, y1, z, rgb):
    """A large sign with lines of text: on a gantry, over a shop."""
    w, h = x1 - x0, y1 - y0
    s.plate(x0, x1, y0, y1, z, WHITE, SIGN)
    s.plate(x0 + h * .07, x1 - h * .07, y0 + h * .07, y1 - h * .07, z, rgb, SIGN)
    for y in (y0 + h * .35, y0 + h * .68):
        s.plate(x0 + w * .14, x0 + w * s.between(.5, .85), y - h * .06, y + h * .06, z, WHITE, SIGN)


def gantry(s, left, z, right):
    """Signs on a bridge across the lanes."""
    top, rgb, panel = 6.6, s.vary(STEEL), s.pick(((14, 82, 176), (10, 118, 72)))
    for x in (left, right):
        s.line([(x, 0, z), (x, top, z)], .35, rgb, POLE)
    s.line([(left, top - .2, z), (right, top - .2, z)], .45, rgb, POLE)
    for share in (.08, .55):
        x = left + (right - left) * share
        board(s, x, x + (right - left) * s.between(.28, .38), 5.2, 7.6, z, panel)


# A vehicle is its width, its profile in (z, y) from the rear bumper round to the front one, the segments of the profile
# that are glass, and its side window.
SALOON = (1.76, ((0, .3), (0, .88), (.45, .95), (1, 1.42), (2.5, 1.46), (3.2, .98), (4.2, .8), (4.2, .3)), (2, 4),
          ((.8, .98), (1.15, 1.34), (2.4, 1.37), (2.9, .98)))
HATCHBACK = (1.72, ((0, .3), (0, .9), (.35, 1.5), (2.3, 1.55), (3, 1), (3.8, .85), (3.8, .3)), (1, 3),
             ((.4, 1), (.55, 1.42), (2.2, 1.45), (2.75, 1)))
VAN = (2.0, ((0, .4), (0, 2.4), (3.9, 2.4), (4.6, 1.3), (5.2, 1.1), (5.2, .4)), (2,),
       ((3.2, 1.35), (3.2, 2), (3.9, 2), (4.3, 1.35)))
LORRY = (2.4, ((0, .8), (0, 3.6), (8, 3.6), (8.1, 2.9), (9.4, 2.9), (9.8, .5), (9.8, .4)), (4,),
         ((8.4, 1.7), (8.4, 2.6), (9.2, 2.6), (9.5, 1.7)))


def car(s, x, z, oncoming, model=None):
    """A vehicle whose near end is at z; the side away from the camera is painted over by what hides it."""
    width, profile, glass, window = model or s.pick((SALOON, SALOON, HATCHBACK, HATCHBACK, VAN))
    rgb, length, half = s.vary(s.pick(PAINTS)), profile[-1][0], width / 2

    def at(u):
        return z + (length - u if oncoming else u)

    s.stand(x, z + length / 2, half * 1.1, length * .53, profile[2][1])
    for flank in sorted((x - half, x + half), key=lambda edge: -abs(edge - s.eye_x)):
        shade = .85 + math.copysign(s.sun * s.weather.sun, flank - x)
        s.polygon([(flank, y, at(u)) for u, y in profile], rgb, CAR, MATT, shade)
        s.polygon([(flank, y, at(u)) for u, y in window], PANE, CAR, GLASS)
        s.polygon([(flank, .32, at(.1)), (flank, .32, at(length - .1)), (flank, .42, at(length - .1)),
                   (flank, .42, at(.1))], BLACK, CAR)
        for hub in (length * .19, length * .8):
            for radius, colour in ((.36, BLACK), (.21, STEEL), (.07, BLACK)):
                s.polygon([(flank, .34 + radius * b, at(hub) + radius * a) for a, b in circle(11)], colour, CAR)
    for i in sorted(range(len(profile) - 1), key=lambda i: -at(profile[i][0]) - at(profile[i + 1][0])):
        (u0, y0), (u1, y1) = profile[i], profile[i + 1]
        look = (PANE, CAR, GLASS) if i in glass else (rgb, CAR, MATT, 1.2 if abs(u1 - u0) > 2 * abs(y1 - y0) else .88)
        s.polygon([(x - half, y0, at(u0)), (x + half, y0, at(u0)), (x + half, y1, at(u1)), (x - half, y1, at(u1))],
                  *look)
    low, light = profile[0][1], (255, 246, 214) if oncoming else (226, 24, 24)
    s.plate(x - half, x + half, low, low + .2, z, (48, 48, 52), CAR)
    s.plate(x - .26, x + .26, low + .17, low + .3, z, WHITE if oncoming else AMBER, CAR)
    for edge in (x - half, x + half * .62):
        s.plate(edge, edge + half * .38, 0, low, z, BLACK, CAR)
        s.plate(edge + .04, edge + half * .36, low + .32, low + .5, z, light, CAR, GLOW if s.weather.lamps else MATT)
    s.lights.append((x, .6, z - (3 if oncoming else .6), light, 3.5 if oncoming else 1.2))
