"""The parts of a street: a pinhole camera over flat ground, and all things that stand there, as tables of shapes.

The world is in metres: x to the right, y up, z ahead, the camera at z = 0. All things are flat surfaces, painted from
far to near. Each surface has a row in a table (colour, class, material, place); it is painted as the row's number.
A look-up of the numbers gives the mask, data/light.py the image, so the two agree to the pixel."""
import math
from collections import namedtuple
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
VOID = 255
GROUND, MATT, LEAF, FACADE, SHOP, GLASS, LAMP = range(7)  # materials
SUPER = 3  # odd, so that one sample of each 3 x 3 block lies exactly at the pixel's centre
ASPECT = 4 / 3  # every scene is composed for this width over height, and stretched where the size differs
PLAIN = (1e9, 1e9)  # the cell of a surface on which nothing repeats
NEAR, FAR = 1.0, 150.0  # metres
# Colours of the sky overhead and at the horizon (also of the haze); the light's share of red, green and blue; how much
# brighter the side towards the sun is; clouds; metres after which the haze replaces 63% of a colour; lamps lit?
Weather = namedtuple("Weather", "zenith horizon light sun clouds visibility lamps")
WEATHERS = [Weather((70, 128, 214), (200, 220, 240), (1.02, 1.0, .96), .30, .5, 700, False),  # noon
            Weather((88, 132, 200), (252, 216, 170), (1.10, .95, .78), .42, .5, 350, False),  # low sun
            Weather((196, 200, 206), (228, 230, 232), (.84, .86, .88), .05, .9, 300, False),  # overcast
            Weather((62, 74, 130), (238, 160, 122), (.56, .52, .58), .12, .6, 260, True),  # dusk
            Weather((16, 22, 46), (54, 56, 74), (.18, .19, .25), .0, .4, 250, True),  # night
            Weather((204, 207, 210), (218, 220, 222), (.82, .84, .86), .0, .0, 50, False),  # fog
            RAIN := Weather((140, 147, 156), (190, 194, 199), (.62, .65, .69), .0, .9, 130, True)]
ASPHALT, COBBLES, SLABS, GRASS, STEEL = (92, 92, 95), (122, 110, 100), (160, 153, 146), (88, 122, 56), (150, 154, 158)
BLACK, WHITE, PANE, LAMPLIGHT, BARK = (24, 24, 27), (238, 238, 234), (44, 52, 64), (255, 206, 128), (82, 66, 52)
RED, BLUE, GREEN, AMBER = (200, 22, 30), (24, 84, 190), (10, 118, 72), (250, 180, 50)
WALLS = [(198, 178, 146), (168, 96, 70), (218, 208, 190), (150, 146, 140), (214, 168, 96), (184, 124, 100),
         (146, 84, 64), (176, 184, 186), (222, 192, 156), (122, 112, 110)]
ROOFS = [(158, 74, 52), (92, 82, 80), (130, 62, 48), (80, 86, 98), (164, 92, 62)]
PAINTS = [(190, 26, 30), (26, 60, 148), (228, 228, 228), (36, 38, 42), (126, 130, 136), (178, 180, 184), (20, 92, 70),
          (204, 170, 52), (98, 34, 40), (84, 128, 184)]
CLOTHES = PAINTS + [(206, 106, 44), (122, 76, 146), (70, 58, 48)]
LEAVES = [(62, 104, 40), (84, 118, 46), (46, 86, 46), (108, 120, 44), (154, 104, 42), (72, 98, 56)]
SKINS = [(224, 180, 150), (190, 140, 106), (120, 82, 60)]


class Street:
    """A table of surfaces, and a canvas with the number of the visible surface at each sample."""

    def __init__(self, rng, size):
        self.rng = rng
        self.height, self.width = size[0] * SUPER, size[1] * SUPER
        self.weather = self.some(WEATHERS[:2] + WEATHERS)  # the sun shines more often
        self.sun, self.mirrored = self.some([-1, 1]), self.some([False, True])  # the sun is on the left or on the right
        # A tangent becomes a column or a row of the canvas: left + across * tangent, top + down * tangent.
        focal, self.top = self.some((.68, 1.15)), self.some((.32, .64)) * self.height
        self.across, self.down = focal * self.width / ASPECT, focal * self.height
        self.bend = self.some((-.0035, .0035))
        self.eye_y = self.some((1.4, 2.9))  # the layout chooses eye_x and vanish_x
        self.phase = self.some((0, 8))  # of dashed lines
        self.bands, self.things = [], []  # for the layout to fill in: (right edge, colour, class, cell); see add
        self.rows = [(0,) * 11]  # of surfaces, see polygon; number 0 is the sky
        self.lights = []  # (x, y, z, colour, reach in metres)
        self.shade = Image.new("L", size[::-1])  # how dark the shadows on the ground are
        self.shader = ImageDraw.Draw(self.shade)

    def some(self, choice):
        """A random item of a list, or a random number in a range (low, high); any other value stays as it is."""
        if isinstance(choice, list):
            return self.some(choice[self.rng.integers(len(choice))])
        if isinstance(choice, tuple) and len(choice) == 2:
            return choice[0] + (choice[1] - choice[0]) * self.rng.random()
        return choice

    def vary(self, rgb, amount=.12):
        """A colour (r, g, b), made a little lighter or darker, and tinted."""
        gain, *tint = ((self.rng.random(4) - .5) * amount).tolist()
        return tuple(c * (1 + 2 * gain + t * .7) for c, t in zip(self.some(rgb), tint))

    def add(self, order, draw, *args):
        """Let `draw` call draw(self, *args) in order: the farthest things first."""
        self.things.append((order, draw, args))

    def row(self, draw, x, *args, start=(3, 9), stop=100.0, length=0.0, gap=10.0, share=1.0, order=0.0):
        """Things of this length along the street, at a share of the places. Each thing makes its own choices."""
        z, share = self.some(start), self.some(share)
        while z < stop:
            end = z + self.some(length)
            if self.rng.random() < share:
                self.add(order + end, self.some(draw), self.some(x), z, end, *map(self.some, args))
            z = end + self.some(gap)

    def project(self, points):
        """[(x, y, z)] in metres -> [(column, row)] on the canvas."""
        return [(self.left + self.across * ((x - self.eye_x) / (far := z if z > NEAR else NEAR) + self.bend * far),
                 self.top + self.down * (self.eye_y - y) / far) for x, y, z in points]

    def polygon(self, points, rgb, label, material=MATT, shade=1.0, cell=PLAIN, side=False, thickness=0.0):
        """Fill (x, y, z) points, or draw a line of a thickness in metres, at least one final pixel.

        cell: (width, height) of the repeating pattern, from the first point on; side: whether x is constant."""
        flat = self.project(points)
        if max(flat)[0] > 0 and min(flat)[0] < self.width:
            x, y, z = points[0]
            z = z if side or cell is not PLAIN else max(NEAR, (z + points[len(points) // 2][2]) / 2)
            number = self.surface([c * shade for c in rgb], label, material, (x, y, z), cell, side)
            if thickness:
                self.brush.line(flat, number, max(SUPER, round(thickness * self.down / max(NEAR, z))))
            else:
                self.brush.polygon(flat, number)

    def surface(self, rgb, label, material, origin=(0, 0, 0), cell=PLAIN, side=False):
        """A new row of the table -> its number."""
        self.rows.append((*rgb, label, material, *origin, *cell, side))
        return len(self.rows) - 1

    def crown(self, x, y, z, radius_x, radius_y, rgb, cone):
        """Leaves with gaps that show the things behind."""
        (left, top), (right, bottom) = self.project([(x - radius_x, y + radius_y, z), (x + radius_x, y - radius_y, z)])
        field = crowns()[cone][self.rng.integers(8)]
        if right > 0 and left < self.width and z > NEAR:
            size = math.ceil(right - left), math.ceil(bottom - top)
            leaves = field.resize(size, Image.Resampling.BILINEAR).convert("1", dither=Image.Dither.NONE)
            number = self.surface(rgb, TREE, LEAF, (x, y, z), (radius_x, radius_y))
            self.canvas.paste(number, (round(left), round(top)), leaves)

    def shadow(self, points, dark):
        """A shadow over these (x, z) of the ground; dark: the share of light that it takes away."""
        flat = [(column / SUPER, row / SUPER) for column, row in self.project([(x, 0, z) for x, z in points])]
        self.shader.polygon(flat, int(255 * dark))

    def stand(self, x, z, radius_x, radius_z, height):
        """The shadows of a thing of this height: a long one away from the sun, a dark one under it."""
        throw = -self.sun * height * (.4 + 2 * self.weather.sun) / 2
        if self.weather.sun > .1:
            self.shadow(disc(x + throw, z, radius_x + abs(throw), radius_z), .15 + self.weather.sun)
        self.shadow(disc(x, z, radius_x, radius_z), .62)

    def draw(self):
        """Draw all things from far to near -> the surface's number at each sample, int32 (height, width)."""
        self.left = self.vanish_x * self.width
        self.canvas = Image.new("I", (self.width, self.height))
        self.brush = ImageDraw.Draw(self.canvas)
        self.add(1e9, Street.ground)
        for _, draw, args in sorted(self.things, key=lambda thing: -thing[0]):
            draw(self, *args)
        return np.asarray(self.canvas)

    def ground(self):
        """The bands of the street's cross-section, from the horizon down."""
        rows = np.arange(math.ceil(self.top), self.height)[:, None]
        z = self.eye_y * self.down / np.maximum(rows + .5 - self.top, 1e-3)
        x = ((np.arange(self.width) + .5 - self.left) / self.across - self.bend * z) * z + self.eye_x
        first = len(self.rows)
        for _, rgb, label, cell in self.bands:
            self.surface(self.vary(rgb), label, GROUND, cell=(cell, cell) if cell else PLAIN)
        numbers = sum((x > edge).astype(np.int32) for edge, *_ in self.bands[:-1]) + np.int32(first)
        self.canvas.paste(Image.fromarray(numbers), (0, self.height - len(rows)))


def disc(x, y, radius, radius_y=None, corners=12, start=0.0):
    """The corners of a regular polygon: [(x, y)]."""
    angles = (start + 2 * math.pi * i / corners for i in range(corners))
    return [(x + radius * math.cos(a), y + (radius_y or radius) * math.sin(a)) for a in angles]


@lru_cache
def octaves(seed, side, weights):
    """Noise (side, side) float32 that repeats, of standard deviation 1; weights: from its coarsest grid, of 4, on."""
    rng, total = np.random.default_rng(seed), 0
    for cells, weight in ((4 << i, weight) for i, weight in enumerate(weights)):
        grid, step = Image.fromarray(np.pad(rng.standard_normal((cells, cells), np.float32), 2, "wrap")), side // cells
        wide = np.asarray(grid.resize([side + 4 * step] * 2, Image.Resampling.BICUBIC))
        total = total + weight * wide[2 * step:-2 * step, 2 * step:-2 * step]
    return total / total.std()


@lru_cache
def crowns():
    """Eight round crowns and eight conifers, as Images (128 x 128): values above 127 are leaves."""
    y, x = np.mgrid[-1:1:128j, -1:1:128j].astype(np.float32)
    shapes = 1 - (x * x + y * y) ** 1.5, (y + 1) * .62 - np.abs(x) * 1.3 - (y > .93) * 2
    return [[Image.fromarray(np.uint8(np.clip(128 + 250 * np.minimum(
        shape + .22 * octaves(i, 128, (0, 1, .8, .6, .4)) - .12, 1.25 + octaves(i + 8, 128, (0, .4, 1, 1, .6))),
        0, 255))) for i in range(8)] for shape in shapes]


def mark(s, x, z, end, width):
    """Paint on the road, at least one final pixel wide."""
    near, far = (max(width, 1.4 * SUPER * max(NEAR, at) / s.across) / 2 for at in (z, end))
    s.polygon([(x - near, 0, z), (x + near, 0, z), (x + far, 0, end), (x - far, 0, end)], (222, 222, 218), ROAD, GROUND)


def horizon(s, kind, far, radius, height):
    """The horizon: hills, the trees of a wood, or the blocks of a skyline, `far` metres away."""
    for x, size in s.rng.uniform((-3, .3), (3, 1), (40, 2)).tolist():
        x, wide, high = x * far, radius * (.5 + size), height * size
        if kind == "skyline":
            s.polygon([(x + u, y, far) for u, y in box(-wide, wide, 0, high)], s.vary(WALLS), BUILDING, FACADE,
                      cell=(4, 3.5))
        else:
            s.crown(x, 0 if kind == "hills" else high, far, wide, high, s.vary(LEAVES, .2), kind == "wood")


def building(s, x, z, end, height, roof=0.0, floor=3.2, bay=2.8):
    """A box along the street; roof > 0: the height of a pitched roof on it."""
    side = math.copysign(1, x)
    back, middle, top, rgb, sunny = x + side * 10, x + side * 5, height + roof, s.vary(WALLS, .3), s.sun * s.weather.sun
    cells = [(length / max(1, int(length / bay)), height / max(1, int(height / floor))) for length in (10, end - z)]
    if sunny * side > .1:
        throw = x - side * height * (.5 + s.weather.sun)
        s.shadow([(x, z), (x, end), (throw, end - 2), (throw, z - 2)], .25 + s.weather.sun)
    if z > NEAR:
        s.polygon([(u, y, z) for u, y in box(*sorted((x, back)), 0, height)], rgb, BUILDING, FACADE, .84, cells[0])
    if roof:
        s.polygon([(x, height, z), (back, height, z), (middle, top, z)], rgb, BUILDING, MATT, .84)
        s.polygon([(x, height, z), (x, height, end), (middle, top, end), (middle, top, z)], s.vary(ROOFS, .2), BUILDING,
                  MATT, 1 - side * sunny, (.3, .3), True)
    s.polygon([(x, y, u) for u, y in box(z, end, 0, height)], rgb, BUILDING, s.some([FACADE, SHOP]), 1 - side * sunny,
              cells[1], True)


def tree(s, x, z, end, height, slim=1.0, cone=False):
    crown, rgb = height * s.some((.6, .8)), s.vary(LEAVES, .4)
    radius, middle = crown / 2 * s.some((.75, 1)) * slim, height - crown / 2
    s.stand(x, z, radius * .8, radius * .6, height)
    for a in () if cone else (-.6, -.2, .3, .7):
        s.polygon([(x, height - crown, z), (x + a * radius, middle + crown * .2, z)], BARK, TREE, thickness=.09)
    s.polygon([(x, 0, z), (x, height - crown * .7, z)], BARK, TREE, thickness=.28)
    s.crown(x, middle, z, radius, crown / 2, rgb, cone)


def fence(s, x, z, end, height, rgb, low=0.0, rails=False):
    """A fence from low to height; with rails one sees through it."""
    look, shade = (s.vary(rgb), FENCE, MATT), 1 - math.copysign(s.sun * s.weather.sun * .6, x - s.eye_x)
    for at in (z, (z + end) / 2):
        s.polygon([(x, 0, at), (x, height, at)], *look, shade * .85, thickness=.09)
    for y in (height, height * .62, height * .25) if rails else ():
        s.polygon([(x, y, z), (x, y, end)], *look, shade, thickness=.05)
    if not rails:
        s.polygon([(x, y, u) for u, y in box(z, end, low, height)], *look, shade, (.16, height - low), True)


def box(x0, x1, y0, y1):
    return (x0, y0), (x1, y0), (x1, y1), (x0, y1)


def panel(rgb, x0, x1, y0, y1):
    """A large sign with two lines of text."""
    return [(colour, SIGN, outline) for colour, outline in (
        (WHITE, box(x0, x1, y0, y1)), (rgb, box(x0 + .05, x1 - .05, y0 + .05, y1 - .05)),
        (WHITE, box(x0 + .2, (x0 + x1) / 2, y1 - .4, y1 - .2)), (WHITE, box(x0 + .2, x1 - .3, y0 + .2, y0 + .4)))]


def post(height, radius=.05, rgb=STEEL):
    return [(rgb, POLE, box(-radius, radius, 0, height))]


PALETTES = {"coat": CLOTHES, "trousers": CLOTHES, "paint": PAINTS, "skin": SKINS}
# A figure is a list of parts: colour (or the name of a palette), class, outline in (u, y) metres. LAMPLIGHT shines.
WHEELS = [(rgb, disc(hub, .36, radius)) for hub in (-.52, .52) for rgb, radius in ((BLACK, .36), (STEEL, .28))]
PERSON = [("trousers", ((-.16, .95), (.18, .95), (.3, 0), (.12, 0), (.02, .8), (-.16, 0), (-.34, 0))),
          ("skin", ((-.34, .86), (-.26, .86), (-.2, 1.4), (-.26, 1.4))), ("skin", disc(0, 1.62, .125)),
          ("coat", ((-.19, .86), (.19, .86), (.24, 1.36), (.12, 1.5), (-.12, 1.5), (-.25, 1.36))),
          ("coat", ((.2, 1.44), (.34, 1.0), (.28, .9), (.18, 1.1))),
          (BARK, ((-.13, 1.64), (.13, 1.64), (.09, 1.77), (-.09, 1.77)))]
BICYCLE = [*WHEELS, ("paint", ((-.52, .34), (-.5, .42), (-.14, .9), (.4, .9), (.04, .34), (-.04, .34), (.3, .84))),
           ("paint", ((.5, .36), (.56, .36), (.38, 1.08), (.3, 1.08))), ("skin", disc(.27, 1.72, .14)),
           ("trousers", ((-.3, .98), (.0, .98), (.22, .62), (.1, .2), (-.06, .22), (.02, .6))),
           ("coat", ((-.32, .9), (.02, .9), (.3, 1.4), (.42, 1.04), (.5, 1.08), (.25, 1.55), (.12, 1.62), (-.1, 1.5))),
           ("paint", ((.1, 1.74), (.44, 1.74), (.36, 1.9), (.18, 1.9)))]
FIGURES = {
    "person": [(rgb, PEDESTRIAN, outline) for rgb, outline in PERSON],
    "bicycle": [(rgb, BICYCLIST, outline) for rgb, outline in BICYCLE],
    **{name: post(2.4) + [(rim, SIGN, disc(0, 2.4, .5, .5, *shape)), (face, SIGN, disc(0, 2.4, .35, .35, *shape)),
                          (text, SIGN, box(-.2, .2, 2.32, 2.46))] for name, rim, face, text, shape in (
        ("ban", RED, WHITE, BLACK, (16,)), ("warning", RED, WHITE, BLACK, (3, math.pi / 2)),
        ("advice", BLUE, BLUE, WHITE, (4, math.pi / 4)), ("stop", RED, RED, WHITE, (8, math.pi / 8)))},
    **{name: post(2.6, .07) + [(BLACK, SIGN, box(-.26, .26, 2.3, 3.6)), (rgb, SIGN, disc(0, y, .16))]
       for name, rgb, y in (("green light", (40, 220, 120), 2.52), ("red light", (255, 40, 30), 3.38))},
    "telegraph pole": post(7.5, .11, BARK) + [(BARK, POLE, box(-.9, .9, y, y + .13)) for y in (6.3, 6.85)],
    "lamp": [*post(7, .07), (STEEL, POLE, box(0, 1.8, 7, 7.14)), (LAMPLIGHT, POLE, box(1.4, 2.2, 7.05, 7.3))],
    "lantern": post(4.2, .06, BLACK) + [(LAMPLIGHT, POLE, box(-.25, .25, 3.6, 4.1))],
    "gantry": [*post(6.6, .2), (STEEL, POLE, box(0, 14, 6.2, 6.6)), *panel(BLUE, 1.5, 6, 5.2, 7.6),
               *panel(GREEN, 7.5, 12, 5.2, 7.6)],
    "shop sign": panel("paint", 0, 1.2, 2.7, 3.6),
}


def figure(s, x, z, end, name, size=1.0, heading=None):
    """Draw a figure at (x, z), turned by heading (radians) out of the image's plane; by default towards the road."""
    colours = {rgb: s.vary(PALETTES[rgb]) for rgb in dict.fromkeys(rgb for rgb, *_ in FIGURES[name]) if rgb in PALETTES}
    heading = math.pi * (x > 0) if heading is None else heading
    across, away = size * math.cos(heading), size * math.sin(heading)
    s.stand(x, z, .8 if name == "bicycle" else .3, .2, .9 * size)
    for rgb, label, outline in FIGURES[name]:
        wide = .5 * SUPER * z / s.across / max(abs(u * across) for u, _ in outline)
        wide = max(1.0, wide) * across if label == POLE else across  # a pole is at least a final pixel wide
        points = [(x + u * wide, y * size, z + u * away) for u, y in outline]
        s.polygon(points, colours.get(rgb, rgb), label, LAMP if rgb is LAMPLIGHT else MATT)
        if rgb is LAMPLIGHT:
            s.lights.append((*points[0], LAMPLIGHT, points[0][1] * .8))


# A vehicle: its width, its profile in (z, y) from rear to front, the profile's segments of glass, its side window.
SALOON = (1.76, ((0, .3), (0, .88), (.45, .95), (1, 1.42), (2.5, 1.46), (3.2, .98), (4.2, .8), (4.2, .3)), (2, 4),
          ((.8, .98), (1.15, 1.34), (2.4, 1.37), (2.9, .98)))
HATCHBACK = (1.72, ((0, .3), (0, .9), (.35, 1.5), (2.3, 1.55), (3, 1), (3.8, .85), (3.8, .3)), (1, 3),
             ((.4, 1), (.55, 1.42), (2.2, 1.45), (2.75, 1)))
VAN = (2.0, ((0, .4), (0, 2.4), (3.9, 2.4), (4.6, 1.3), (5.2, 1.1), (5.2, .4)), (2,),
       ((3.2, 1.35), (3.2, 2), (3.9, 2), (4.3, 1.35)))
LORRY = (2.4, ((0, .8), (0, 3.6), (8, 3.6), (8.1, 2.9), (9.4, 2.9), (9.8, .5), (9.8, .4)), (4,),
         ((8.4, 1.7), (8.4, 2.6), (9.2, 2.6), (9.5, 1.7)))
CARS = [SALOON, SALOON, HATCHBACK, HATCHBACK, VAN]


def car(s, x, z, end, model):
    """A vehicle whose near end is at z. On the left it comes towards the camera. Hidden parts are painted over."""
    width, profile, glass, window = model
    paint, length, half, low, oncoming = s.vary(PAINTS), profile[-1][0], width / 2, profile[0][1], x < 0
    light, number = ((255, 246, 214), WHITE) if oncoming else ((226, 24, 24), AMBER)

    def part(points, rgb, material=MATT, shade=1.0):
        points = [(x + half * u, y, z + (length - v if oncoming else v)) for u, y, v in points]
        s.polygon(points, rgb, CAR, material, shade)

    s.stand(x, z + length / 2, half * 1.1, length * .53, profile[2][1])
    wheels = [(disc(length * hub, .34, size), rgb) for hub in (.19, .8) for size, rgb in ((.36, BLACK), (.2, STEEL))]
    for side in (-1, 1) if x > s.eye_x else (1, -1):  # the hidden side comes first
        look = paint, MATT, .85 + side * s.sun * s.weather.sun
        for outline, *look in (profile, *look), (window, PANE, GLASS), (box(.1, length - .1, .32, .42), BLACK), *wheels:
            part([(side, y, v) for v, y in outline], *look)
    strips = list(enumerate(zip(profile, profile[1:])))
    for i, ((v0, y0), (v1, y1)) in strips if oncoming else strips[::-1]:
        look = (PANE, GLASS) if i in glass else (paint, MATT, 1.2 if abs(v1 - v0) > 2 * abs(y1 - y0) else .88)
        part([(-1, y0, v0), (1, y0, v0), (1, y1, v1), (-1, y1, v1)], *look)
    for left, right, bottom, top, *look in (
            (-1, 1, 0, .2, PANE), (-.3, .3, .17, .3, number), (-1, -.62, -low, 0, BLACK), (.62, 1, -low, 0, BLACK),
            (-.97, -.65, .32, .5, light, LAMP), (.65, .97, .32, .5, light, LAMP)):
        part([(u, low + y, length * oncoming) for u, y in box(left, right, bottom, top)], *look)
    s.lights.append((x, .6, z - (3 if oncoming else .6), light, 3.5 if oncoming else 1.2))
