"""What a street is made of: a pinhole camera, weather, ground and sky, and every thing that stands there.

A `Street` is a small world in metres (x to the right, y up, z ahead, the camera at z = 0) over flat ground whose road
bends to one side. Things are polygons, drawn from far to near on the image and on the mask at once, so that the two
agree; `photograph` then lets the camera add blur, noise and exposure. data/scenes.py puts the things in their places.
"""
import math
from collections import namedtuple
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
VOID = 255
SUPER = 3  # odd, so that one sample of each 3 x 3 block lies exactly at the pixel's centre
ASPECT = 4 / 3  # every scene is composed for this width over height, and stretched where the size differs
NEAR, FAR = 1.0, 150.0  # metres
ROUGHNESS = np.zeros(256, np.float32)  # of each class's surface
ROUGHNESS[:11] = 0, .04, .03, .04, .04, .11, .02, .04, .02, .04, .04
# Colours of the sky overhead and at the horizon (the haze has that, too); what the light leaves of red, green and blue;
# how much brighter the side towards the sun is; clouds; metres until the haze has taken 63% of a colour; lamps lit?
Weather = namedtuple("Weather", "zenith horizon light sun clouds visibility lamps")
WEATHERS = (
    Weather((75, 132, 212), (188, 212, 238), (1.0, 1.0, 1.0), .30, .5, 700, False),  # noon
    Weather((92, 130, 188), (250, 206, 152), (1.06, .88, .70), .42, .5, 350, False),  # low sun
    Weather((150, 158, 168), (206, 209, 212), (.80, .82, .85), .05, .9, 300, False),  # overcast
    Weather((62, 72, 122), (232, 152, 116), (.60, .54, .62), .12, .6, 260, True),  # dusk
    Weather((16, 20, 42), (58, 56, 70), (.38, .39, .48), .0, .4, 250, True),  # night
    Weather((186, 189, 192), (203, 205, 207), (.82, .83, .85), .0, .0, 55, False),  # fog
    Weather((118, 124, 132), (162, 167, 172), (.62, .65, .69), .0, .9, 120, True),  # rain
)
RAIN = WEATHERS[-1]

ASPHALT, COBBLES, SLABS, GRASS, STEEL = (94, 93, 96), (120, 110, 102), (156, 150, 144), (98, 122, 62), (150, 154, 158)
BLACK, WHITE, GLASS, LAMPLIGHT = (26, 26, 28), (238, 238, 234), (60, 70, 84), (250, 210, 140)
WALLS = ((196, 178, 150), (172, 108, 84), (214, 206, 190), (150, 146, 142), (206, 170, 110), (186, 134, 116),
         (140, 122, 104), (168, 176, 180), (216, 190, 160), (120, 112, 112))
ROOFS = ((140, 72, 54), (96, 84, 80), (112, 60, 50), (82, 88, 98), (150, 96, 70))
PAINTS = ((190, 30, 32), (30, 60, 140), (225, 225, 225), (40, 42, 46), (130, 134, 140), (176, 178, 182), (24, 90, 70),
          (200, 170, 60), (96, 40, 44), (90, 130, 180))
CLOTHES = PAINTS + ((200, 110, 50), (120, 80, 140), (60, 70, 90), (70, 60, 50))
LEAVES = ((66, 104, 44), (88, 116, 50), (48, 84, 48), (112, 116, 48), (150, 104, 44), (76, 96, 60))
SKINS = ((224, 182, 152), (190, 140, 106), (120, 82, 60))


class Street:
    """An image and its mask, drawn by the same calls in the same places."""

    def __init__(self, rng, size):
        self.rng = rng
        self.height, self.width = size[0] * SUPER, size[1] * SUPER
        self.scale_x, self.scale_y = self.width / ASPECT, self.height  # pixels in one unit, the picture's height
        self.weather = self.pick(WEATHERS)
        self.sun, self.mirrored = self.pick((-1, 1)), self.chance(.5)  # the sun stands on the left or on the right
        self.vanish_x, self.vanish_y = rng.uniform(.27, .73) * ASPECT, rng.uniform(.32, .64)
        self.focal, self.bend = rng.uniform(.68, 1.15), rng.uniform(-.0035, .0035)
        self.eye_x, self.eye_y = 0.0, rng.uniform(1.4, 2.9)
        # For the layout to fill in. Bands: (right edge, colour, class, relief) of each strip of ground, left to right;
        # marks: (x, half width, dash length or 0) of each line on the road; crossing: its distance; things: see add.
        self.bands, self.marks, self.crossing, self.things = [], [], None, []
        self.phase = rng.uniform(0, 12)  # of the dashes

    def pick(self, items):
        return items[self.rng.integers(len(items))]

    def chance(self, probability):
        return self.rng.random() < probability

    def vary(self, rgb, amount=.12):
        """The colour (r, g, b), a little lighter or darker and tinted."""
        gain, *tint = ((self.rng.random(4) - .5) * amount).tolist()
        return tuple(min(255, c * (1 + 2 * gain + t)) for c, t in zip(rgb, tint))

    def add(self, z, draw, *args):
        """Have draw(self, *args) called in its turn: what reaches farthest comes first."""
        self.things.append((z, draw, args))

    def project(self, points):
        """[(x, y, z)] in metres -> [(column, row)] in pixels of the canvas; [] if left or right of the view."""
        left, top = self.vanish_x * self.scale_x, self.vanish_y * self.scale_y
        across, down = self.focal * self.scale_x, self.focal * self.scale_y
        flat = []
        for x, y, z in points:
            z = z if z > NEAR else NEAR
            flat.append((left + across * ((x - self.eye_x) / z + self.bend * z), top + down * (self.eye_y - y) / z))
        return flat if max(flat)[0] > 0 and min(flat)[0] < self.width else []

    def ink(self, rgb, z, shade=1.0, glow=False, alpha=255):
        """A surface's colour under this weather's light, seen through z metres of its haze."""
        clear = 1.0 if glow else math.exp(-z / self.weather.visibility)
        light = (1, 1, 1) if glow else self.weather.light
        return *(int(c * k * shade * clear + haze * (1 - clear))  # Pillow clips to 255
                 for c, k, haze in zip(rgb, light, self.weather.horizon)), alpha

    def polygon(self, points, rgb, label=None, shade=1.0, glow=False, alpha=255):
        """Fill (x, y, z) points; without a label the mask stays as it is (for marks on things already drawn)."""
        flat = self.project(points)
        if flat:
            z = max(0, (points[0][2] + points[-2][2]) / 2)
            self.brush.polygon(flat, fill=self.ink(rgb, z, shade, glow, alpha))
            if label is not None:
                self.mask_brush.polygon(flat, fill=label)

    def line(self, points, thickness, rgb, label=None, shade=1.0):
        """A stroke of this thickness in metres, at least one final pixel wide."""
        flat = self.project(points)
        if flat:
            z = max(NEAR, (points[0][2] + points[-1][2]) / 2)
            width = max(SUPER, round(thickness * self.focal / z * self.scale_y))
            self.brush.line(flat, fill=self.ink(rgb, z, shade), width=width)
            if label is not None:
                self.mask_brush.line(flat, fill=label, width=width)

    def plate(self, x0, x1, y0, y1, z, rgb, label=None, shade=1.0, glow=False):
        """A rectangle that faces the camera."""
        self.polygon([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], rgb, label, shade, glow)

    def puddle(self, x, z, radius_x, radius_z, rgb, alpha, glow=False):
        """A see-through patch on the ground: the shadow of a thing, or the light of a lamp."""
        self.polygon([(x + radius_x * c, 0, z + radius_z * s) for c, s in circle(12)], rgb, None, 1, glow, alpha)

    def shadow(self, x, z, radius_x, radius_z):
        self.puddle(x - self.sun * radius_x * 3 * self.weather.sun, z, radius_x, radius_z, (0, 0, 0),
                    int(60 + 180 * self.weather.sun))

    def draw(self):
        """Sky and ground as the layout asks for, then every thing from far to near."""
        rows = math.ceil(self.vanish_y * self.scale_y)  # above the horizon
        image, mask = ground(self, rows)
        self.image = Image.fromarray(np.concatenate([sky(self, rows), image]))
        self.mask = Image.fromarray(np.pad(mask, ((rows, 0), (0, 0)), constant_values=SKY))
        self.brush, self.mask_brush = ImageDraw.Draw(self.image, "RGBA"), ImageDraw.Draw(self.mask)
        for _, draw, args in sorted(self.things, key=lambda thing: -thing[0]):
            draw(self, *args)
        for x, y in self.rng.random((90, 2)).tolist() if self.weather is RAIN else ():
            streak = [(x * self.width, y * self.height), ((x - .008) * self.width, (y + .06) * self.height)]
            self.brush.line(streak, fill=(205, 210, 215, 60), width=1 + self.height // 400)


@lru_cache
def circle(corners, start=0.0):
    """The corners of a regular polygon: [(cosine, sine)]."""
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    return [(math.cos(a), math.sin(a)) for a in angles]


def noise(rng, rows, columns, height, width):
    """Smooth noise (height, width) float32; its grid of rows x columns is drawn the same for every size."""
    grid = Image.fromarray(rng.standard_normal((rows, columns), np.float32))
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))


def sky(s, rows):
    """-> (rows, width, 3) uint8: a gradient down to the horizon, and clouds. Smooth, so a small picture is enlarged."""
    depth = np.linspace(0, 1, 60, dtype=np.float32)[:, None, None]
    colour = np.float32(s.weather.zenith) * (1 - depth) + np.float32(s.weather.horizon) * depth
    clouds = sum(noise(s.rng, grid, grid, 60, 96) * weight for grid, weight in ((5, .5), (11, .3), (25, .2)))
    cover = np.clip((clouds + s.weather.clouds - .55) * 1.6, 0, .8)[..., None] * (s.weather.clouds > 0)
    white = np.float32(s.weather.horizon) * .6 + 100 * np.float32(s.weather.light)
    small = Image.fromarray(np.clip(colour + (white - colour) * cover, 0, 255).astype(np.uint8))
    return np.asarray(small.resize((s.width, rows), Image.Resampling.BILINEAR))


def ground(s, first_row):
    """-> (rows, width, 3) and (rows, width), uint8: the bands of the street's cross-section, and its marks."""
    y = (np.arange(first_row, s.height, dtype=np.float32)[:, None] + .5) / s.scale_y - s.vanish_y
    z = s.focal * s.eye_y / np.maximum(y, 1e-3)
    ray = (np.arange(s.width, dtype=np.float32) + .5) / s.scale_x - s.vanish_x
    x = (ray - s.focal * s.bend * z) * (z / s.focal) + s.eye_x
    edges, colours, labels, reliefs = zip(*s.bands, (None, (215, 215, 212), ROAD, 0))  # the last one is paint
    colours, labels = np.float32(colours) * np.float32(s.weather.light), np.uint8(labels)
    colours[labels == VOID] = np.float32(s.weather.horizon) * .5 + np.float32(s.weather.light) * [10, 40, 60]
    if s.weather is RAIN:  # a wet road shines with the sky
        colours[labels == ROAD] = colours[labels == ROAD] * .7 + np.float32(s.weather.horizon) * .25
    band = sum((x > edge).view(np.uint8) for edge in edges[:-2])
    pixel = .5 * SUPER * z / (s.focal * s.scale_x)  # half a final pixel in metres: narrower marks would flicker
    paint = np.zeros(x.shape, bool)
    for at, half_width, dash in s.marks:
        line = np.abs(x - at) < np.maximum(half_width, .7 * pixel)
        paint |= line & ((z + s.phase) % dash < dash / 2) if dash else line
    if s.crossing:
        paint |= (np.abs(z - s.crossing) < 1.6) & (x % 1.1 < .55)
    band[paint & (labels[band] == ROAD)] = len(labels) - 1
    colour = colours[band]
    if any(reliefs):  # stones and ripples, which the distance evens out
        bumps = np.sin(x * 19 + 2 * np.sin(z * 9)) * (np.sin(z * 14) / (1 + z / 12))
        colour *= (1 + np.float32(reliefs)[band] * bumps)[..., None]
    clear = np.exp(-z / s.weather.visibility)[..., None]
    colour = colour * clear + np.float32(s.weather.horizon) * (1 - clear)
    return np.minimum(colour, 255).astype(np.uint8), labels[band]


def horizon(s, kind, height):
    """What ends the view: hills in two rows, a wood, or a skyline (height: of the highest, in pictures)."""
    for distance in (300, 160) if kind == "hills" else (120,):
        if kind == "hills":
            tops = np.interp(np.linspace(0, 7, 40), np.arange(8), s.rng.uniform(.1, 1, 8)) * distance / 300
        else:
            tops = s.rng.uniform(.3, 1, 30 if kind == "skyline" else 90)
        columns, rows = np.linspace(-.1, 1.1, len(tops)) * s.width, (s.vanish_y - height * tops) * s.scale_y
        if kind == "skyline":  # flat roofs
            columns, rows = columns.repeat(2)[1:], rows.repeat(2)[:-1]
        outline = [(s.width * 1.1, s.vanish_y * s.scale_y + 1), (s.width * -.1, s.vanish_y * s.scale_y + 1)]
        outline += zip(columns.tolist(), rows.tolist())
        rgb, label = ((130, 126, 124), BUILDING) if kind == "skyline" else (s.pick(LEAVES), TREE)
        s.brush.polygon(outline, fill=s.ink(s.vary(rgb), distance))
        s.mask_brush.polygon(outline, fill=label)


def facade(s, x, z, dx, dz, length, height, rgb, shade, floor, bay, shop=False):
    """A wall from (x, z) along the unit vector (dx, dz), with a grid of windows, one per floor and bay."""
    def panel(u0, u1, y0, y1, *look):
        s.polygon([(x + dx * u, y, z + dz * u) for u, y in ((u0, y0), (u1, y0), (u1, y1), (u0, y1))], *look)

    panel(0, length, 0, height, rgb, BUILDING, shade)
    if z > 60:  # too far to tell windows
        return
    panel(0, length, height - .35, height, rgb, None, shade * .8)
    rows, columns = max(1, int(height / floor)), max(1, int(length / bay))
    floor, bay, glass = height / rows, length / columns, s.vary(GLASS, .4)
    if shop:
        panel(.2, length - .2, .1, floor * .86, s.vary(s.pick(CLOTHES)), None, shade * .7)
    for u in (np.arange(columns) * bay).tolist():
        if z + dz * u < NEAR:
            continue
        for y in (np.arange(rows) * floor).tolist():
            if s.vanish_y * (z + dz * u) < s.focal * (y + floor * .3 - s.eye_y):
                break  # above the picture
            lit = s.weather.lamps and s.chance(.5)
            look = (s.vary(LAMPLIGHT, .2) if lit else glass, None, 1, lit)
            if shop and y == 0:
                panel(u + bay * .12, u + bay * .88, .5, floor * .75, *look)
            else:
                if z < 20:
                    panel(u + bay * .22, u + bay * .78, y + floor * .22, y + floor * .84, WHITE, None, shade * .9)
                panel(u + bay * .27, u + bay * .73, y + floor * .27, y + floor * .8, *look)


def building(s, side, x, z0, z1, height, roof=0.0, shop=False, floor=3.2, bay=2.8, depth=10.0):
    """A box along the street from z0 to z1; roof > 0 is the height of a pitched roof on it."""
    rgb, tiles, gable = s.vary(s.pick(WALLS), .3), s.vary(s.pick(ROOFS), .2), s.chance(.5)
    street, front = 1 - side * s.sun * s.weather.sun, .88
    back = x + side * depth
    middle_x, middle_z, top = (x + back) / 2, (z0 + z1) / 2, height + roof
    if z0 > NEAR:
        facade(s, x, z0, side, 0, depth, height, rgb, front, floor, bay)
    if roof and gable:  # the gable towards the street
        s.polygon([(x, height, z0), (back, height, z0), (back, top, middle_z), (x, top, middle_z)], tiles, BUILDING,
                  front)
        s.polygon([(x, height, z0), (x, height, z1), (x, top, middle_z)], rgb, BUILDING, street)
        s.line([(x, height, z0), (x, top, middle_z), (x, height, z1)], .25, tiles, BUILDING)
    elif roof:
        s.polygon([(x, height, z0), (back, height, z0), (middle_x, top, z0)], rgb, BUILDING, front)
        s.polygon([(x, height, z0), (x, height, z1), (middle_x, top, z1), (middle_x, top, z0)], tiles, BUILDING, street)
    facade(s, x, z0, 0, 1, z1 - z0, height, rgb, street, floor, bay, shop)
    if roof and z0 < 60:
        s.plate(middle_x - .5, middle_x + .5, top - .5, top + .9, middle_z, (120, 70, 60), BUILDING)


def leaves(s, x, y, z, radius_x, radius_y, rgb, shade, corners=24):
    """A ragged patch of leaves."""
    reach = s.rng.uniform(.78, 1.2, corners).tolist()
    s.polygon([(x + radius_x * r * a, y + radius_y * r * b, z) for r, (a, b) in zip(reach, circle(corners))],
              rgb, TREE, shade)


def tree(s, x, z, height, slim=1.0):
    rgb, trunk = s.vary(s.pick(LEAVES), .4), height * s.rng.uniform(.22, .36)
    radius_y = (height - trunk) * .55
    radius_x, middle = radius_y * s.rng.uniform(.75, 1.0) * slim, height - radius_y
    s.shadow(x, z, radius_x * .9, radius_x * .7)
    s.line([(x, 0, z), (x, middle, z)], .28, (84, 66, 50), TREE)
    leaves(s, x, middle, z, radius_x, radius_y, rgb, .75)
    for a, b, light in s.rng.uniform(-.5, .5, (6 if z < 40 else 2, 3)).tolist():
        leaves(s, x + a * radius_x, middle + b * radius_y, z, radius_x * .45, radius_y * .4, rgb,
               .88 + (.12 + s.weather.sun * .5) * (b * .8 + a * s.sun) + light * .2, 12)


def conifer(s, x, z, height):
    rgb = s.vary((44, 74, 50), .3)
    s.line([(x, 0, z), (x, height * .3, z)], .25, (74, 58, 46), TREE)
    for level in (.12, .27, .42, .57, .72):
        w, y = height * .27 * (1 - level) * s.rng.uniform(.85, 1.1), height * level
        s.polygon([(x - w, y, z), (x + w, y, z), (x, min(height, y + height * .36), z)], rgb, TREE, .75 + level * .4)


def fence(s, x, z0, z1, height, rgb, kind):
    """From z0 to z1 along the street; a hedge, boards (closed), rails (you see through) or guard (a crash barrier)."""
    shade, low = 1 - math.copysign(s.sun * s.weather.sun * .6, x - s.eye_x), height * .5 if kind == "guard" else 0
    if kind in ("boards", "guard"):
        s.polygon([(x, low, z0), (x, low, z1), (x, height, z1), (x, height, z0)], rgb, FENCE, shade)
    if kind == "hedge":
        tops = zip((height + s.rng.uniform(-.15, .15, 12)).tolist(), np.linspace(z0, z1, 12).tolist())
        s.polygon([(x, 0, z0), *((x, y, z) for y, z in tops), (x, 0, z1)], s.vary(s.pick(LEAVES), .2), TREE, shade * .8)
        return
    if kind == "boards":
        for z in np.arange(max(z0, 2), z1, .7 if z0 < 20 else 2).tolist():
            s.line([(x, 0, z), (x, height, z)], .02, rgb, None, shade * .7)
        return
    if kind == "guard":
        s.line([(x, height * .75, z0), (x, height * .75, z1)], .02, rgb, None, shade * .7)
    else:
        for y in (height, height * .62, height * .25):
            s.line([(x, y, z0), (x, y, z1)], .05, rgb, FENCE, shade)
    for z in (z0, (z0 + z1) / 2):
        s.line([(x, 0, z), (x, height, z)], .09, rgb, FENCE, shade * .85)


def lamp(s, x, z, height, reach):
    """A street lamp; reach is the arm's length towards the road, 0 for a lantern on a post."""
    rgb, lit = s.vary((92, 96, 100), .3), s.weather.lamps
    s.line([(x, 0, z), (x, height, z)], .16, rgb, POLE)
    s.line([(x, 0, z), (x, 1, z)], .24, rgb, POLE)
    if reach:
        s.line([(x, height, z), (x + reach, height + .35, z)], .11, rgb, POLE)
    w, h, head_x, head_y = *((.45, .14) if reach else (.28, .35)), x + reach, height + .3
    s.plate(head_x - w, head_x + w, head_y - h, head_y + h, z, LAMPLIGHT if lit else WHITE, POLE, .85, lit)
    if lit:
        s.puddle(x + reach, z, 2.6, 2.6, LAMPLIGHT, 34, glow=True)


def telegraph_pole(s, x, z):
    s.line([(x, 0, z), (x, 7.5, z)], .22, (110, 90, 70), POLE)
    s.line([(x - .9, 6.9, z), (x + .9, 6.9, z)], .12, (110, 90, 70), POLE)


def sign(s, x, z):
    """A traffic sign of random shape on its post."""
    height, r, kind = s.rng.uniform(2.0, 2.8), s.rng.uniform(.38, .6), s.rng.integers(4)
    s.line([(x, 0, z), (x, height, z)], .09, STEEL, POLE)
    shape = (circle(16), circle(3, math.pi / 2), circle(4, math.pi / 4), circle(8, math.pi / 8))[kind]
    red, blue = (195, 28, 34), (34, 88, 180)
    rim, face = (red, red, blue, red)[kind], (WHITE, WHITE, blue, red)[kind]
    for radius, rgb, label in ((r, rim, SIGN), (r * .68, face, None)):
        s.polygon([(x + radius * a, height + radius * b, z) for a, b in shape], rgb, label)
    s.plate(x - r * .3, x + r * .3, height - r * .1, height + r * .1, z, BLACK if kind < 2 else WHITE)


def traffic_light(s, x, z):
    on = s.rng.integers(3)
    s.line([(x, 0, z), (x, 2.6, z)], .14, (70, 74, 76), POLE)
    s.plate(x - .24, x + .24, 2.3, 3.5, z, BLACK, SIGN)
    for i, rgb in enumerate(((60, 220, 110), (250, 190, 60), (240, 50, 40))):
        s.plate(x - .13, x + .13, 2.38 + .38 * i, 2.66 + .38 * i, z, rgb, None, 1 if i == on else .3, i == on)


def board(s, x0, x1, y0, y1, z, rgb):
    """A large sign with lines of text: on a gantry, over a shop."""
    w, h = x1 - x0, y1 - y0
    s.plate(x0, x1, y0, y1, z, WHITE, SIGN)
    s.plate(x0 + h * .07, x1 - h * .07, y0 + h * .07, y1 - h * .07, z, rgb)
    for y in (y0 + h * .35, y0 + h * .68):
        s.line([(x0 + w * .14, y, z), (x0 + w * s.rng.uniform(.5, .85), y, z)], h * .12, WHITE)


def gantry(s, left, right, z):
    """Signs on a bridge across the lanes."""
    top, rgb, panel = 6.6, s.vary(STEEL), s.pick(((20, 80, 160), (16, 110, 70)))
    for x in (left, right):
        s.line([(x, 0, z), (x, top, z)], .35, rgb, POLE)
    s.line([(left, top - .2, z), (right, top - .2, z)], .45, rgb, POLE)
    for share in (.08, .55):
        x = left + (right - left) * share
        board(s, x, x + (right - left) * s.rng.uniform(.28, .38), 5.2, 7.6, z, panel)


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

    s.shadow(x, z + length / 2, half * 1.15, length * .52)
    for flank in sorted((x - half, x + half), key=lambda edge: -abs(edge - s.eye_x)):
        shade = .85 + math.copysign(s.sun * s.weather.sun, flank - x)
        s.polygon([(flank, y, at(u)) for u, y in profile], rgb, CAR, shade)
        s.polygon([(flank, y, at(u)) for u, y in window], GLASS, None, .7)
        for hub in (length * .19, length * .8):
            for radius, colour in ((.34, BLACK), (.18, STEEL)):
                s.polygon([(flank, .34 + radius * b, at(hub) + radius * a) for a, b in circle(9)], colour, CAR)
    for i in sorted(range(len(profile) - 1), key=lambda i: -at(profile[i][0]) - at(profile[i + 1][0])):
        (u0, y0), (u1, y1) = profile[i], profile[i + 1]
        s.polygon([(x - half, y0, at(u0)), (x + half, y0, at(u0)), (x + half, y1, at(u1)), (x - half, y1, at(u1))],
                  GLASS if i in glass else rgb, CAR, 1.12 if abs(u1 - u0) > 2 * abs(y1 - y0) else .9)
    low, light = profile[0][1], (255, 246, 214) if oncoming else (214, 30, 30)
    s.plate(x - half, x + half, low, low + .16, z, BLACK)
    s.plate(x - .26, x + .26, .47, .6, z, WHITE)
    for edge in (x - half, x + half * .6):
        s.plate(edge, edge + half * .4, 0, low, z, BLACK, CAR)
        s.plate(edge, edge + half * .4, .9 * .68, .9 * .9, z, light, CAR, 1, s.weather.lamps)


def pedestrian(s, x, z):
    height, stride = s.rng.uniform(1.45, 1.9), s.rng.uniform(.1, .32)
    coat, trousers = s.vary(s.pick(CLOTHES)), s.vary(s.pick(CLOTHES))
    hip, neck, w = height * .5, height * .84, height * .13

    def shape(rgb, *points):
        s.polygon([(x + dx, y, z) for dx, y in points], rgb, PEDESTRIAN)

    s.shadow(x, z, .38, .25)
    for foot in (-stride, stride):
        shape(trousers, (-w * .7, hip), (w * .7, hip), (foot + .09, 0), (foot - .09, 0))
    for hand in (-1, 1):
        shape(coat, (hand * w, neck), (hand * (w + .12), hip * 1.02), (hand * (w + .02), hip))
    shape(coat, (-w, neck), (w, neck), (w * 1.05, hip * .9), (-w * 1.05, hip * .9))
    shape(s.pick(SKINS), *((.12 * a, height - .13 + .15 * b) for a, b in circle(9)))
    brow, crown = height - .08, height + .03
    shape(s.vary((60, 44, 34), .8), (-.12, brow), (.12, brow), (.08, crown), (-.08, crown))


def bicyclist(s, x, z):
    """A bicycle and its rider, on their way along the street or across it."""
    heading = s.rng.uniform(-.5, .5) if s.chance(.5) else s.rng.uniform(.7, 1.3)
    along, away = math.cos(heading) * s.pick((-1, 1)), math.sin(heading)
    coat, trousers, frame = s.vary(s.pick(CLOTHES)), s.vary(s.pick(CLOTHES)), s.vary(s.pick(PAINTS))

    def shape(rgb, *points):
        s.polygon([(x + u * along, y, z + u * away) for u, y in points], rgb, BICYCLIST)

    def tube(*points):
        s.line([(x + u * along, y, z + u * away) for u, y in points], .06, frame, BICYCLIST)

    s.shadow(x, z, .8, .4)
    for hub in (-.52, .52):
        for radius, rgb in ((.36, BLACK), (.27, (120, 120, 122))):  # the tyre, and spokes that blur into grey
            shape(rgb, *((hub + radius * a, .36 + radius * b) for a, b in circle(11)))
    tube((-.52, .36), (-.15, .85), (.38, .85), (0, .36), (-.15, .85))
    tube((.52, .36), (.36, 1.05), (.5, 1.1))
    shape(trousers, (-.3, .98), (.0, .98), (.2, .62), (.08, .2), (-.06, .22), (.0, .6))
    shape(coat, (-.32, .9), (.02, .9), (.3, 1.5), (.12, 1.62), (-.1, 1.5))
    shape(coat, (.1, 1.5), (.25, 1.46), (.5, 1.08), (.42, 1.04))
    shape(s.pick(SKINS), *((.27 + .13 * a, 1.72 + .16 * b) for a, b in circle(8)))
    shape(s.pick(PAINTS), (.12, 1.74), (.42, 1.74), (.36, 1.9), (.18, 1.9))


def photograph(s, mask):
    """-> (H, W, 3) uint8 at the final size: surfaces with their grain, a lens that blurs, a sensor's response."""
    rng, (height, width) = s.rng, mask.shape
    image = s.image.reduce(SUPER)
    grain = 1 + ROUGHNESS[mask] * noise(rng, 96, 128, height, width)
    blur = rng.uniform(0, .65) * height / 96
    photo = np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), np.float32) * grain[..., None]
    if s.weather.lamps:
        bright = Image.fromarray(np.clip(photo * 2 - 300, 0, 255).astype(np.uint8))
        photo += .6 * np.asarray(bright.filter(ImageFilter.GaussianBlur(height / 40)), np.float32)
    exposure, contrast = math.exp(rng.normal(0, .2)), rng.uniform(.7, 1.15)
    gamma = math.exp(rng.normal(-.15 * s.weather.lamps, .2))  # at night the camera lifts the shadows
    photo = (np.clip(photo * (exposure / 255), 0, 1) ** gamma - .45) * contrast + .45
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    cast, vignette = np.float32(1 + rng.normal(0, .015, 3)), 1 - rng.uniform(0, .18) * (x * x + y * y)
    photo *= cast * vignette[..., None]
    grey = photo.mean(2, keepdims=True)
    photo = grey + (photo - grey) * rng.uniform(.5, .65)  # paint is more vivid than what a camera makes of it
    # Cameras smooth the colours' noise and leave most of the brightness's.
    noisy = rng.standard_normal((height, width, 1), np.float32)
    noisy = noisy + .3 * rng.standard_normal((height, width, 3), np.float32)
    photo += rng.uniform(.004, .025) * noisy
    return np.clip(photo * 255, 0, 255).astype(np.uint8)
