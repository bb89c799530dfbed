"""From the numbers of a street's surfaces to a photograph: places, textures, light, haze and camera, for all samples
at once."""
import numpy as np
from PIL import Image, ImageFilter

from data.street import (AIR, FACADE, GLASS, GLOW, GROUND, LAMPLIGHT, LEAF, PANE, RAIN, ROAD, SHOP, SUPER, VOID,
                         octaves)

WHITE_NOISE, ROUGH = (0, 0, 0, 0, 0, 0, 1), (.5, .7, 1, 1, .8, .6, .5)  # weights of octaves


def texture(weights, u, v):
    """Noise of standard deviation 1 at these places; it repeats after 256."""
    return octaves(7, 256, weights)[v.astype(np.int32) & 255, u.astype(np.int32) & 255]


def locate(s, numbers, table):
    """Where each sample's surface is -> x, y, z in metres, float32 (height, width)."""
    *_, at_x, _, at_z, _, _, side = table
    across = ((np.arange(s.width, dtype=np.float32) + .5 - s.left) / s.across)[None]
    down = ((np.arange(s.height, dtype=np.float32) + .5 - s.top) / s.down)[:, None]
    z = at_z[numbers]
    rows, columns = np.nonzero(side[numbers])  # x is known: bend z^2 - across z + (x - eye_x) = 0
    x, ray = at_x[numbers[rows, columns]] - s.eye_x, across[0, columns]
    root = np.sqrt(np.maximum(ray * ray - 4 * s.bend * x, 0))
    z[rows, columns] = np.clip(2 * x / (ray + np.where(x > 0, root, -root) + 1e-9), .5, 400)
    ground = (table[4] == GROUND)[numbers]
    z = np.where(ground, s.eye_y / np.maximum(down, 1e-4), z)
    return (across - s.bend * z) * z + s.eye_x, s.eye_y - down * z, z


def windows(s, rgb, glow, at, numbers, table, u, v):
    """Paint panes, frames, sills and cornices on the samples `at` of façades; u, v: in bays and floors."""
    number = numbers[at]
    shop = (table[4] == SHOP)[number] & (v < 1)
    column, row = np.floor(u), np.floor(v)
    f, g = u - column - .5, v - row - .5
    chance = texture(WHITE_NOISE, column * 7 + number * 3, row * 5 + number)
    form = texture(WHITE_NOISE, number * 11, number * 17)
    a = np.abs(f) / np.where(shop, .45, .24 + .04 * form)
    b = np.abs(g + .08 * shop) / np.where(shop, .34, .3)
    edge = np.maximum(a, b)
    bars = (np.abs(f) < .015) | (np.abs(g - .1) < .012)
    wall = rgb[(slice(None), *at)] * np.where(v % 1 < .05, .86, 1)
    fascia = shop & (g > .28) & (g < .44)
    wall = np.where(fascia, np.roll(wall, 1, 0) * .6, wall)
    sill = (g < -.3) & (g > -.36) & (a < 1.15) & ~shop
    frame = ((edge < 1.2) & ~shop) | sill
    wall = np.where(frame, wall * .35 + 130, wall)
    lit = (chance > .3) & s.weather.lamps
    shine = np.float32(s.weather.zenith)[:, None] * (.15 + .35 * np.clip(chance, 0, 1))
    pane = np.float32(PANE)[:, None] * (.9 + .3 * chance) + shine
    pane = np.where(lit, np.float32(LAMPLIGHT)[:, None] * (.7 + .15 * chance), pane)
    glass = (edge < 1) & ~(bars & ~shop)
    rgb[(slice(None), *at)] = np.where(glass, pane, wall)
    glow[at] = glass & lit


def paint(s, numbers, table, x, y, z):
    """Colours of the surfaces with their textures -> float32 (3, height, width), and where they glow by themselves."""
    _, _, _, label, material, at_x, at_y, at_z, wide, high, _ = table
    kind, rgb = material[numbers], table[:3][:, numbers]
    ground, leaf, facade = kind == GROUND, kind == LEAF, (kind == FACADE) | (kind == SHOP)
    glow = kind == GLOW
    u, v = np.where(ground, x, x + z), np.where(ground, z, y)
    near = 1 / (1 + z / 25)
    fine, coarse = texture(ROUGH, u * 24, v * 24), texture(ROUGH, u * 1.7 + 50, v * 1.7)
    tone = 1 + near * (.07 * fine + .07 * coarse)
    tone += leaf * near * (.10 * fine + .16 * coarse)
    width, height = wide[numbers], high[numbers]
    samples = np.nonzero((width > 0) & (kind != AIR))
    w, h, number = width[samples], height[samples], numbers[samples]
    p = (u[samples] - np.where(ground[samples], 0, at_x[number] + at_z[number])) / w
    q = (v[samples] - at_y[number]) / h
    joint = np.minimum(np.abs(p - np.round(p)), np.abs(q - np.round(q))) < .07
    visible = np.clip(2 - 6 * z[samples] / s.across / np.minimum(w, h), 0, 1)
    crown = leaf[samples]
    plain = ~(crown | facade[samples])
    tone[samples] *= np.where(crown, np.clip(.85 + .3 * q + (.1 + .6 * s.weather.sun) * p * s.sun, .4, 1.6),
                              1 - .3 * joint * visible * plain)
    walls = facade[samples]
    windows(s, rgb, glow, tuple(i[walls] for i in samples), numbers, table, p[walls], q[walls])
    pane = kind == GLASS
    tone = np.where(pane, 1 + np.clip(y - 1, 0, 1) * 1.5, tone)
    tone *= np.where(ground | leaf, 1, .72 + .28 * np.clip(y, 0, 1))  # less light reaches what is low
    return rgb * tone, glow


def lamplight(s, x, y, z):
    """What lamps and headlights, ours too, add to the light at these places -> float32 (3, H, W)."""
    light = np.zeros((3, *x.shape), np.float32)
    for at_x, at_y, at_z, rgb, reach in s.lights:
        distance = ((x - at_x) ** 2 + (y - at_y) ** 2 + (z - at_z) ** 2) / reach ** 2
        light += np.float32(rgb)[:, None, None] / 255 * (.9 / (1 + distance) ** 2)
    beam = np.exp(-((x - s.eye_x) / (2 + .16 * z)) ** 2 - (y / (1.2 + .03 * z)) ** 2) / (1 + (z / 16) ** 2)
    return light + np.float32([1, .95, .8])[:, None, None] * (.75 * beam)


def sky(s):
    """-> float32 (3, height, width): a gradient down to the horizon, clouds and the sun's halo."""
    depth = np.linspace(0, 1, 60, dtype=np.float32)[:, None]
    zenith, low, light = (np.float32(c)[:, None, None] for c in (s.weather.zenith, s.weather.horizon, s.weather.light))
    colour = zenith + (low - zenith) * depth ** .8
    grid = np.stack([np.asarray(Image.fromarray(s.rng.standard_normal((n, n), np.float32)).resize(
        (96, 60), Image.Resampling.BICUBIC)) for n in (5, 11, 25, 40)])
    clouds = np.tensordot(np.float32([.5, .3, .2, .1]), grid, 1)
    cover = np.clip((clouds + s.weather.clouds - .55) * 2, 0, .85) * (s.weather.clouds > 0)
    white = (low * .55 + 110 * light) * (1 - .5 * np.clip(clouds - .1, 0, .6))
    colour = colour * np.ones((1, 1, 96), np.float32)
    colour += (white - colour) * cover
    across = np.linspace(0, ASPECT_WIDE, 96, dtype=np.float32) - (.5 + .6 * s.sun) * ASPECT_WIDE
    colour += low * (s.weather.sun * np.exp(-(across ** 2 + (1 - depth) ** 2) * 3))
    rows = int(np.ceil(s.top))
    wide = [np.asarray(Image.fromarray(c).resize((s.width, rows), Image.Resampling.BILINEAR)) for c in colour]
    return np.pad(np.stack(wide), ((0, 0), (0, s.height - rows), (0, 0)), mode="edge")


ASPECT_WIDE = 4 / 3


def enlarge(values):
    """(..., H, W) -> (..., SUPER H, SUPER W)"""
    return values.repeat(SUPER, -2).repeat(SUPER, -1)


def light(s, numbers):
    """-> float32 (3, H, W) at the final size: what reaches the lens; 255 is white paper in full light."""
    table = np.float32(s.rows).T
    x, y, z = locate(s, numbers, table)
    rgb, glow = paint(s, numbers, table, x, y, z)
    kind, label = table[4][numbers], table[3][numbers]
    centre = slice(SUPER // 2, None, SUPER)
    ambient = np.float32(s.weather.light)[:, None, None]
    blur = s.height / SUPER / 96 * .6
    shade = np.asarray(s.shade.filter(ImageFilter.GaussianBlur(blur)), np.float32) / 255
    shade = 1 - shade * (kind == GROUND)[centre, centre]
    power = ambient * shade
    if s.weather.lamps:
        power = power + lamplight(s, x[centre, centre], y[centre, centre], z[centre, centre])
    clear = np.exp(-z / s.weather.visibility)
    haze = np.float32(s.weather.horizon)[:, None, None]
    clear = np.where(glow, np.sqrt(clear), clear)
    rgb *= np.where(glow, 1.15, enlarge(power)) * clear
    rgb += haze * (1 - clear)
    rgb = np.where(kind == AIR, sky(s), rgb)
    small = np.stack([np.asarray(Image.fromarray(c).reduce(SUPER)) for c in rgb])
    wet = .75 * (label == VOID) + .35 * ((label == ROAD) if s.weather is RAIN else 0)
    wet = wet[centre, centre] if np.ndim(wet) else wet
    if np.any(wet):  # water and wet roads mirror what stands above them
        rows = np.arange(s.height // SUPER)
        mirror = np.clip(2 * s.top / SUPER - rows, 0, len(rows) - 1).astype(int)
        ripple = np.clip(1 + .2 * texture(ROUGH, x[centre, centre] * 2, z[centre, centre] * 6), .3, 1.6)
        small += (small[:, mirror] * ripple - small) * wet
    return small


def photograph(s, numbers):
    """-> (H, W, 3) uint8: a lens that blurs and glows, an exposure that leaves nothing black, a sensor's noise."""
    rng, photo = s.rng, light(s, numbers) / 255
    _, height, width = photo.shape
    blur, bloom, target = rng.uniform(0, .6) * height / 96, height / 30, rng.uniform(78, 128) / 255
    if s.weather.lamps:
        target *= .8

    def blurred(image, radius):
        return np.stack([np.asarray(Image.fromarray(np.clip(c * 255, 0, 255).astype(np.uint8)).filter(
            ImageFilter.GaussianBlur(radius)), np.float32) for c in image]) / 255

    photo = blurred(photo / 1.3, blur) * 1.3
    photo += .7 * blurred(np.clip(photo - .8, 0, 1), bloom)
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    cast, vignette = np.float32(1 + rng.normal(0, .02, (3, 1, 1))), 1 - rng.uniform(0, .18) * (x * x + y * y)
    photo *= cast * vignette
    gain = 1.0
    for _ in range(4):  # towards the target: a curve that rolls off before it clips
        gain *= target / (1 - np.exp(-gain * photo[:, ::4, ::4])).mean()
    photo = 1 - np.exp(-gain * photo)
    contrast = rng.uniform(1.0, 1.35)
    photo = np.clip(photo, 0, 1)
    mean = photo.mean()
    photo = mean + (photo - mean) * contrast
    grey = photo.mean(0)
    photo = grey + (photo - grey) * rng.uniform(1.0, 1.3)
    # Cameras smooth the colours' noise and leave most of the brightness's.
    noisy = rng.standard_normal((height, width), np.float32) + .3 * rng.standard_normal((3, height, width), np.float32)
    photo += rng.uniform(.004, .02) * noisy
    return np.clip(photo * 255, 0, 255).astype(np.uint8).transpose(1, 2, 0)
