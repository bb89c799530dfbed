"""The networks: equal to torchvision's where it has the same one, any input size, skips that can be left out."""
import pytest
import torch
import torch.nn.functional as F
import torchvision

from evaluation.classification import class_probabilities
from models.classifier import ResNet
from models.fcn import ResNetFCN32, bilinear_kernel
from models.normalize import normalize
from models.resnet9 import ResNet9
from models.unet import UNet
from training.checkpoint import Predictor, for_inference


@pytest.mark.parametrize("depth", ["resnet18", "resnet34"])
def test_resnet_equals_torchvision(depth):
    theirs = torchvision.models.get_model(depth, weights=None).double().eval()
    ours = ResNet(1000, depth).double().eval()
    ours.load_state_dict(theirs.state_dict())  # same names, same shapes, nothing missing
    images, preset = torch.rand(2, 3, 96, 70).double(), torchvision.models.get_model_weights(depth).DEFAULT.transforms()
    with torch.no_grad():
        normalized = torchvision.transforms.functional.normalize(images, preset.mean, preset.std)
        torch.testing.assert_close(ours(images), theirs(normalized), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (96, 128), (33, 47), (1, 1), (5, 200)])
@pytest.mark.parametrize("network", [UNet(3, 5, width=4), UNet(3, 5, width=4, skips=False), UNet(3, 5, 4, depth=2),
                                     ResNetFCN32(5, width=4)], ids=["unet", "no skips", "shallow", "fcn32"])
def test_any_size(network, size):
    with torch.no_grad():
        assert network.eval()(torch.randn(2, 3, *size)).shape == (2, 5, *size)


def test_padding_leaves_the_image_in_place():
    """A U-Net on an image that needs padding agrees with itself on the image padded beforehand."""
    network = UNet(3, 4, width=4).eval()
    image = torch.randn(1, 3, 30, 41)
    with torch.no_grad():
        padded = network(F.pad(image, (0, 7, 0, 2), mode="replicate"))
        torch.testing.assert_close(network(image), padded[..., :30, :41])


@pytest.mark.parametrize("skips", [True, False])
def test_what_is_lost_at_the_bottleneck_can_only_come_by_the_skips(skips):
    network = UNet(1, 1, width=4, skips=skips).eval()
    network.down[-1].register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    with torch.no_grad():
        one, other = network(torch.rand(2, 1, 32, 32))
    assert torch.equal(one, other) is not skips


def test_a_mirrored_network_sees_an_image_and_its_mirror_image_alike():
    network, images = ResNet(5, width=4, small_stem=True).eval(), torch.rand(3, 3, 32, 32)
    predictor, alone = (Predictor(network, {"mirror": mirror}, torch.device("cpu"), torch.float32)
                        for mirror in (True, False))
    with torch.no_grad():
        probabilities, mirrored = (class_probabilities(predictor, view) for view in (images, images.flip(3)))
        once = class_probabilities(alone, images)
    torch.testing.assert_close(probabilities, mirrored)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(3))
    assert not torch.allclose(probabilities, once)


def test_fcn_starts_as_bilinear_interpolation():
    network = ResNetFCN32(3, width=4).eval()
    scores = torch.randn(1, 3, 4, 5)
    with torch.no_grad():
        enlarged = network.upsample(scores)
    expected = F.interpolate(scores, scale_factor=32, mode="bilinear")
    torch.testing.assert_close(enlarged[..., 16:-16, 16:-16], expected[..., 16:-16, 16:-16])
    assert bilinear_kernel(2).sum() == pytest.approx(4)


def test_resnet9_is_the_published_one():
    assert sum(p.numel() for p in ResNet9(10).parameters()) == 6_573_120
    with torch.no_grad():
        assert ResNet9(5, width=4).eval()(torch.randn(2, 3, 1, 9)).shape == (2, 5)


@pytest.mark.parametrize("network, left", [(UNet(3, 5, width=4), 0), (ResNetFCN32(5, width=4), 0),
                                           (ResNet(5, width=4), 0), (ResNet9(5, width=4), 3)],
                         ids=["unet", "fcn32", "resnet", "resnet9"])
def test_folded_batch_norm_changes_nothing(network, left):
    images = torch.randn(4, 3, 64, 64)
    network.train()(images)  # statistics that are not those of the start
    with torch.no_grad():
        expected = network.eval()(images)
        folded = for_inference(network, torch.device("cpu"), torch.float32)
        assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules()) == left
        torch.testing.assert_close(folded(images), expected, atol=1e-4, rtol=1e-4)


def test_any_number_of_channels_is_brought_to_numbers_around_zero():
    images = torch.rand(2, 5, 4, 6)
    torch.testing.assert_close(normalize(images), 2 * images - 1)
    assert UNet(5, 2, width=4).eval()(images).shape == (2, 2, 4, 6)
