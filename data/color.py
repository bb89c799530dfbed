"""Colour science on batches: sRGB and CIELAB, and metrics of colour and sharpness.

Images are (B, 3, H, W) float: sRGB in [0, 1], or Lab with L in [0, 100] and a, b in CIE units (about -110 to 110).
Autocast and TF32 lower the precision of matrix products and convolutions: this file uses elementwise sums."""
import math

import torch

# Linear sRGB to XYZ, and XYZ of the D65 white, 2 degree observer: IEC 61966-2-1, with the digits scikit-image uses.
XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
RGB_FROM_XYZ = torch.tensor(XYZ_FROM_RGB, dtype=torch.float64).inverse().tolist()
WHITE = (0.95047, 1.0, 1.08883)


def rgb_to_lab(rgb):
    """sRGB (B, 3, H, W) in [0, 1] to CIELAB (B, 3, H, W); differentiable, with finite gradients everywhere."""
    return linear_to_lab(rgb_to_linear(rgb))


def rgb_to_linear(rgb):
    return piecewise(rgb.float(), 0.04045, lambda v: ((v + 0.055) / 1.055) ** 2.4, lambda v: v / 12.92)


def linear_to_lab(linear):
    xyz = [value / white for value, white in zip(matmul(XYZ_FROM_RGB, linear.unbind(1)), WHITE)]
    x, y, z = (piecewise(v, 0.008856, lambda v: v ** (1 / 3), lambda v: 7.787 * v + 16 / 116) for v in xyz)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab):
    """CIELAB (B, 3, H, W) to sRGB (B, 3, H, W) in [0, 1]; differentiable, with finite gradients everywhere. Colours
    outside sRGB are clipped channel by channel: a clipped channel passes no gradient, the others still do."""
    lightness, a, b = lab.float().unbind(1)
    y = (lightness + 16) / 116
    xyz = [y + a / 500, y, (y - b / 200).clamp(min=0)]  # no light has a negative Z
    xyz = [white * piecewise(v, 0.2068966, lambda v: v**3, lambda v: (v - 16 / 116) / 7.787)
           for v, white in zip(xyz, WHITE)]
    linear = torch.stack(matmul(RGB_FROM_XYZ, xyz), 1).clamp(0, 1)
    return piecewise(linear, 0.0031308, lambda v: 1.055 * v ** (1 / 2.4) - 0.055, lambda v: 12.92 * v)


def piecewise(value, threshold, curve, line):
    """`curve` above the threshold, `line` below. The curve gets no value below it: a root's infinite slope times zero
    would make the gradient NaN. On a CPU torch.lerp takes a third of torch.where's time."""
    return torch.lerp(line(value), curve(value.clamp(min=threshold)), (value > threshold).float())


def matmul(matrix, channels):
    return [sum(weight * channel for weight, channel in zip(row, channels)) for row in matrix]


def ciede2000(lab1, lab2):
    """Perceived difference of two images in CIELAB, (B, 3, H, W) each: (B, H, W); 1 is just noticeable. Sharma, Wu,
    Dalal 2005, "The CIEDE2000 color-difference formula". No loss: it has no gradient at equal or grey colours."""
    l1, a1, b1 = lab1.float().unbind(1)
    l2, a2, b2 = lab2.float().unbind(1)

    def saturation(chroma):  # 0 for greys, 1 for vivid colours
        cube = (chroma / 25) ** 3
        seventh = cube * cube * (chroma / 25)  # a power of 7 takes five times as long
        return (seventh / (seventh + 1)).sqrt()

    stretch = 1.5 - 0.5 * saturation((torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2)
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % (2 * math.pi), torch.atan2(b2, a2) % (2 * math.pi)
    # Hues are compared along the shorter arc. 1e-6: exact opposites count as not wrapped, in spite of rounding.
    delta_hue = h2 - h1
    far = (delta_hue.abs() > math.pi + 1e-6).float()
    delta_hue = delta_hue - 2 * math.pi * far * delta_hue.sign()
    hue = ((h1 + h2) / 2 + math.pi * far) % (2 * math.pi)
    chroma = (c1 + c2) / 2
    offset = ((l1 + l2) / 2 - 50) ** 2
    t = (1 - 0.17 * torch.cos(hue - math.radians(30)) + 0.24 * torch.cos(2 * hue)
         + 0.32 * torch.cos(3 * hue + math.radians(6)) - 0.20 * torch.cos(4 * hue - math.radians(63)))
    delta_l = (l2 - l1) / (1 + 0.015 * offset / (20 + offset).sqrt())
    delta_c = (c2 - c1) / (1 + 0.045 * chroma)
    delta_h = 2 * (c1 * c2).sqrt() * torch.sin(delta_hue / 2) / (1 + 0.015 * chroma * t)
    angle = math.radians(60) * torch.exp(-(((hue - math.radians(275)) / math.radians(25)) ** 2))
    rotation = -2 * saturation(chroma) * torch.sin(angle)
    return (delta_l**2 + delta_c**2 + delta_h**2 + rotation * delta_c * delta_h).clamp(min=0).sqrt()


def psnr(prediction, truth):
    """Peak signal-to-noise ratio in dB of images (B, C, H, W) in [0, 1]: (B,). Infinite where they are equal."""
    return -10 * (prediction.float() - truth.float()).square().mean((1, 2, 3)).log10()


def ssim(prediction, truth):
    """Structural similarity of images (B, C, H, W) in [0, 1], H and W at least 11: (B,), 1 where they are equal. Wang,
    Bovik, Sheikh, Simoncelli 2004: Gaussian windows of 11 pixels, sigma 1.5, inside the image; per channel."""
    x, y = prediction.float(), truth.float()
    mean_x, mean_y, squares, product = (blur(v) for v in (x, y, x * x + y * y, x * y))
    means, mean_squares = mean_x * mean_y, mean_x**2 + mean_y**2
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * means + c1) * (2 * (product - means) + c2)
                  / ((mean_squares + c1) * (squares - mean_squares + c2)))
    return similarity.mean((1, 2, 3))


def blur(image, radius=5, sigma=1.5):
    """Gaussian blur without padding, as a sum of shifted images. A convolution would run in TF32 or bf16, which is too
    coarse for ssim: it computes variances as differences of these results."""
    taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-radius, radius + 1)]
    for axis in (2, 3):
        length = image.shape[axis] - 2 * radius
        blurred = torch.zeros_like(image.narrow(axis, 0, length))
        for i, tap in enumerate(taps):
            blurred.add_(image.narrow(axis, i, length), alpha=tap / sum(taps))
        image = blurred
    return image


def colorfulness(rgb):
    """Colourfulness of images (B, 3, H, W) in [0, 1]: (B,), on the paper's scale, from 0 (grey) to 109 (extremely).
    Hasler, Süsstrunk 2003, "Measuring colourfulness in natural images", the metric M(3)."""
    red, green, blue = (255 * rgb.float()).flatten(2).unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue])
    means = opponents.mean(2, keepdim=True)
    spread = (opponents - means).square().mean(2).sum(0).sqrt()  # var takes twice as long
    return spread + 0.3 * means.squeeze(2).norm(dim=0)


def gradient_energy(rgb):
    """Mean squared gradient of the luma (Rec. 601) of images (B, 3, H, W): (B,). A blurred image has little."""
    red, green, blue = rgb.float().unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return sum(luma.diff(dim=axis).square().mean((1, 2)) for axis in (1, 2))
