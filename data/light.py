"""Turn the surface numbers of a street into a photograph: places, textures, light, haze and camera."""
import numpy as np
from PIL import Image, ImageFilter

from data.street import (FACADE, GLASS, GROUND, LAMP, LAMPLIGHT, LEAF, PANE, RAIN, ROAD, SHOP, SUPER, VOID, octaves)

CENTRE = slice(SUPER // 2, None, SUPER)  # the samples at the pixels' centres
GRAIN, CLOUDS, UNEVEN = (.5, .7, 1, 1, .8, .6, .5), (.5, 1, .8, .5, .3), (0, 0, 0, 0, 0, 0, 1)  # weights of octaves


def texture(weights, u, v):
    """Noise of standard deviation 1 at these places; it repeats after 256."""
    return octaves(7, 256, weights).take((v.astype(np.int32) & 255) * 256 + (u.astype(np.int32) & 255))


def column(values):
    """Red, green and blue, to be multiplied with (3, ...) arrays."""
    return np.float32(values)[:, None]


def locate(s, table, numbers, rows, columns):
    """The places (x, y, z) in metres of the surfaces at these samples."""
    across, down = np.float32((columns + .5 - s.left) / s.across), np.float32((rows + .5 - s.top) / s.down)
    z = np.where(table[4][numbers] == GROUND, s.eye_y / np.maximum(down, 1e-4), table[7][numbers])
    side = np.flatnonzero(table[10][numbers] > 0)  # their x is known: solve bend z^2 - across z + x - eye_x = 0
    x, ray = table[5][numbers[side]] - s.eye_x, across[side]
    root = np.sqrt(np.maximum(ray * ray - 4 * s.bend * x, 0))
    z[side] = np.clip(2 * x / (ray + np.where(x > 0, root, -root) + 1e-9), .5, 400)
    return (across - s.bend * z) * z + s.eye_x, s.eye_y - down * z, z


def windows(s, wall, number, shop, u, v):
    """Paint panes, frames and sills on samples of façades -> (colours, which samples shine). u, v: in bays, floors."""
    bay, floor = np.floor(u), np.floor(v)
    across, up, shop = u - bay - .5, v - floor - .5, shop & (v < 1)
    chance = texture(UNEVEN, bay * 7 + number * 3, floor * 5 + number)
    edge = np.maximum(np.abs(across) / np.where(shop, .45, .24 + .04 * texture(UNEVEN, number * 11, number * 17)),
                      np.abs(up + .08 * shop) / np.where(shop, .34, .3))
    bars = ((np.abs(across) < .015) | (np.abs(up - .1) < .012)) & ~shop
    wall = wall * np.where(v - floor < .05, .86, 1)
    awning = np.flatnonzero(shop & (up > .28) & (up < .44))
    wall[:, awning] = wall.take(awning, 1)[[2, 0, 1]] * .6
    frame = np.flatnonzero((edge < 1.2) & ~shop | (up < -.3) & (up > -.36) & (np.abs(across) < .3))
    wall[:, frame] = wall.take(frame, 1) * .35 + 130
    lit = (chance > .3) & s.weather.lamps
    pane = np.where(lit, column(LAMPLIGHT) * (.7 + .15 * chance),
                    column(PANE) * (.9 + .3 * chance) + column(s.weather.zenith) * (.15 + .35 * np.clip(chance, 0, 1)))
    return np.where((edge < 1) & ~bars, pane, wall), (edge < 1) & ~bars & lit


def paint(s, table, number, x, y, z):
    """(textured colours of samples (3, N), which of them shine)."""
    kind, at_x, at_y, at_z, width, height = (values[number] for values in table[4:10])
    ground, leaf, facade = kind == GROUND, kind == LEAF, (kind == FACADE) | (kind == SHOP)
    u, v, near = np.where(ground, x, x + z), np.where(ground, z, y), 1 / (1 + z / 25)
    fine, coarse = texture(GRAIN, u * 24, v * 24), texture(GRAIN, u * 1.7 + 50, v * 1.7)
    tone = 1 + near * (.07 * (fine + coarse) + leaf * (.10 * fine + .16 * coarse))
    p, q = (u - np.where(ground, 0, at_x + at_z)) / width, (v - at_y) / height
    tone[leaf] *= np.clip(.85 + .3 * q[leaf] + (.1 + .6 * s.weather.sun) * p[leaf] * s.sun, .4, 1.6)
    joint = (width < 99) & ~leaf & ~facade & (np.minimum(np.abs(p - np.rint(p)), np.abs(q - np.rint(q))) < .07)
    tone[joint] *= 1 - .3 * np.clip(2 - 6 * z[joint] / s.across / np.minimum(width[joint], height[joint]), 0, 1)
    tone[kind == GLASS] *= 1 + 1.5 * np.clip(y[kind == GLASS] - 1, 0, 1)
    tone *= np.where(ground | leaf, 1, .72 + .28 * np.clip(y, 0, 1))  # low parts get less light
    rgb, shines = table[:3].take(number, 1), (kind == LAMP) & s.weather.lamps
    wall = np.flatnonzero(facade)
    rgb[:, wall], shines[wall] = windows(s, rgb.take(wall, 1), number[wall], kind[wall] == SHOP, p[wall], q[wall])
    return rgb * tone, shines


def lamplight(s, x, y, z):
    """The light (3, N) that lamps and headlights, also the camera car's, add at these places."""
    beam = np.exp(-((x - s.eye_x) / (2 + .16 * z)) ** 2 - (y / (1.2 + .03 * z)) ** 2) / (1 + (z / 16) ** 2)
    light = column([.5, .48, .4]) * beam
    for at_x, at_y, at_z, rgb, reach in s.lights:
        distance = ((x - at_x) ** 2 + (y - at_y) ** 2 + (z - at_z) ** 2) / reach ** 2
        light += column(rgb) / 255 * (.9 / (1 + distance) ** 2)
    return light


def each(planes, method, *args):
    """Call a method of Pillow's images on each of three planes, float32."""
    return np.stack([np.asarray(getattr(Image.fromarray(plane), method)(*args)) for plane in planes])


def sky(s):
    """The sky (3, height, width): a gradient down to the horizon, clouds and the sun's halo."""
    zenith, low, light = (column(c)[..., None] for c in (s.weather.zenith, s.weather.horizon, s.weather.light))
    depth, x = np.linspace(0, 1, 60, dtype=np.float32)[:, None], np.linspace(-1, 1, 96, dtype=np.float32)
    start, stretch = s.rng.uniform(0, 256), s.rng.uniform(1, 3)
    clouds = texture(CLOUDS, *np.broadcast_arrays(start + 60 * x * (1.3 - depth), 40 * stretch * depth))
    colour = zenith + (low - zenith) * depth ** .8
    white = (low * .7 + 90 * light) * (1 - .35 * np.clip(clouds - .3, 0, .8))
    colour = colour + (white - colour) * np.clip((clouds * .7 + s.weather.clouds - .55) * 2, 0, .85) * (
        s.weather.clouds > 0)
    colour += low * (s.weather.sun * np.exp(-((x - s.sun * 1.1) ** 2 + (1 - depth) ** 2) * 3))
    rows = int(np.ceil(s.top))
    return np.pad(each(colour, "resize", (s.width, rows)), ((0, 0), (0, s.height - rows), (0, 0)), mode="edge")


def light(s, numbers):
    """The light that reaches the lens, float32 (3, H, W) at the final size; 255 is white paper in full light."""
    table, shape = np.float32(s.rows).T.copy(), (s.height // SUPER, s.width // SUPER)
    pixels = numbers[CENTRE, CENTRE]
    rows, columns = np.indices(shape).reshape(2, -1) * SUPER + SUPER // 2
    x, y, z = locate(s, table, pixels.ravel(), rows, columns)
    shade = np.asarray(s.shade.filter(ImageFilter.GaussianBlur(shape[0] / 160)), np.float32).ravel() / 255
    power = column(s.weather.light) * (1 - shade * (table[4][pixels.ravel()] == GROUND))
    if s.weather.lamps:
        power += lamplight(s, x, y, z)
    ripples = np.clip(1 + .2 * texture(GRAIN, x * 2, z * 6), .3, 1.6).reshape(shape)
    seen = np.flatnonzero(numbers > 0)
    number, (rows, columns) = numbers.ravel()[seen].astype(np.intp), np.divmod(seen.astype(np.int32), s.width)
    x, y, z = locate(s, table, number, rows, columns)
    rgb, shines = paint(s, table, number, x, y, z)
    clear = np.exp(-z / s.weather.visibility)
    photo, pixel = sky(s), rows // SUPER * shape[1] + columns // SUPER
    for plane, colour, light, far in zip(photo, rgb, power, s.weather.horizon):
        colour *= np.where(shines, 1.15, light[pixel])
        plane.ravel()[seen] = far + (colour - far) * clear
    photo, label = each(photo, "reduce", SUPER), table[3][pixels]
    wet = .75 * (label == VOID) + .25 * (label == ROAD) * (s.weather is RAIN)  # water and wet roads mirror
    mirrored = photo[:, np.clip(2 * s.top / SUPER - np.arange(shape[0]), 0, shape[0] - 1).astype(int)]
    return photo + (mirrored * ripples - photo) * wet


def photograph(s, numbers):
    """The photograph (H, W, 3) uint8: lens blur and glow, an exposure without black areas, sensor noise."""
    rng, photo = s.rng, light(s, numbers) / 255
    _, height, width = photo.shape
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    photo *= column(1 + rng.normal(0, .02, 3))[..., None] * (1 - rng.uniform(0, .18) * (x * x + y * y))
    target, gain = rng.uniform(*((72, 112) if s.weather.lamps else (92, 148))) / 255, 1.0
    for _ in range(4):  # find the gain that gives the target mean
        gain *= target / (1 - np.exp(-gain * photo)).mean()
    photo = 1 - np.exp(-gain * photo)
    photo = target + (photo - target) * rng.uniform(.9, 1.35)
    grey = photo.mean(0)
    photo = np.clip(grey + (photo - grey) * rng.uniform(.75, 1.15), 0, 1)
    image = Image.fromarray(np.uint8(photo * 255).transpose(1, 2, 0))
    glow = image.point(lambda value: max(0, 3 * value - 510)) if s.weather.lamps else Image.new("RGB", image.size)
    glow = .5 * np.asarray(glow.filter(ImageFilter.GaussianBlur(height / 30 * s.weather.lamps)), np.float32)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, .55) * (height / 96) ** .5))
    # Cameras remove most noise of colours, but little noise of brightness.
    noise = rng.standard_normal((height, width, 1), np.float32)
    noise = noise + .3 * rng.standard_normal((height, width, 3), np.float32)
    photo = np.asarray(image, np.float32) + glow + rng.uniform(1, 6) * noise
    return np.uint8(np.clip(photo, 0, 255))
