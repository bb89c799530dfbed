"""data/color.py against scikit-image, the published test pairs of CIEDE2000, and the definitions in the papers."""

import numpy as np
import pytest
import torch
from skimage import color as skcolor
from skimage import metrics as skmetrics

from data import color


def images(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def corners():
    """The 27 combinations of 0, 0.5 and 1 as an image: black, white, grey and the pure colours among them."""
    levels = torch.tensor([0.0, 0.5, 1.0])
    return torch.cartesian_prod(levels, levels, levels).T.reshape(1, 3, 3, 9)


def lab_noise(reach, seed=0):
    """Random Lab with a and b in -reach..reach, in and out of sRGB's gamut."""
    lightness, a, b = images(3, 2, 40, 40, seed=seed)
    return torch.stack([100 * lightness, reach * (2 * a - 1), reach * (2 * b - 1)], 1)


def as_column(points):
    """Points (N, 3) as an image (1, 3, N, 1)."""
    return torch.as_tensor(points, dtype=torch.float32).T[None, :, :, None]


def test_rgb_to_lab_equals_skimage():
    rgb = torch.cat([images(1, 3, 60, 9), images(1, 3, 60, 9) * 0.05, corners()], 2)
    truth = skcolor.rgb2lab(rgb.double().numpy(), channel_axis=1)
    assert np.abs(color.rgb_to_lab(rgb).numpy() - truth).max() < 1e-3


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_lab_to_rgb_equals_skimage_in_and_out_of_gamut():
    lab = lab_noise(130)
    truth = skcolor.lab2rgb(lab.double().numpy(), channel_axis=1)
    result = color.lab_to_rgb(lab)
    assert np.abs(result.numpy() - truth).max() < 1e-3
    assert result.min() >= 0 and result.max() <= 1


def test_lab_round_trip():
    rgb = torch.cat([images(1, 3, 50, 9), corners()], 2)
    torch.testing.assert_close(color.lab_to_rgb(color.rgb_to_lab(rgb)), rgb, atol=1e-3, rtol=0)


@pytest.mark.parametrize("convert, values", [
    (color.rgb_to_lab, corners()),
    (color.rgb_to_lab, corners() * 3 - 1),
    (color.lab_to_rgb, color.rgb_to_lab(corners())),
    (color.lab_to_rgb, as_column([[0, 0, 0], [0, 120, -120], [100, -120, 120], [-20, 0, 0], [130, 90, 90]])),
])
def test_conversions_have_finite_gradients(convert, values):
    values = values.clone().requires_grad_()
    convert(values).square().sum().backward()
    assert values.grad.isfinite().all() and values.grad.any()


def test_autocast_changes_nothing():
    first, second = images(1, 3, 16, 16), images(1, 3, 16, 16, seed=1)

    def results():
        return (color.rgb_to_lab(first), color.lab_to_rgb(100 * first), color.ciede2000(first, second),
                color.ssim(first, second))

    expected = results()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(value, truth) for value, truth in zip(results(), expected))


@pytest.mark.parametrize("lab1, lab2, truth", [  # from the table of Sharma, Wu, Dalal 2005
    ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000),
    ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.49, -0.001), (50, -2.49, 0.0010), 7.1792),  # hues 180 degrees apart, and a little more
    ((50, 2.49, -0.001), (50, -2.49, 0.0011), 7.2195),
    ((50, -0.001, 2.49), (50, 0.0010, -2.49), 4.8045),
    ((50, -0.001, 2.49), (50, 0.0011, -2.49), 4.7461),
    ((50, 2.5, 0), (50, 0, -2.5), 4.3065),
    ((50, 2.5, 0), (61, -5, 29), 22.8977),
    ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
])
def test_ciede2000_of_published_pairs(lab1, lab2, truth):
    for first, second in ((lab1, lab2), (lab2, lab1)):
        assert color.ciede2000(as_column([first]), as_column([second])).item() == pytest.approx(truth, abs=1e-4)


@pytest.mark.parametrize("reach", [0.01, 1, 20, 100])  # from nearly grey, where hues are anything, to vivid
def test_ciede2000_equals_skimage(reach):
    lab1, lab2 = lab_noise(reach, seed=1), lab_noise(reach, seed=2)
    truth = skcolor.deltaE_ciede2000(lab1.double().numpy(), lab2.double().numpy(), channel_axis=1)
    assert np.abs(color.ciede2000(lab1, lab2).numpy() - truth).max() < 1e-3
    assert not color.ciede2000(lab1, lab1).any()


@pytest.mark.parametrize("noise", [0.003, 0.1, 1])
def test_psnr_and_ssim_equal_skimage(noise):
    rows = torch.linspace(0, 1, 40).view(1, 1, 40, 1)
    truth = (rows * images(3, 3, 1, 1) + 0.1 * images(3, 3, 40, 33)).clamp(0, 1)  # flat enough to cancel badly
    prediction = (truth + noise * (images(3, 3, 40, 33, seed=1) - 0.5)).clamp(0, 1)
    psnr, ssim = color.psnr(prediction, truth), color.ssim(prediction, truth)
    for i, (x, y) in enumerate(zip(prediction.double().numpy(), truth.double().numpy())):
        assert psnr[i].item() == pytest.approx(skmetrics.peak_signal_noise_ratio(y, x, data_range=1), abs=1e-3)
        expected = skmetrics.structural_similarity(
            y, x, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
        assert ssim[i].item() == pytest.approx(expected, abs=1e-4)


def test_colorfulness_follows_its_definition():
    rgb = images(2, 3, 12, 10)
    red, green, blue = 255 * rgb[1].double().numpy()
    rg, yb = red - green, (red + green) / 2 - blue
    expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert color.colorfulness(rgb)[1].item() == pytest.approx(expected, rel=1e-5)
    assert color.colorfulness(rgb[:, :1].expand(-1, 3, -1, -1)).max() < 1e-3


def test_gradient_energy_of_ramp_and_of_blur():
    ramp = (0.02 * torch.arange(30.0) + 0.01 * torch.arange(20.0)[:, None]).expand(1, 3, 20, 30)
    assert color.gradient_energy(ramp).item() == pytest.approx(0.02**2 + 0.01**2, rel=1e-4)
    sharp = images(1, 3, 32, 32)
    assert color.gradient_energy(torch.nn.functional.avg_pool2d(sharp, 3, 1)) < color.gradient_energy(sharp) / 4
