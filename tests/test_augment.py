"""Augmentation: counted randomness, image and mask moved as one, void where the frame left the image."""
import pytest
import torch

from data.augment import DRAWS, augment
from data.masks import VOID

EVERYTHING = dict(flip=0.5, rotate=20, scale=(0.6, 1.7), shift=0.1, color=0.4)


def batch(count=6, size=(40, 56)):
    generator = torch.Generator().manual_seed(0)
    blobs = torch.rand(count, 1, 5, 7, generator=generator)
    masks = (torch.nn.functional.interpolate(blobs, size)[:, 0] > 0.5).to(torch.uint8)
    images = (masks[:, None] * 255).expand(-1, 3, -1, -1).contiguous()
    return images, masks, torch.rand(count, DRAWS, generator=generator)


def test_a_sample_does_not_depend_on_its_batch():
    images, masks, draws = batch()
    together, masks_together = augment(images, masks, draws, **EVERYTHING)
    for i in range(len(images)):
        alone, mask_alone = augment(images[i : i + 1], masks[i : i + 1], draws[i : i + 1], **EVERYTHING)
        torch.testing.assert_close(alone[0], together[i])
        assert torch.equal(mask_alone[0], masks_together[i])


def test_image_and_mask_move_together():
    """The image shows its own mask in black and white, and must go on doing so, but for blurred edges."""
    images, masks, draws = batch()
    moved, moved_masks = augment(images, masks, draws, flip=0.5, rotate=20, scale=(0.6, 1.7), shift=0.1)
    seen = moved_masks != VOID
    agree = ((moved[:, 0] > 0.5) == (moved_masks == 1))[seen].float().mean()
    assert agree > 0.97
    assert 0.02 < (~seen).float().mean() < 0.5
    assert set(moved_masks.unique().tolist()) <= {0, 1, VOID}
    assert not torch.equal(moved_masks, masks.long())


def test_flip_and_shift_alone_keep_every_pixel_sharp():
    images, masks, draws = batch()
    draws[:, 0] = 0.0
    flipped, flipped_masks = augment(images, masks, draws, flip=0.5)
    torch.testing.assert_close(flipped, images.float().flip(3) / 255)
    assert torch.equal(flipped_masks, masks.long().flip(2))
    shifted, _ = augment(images, None, draws, shift=0.2)
    assert ((shifted < 1e-3) | (shifted > 1 - 1e-3)).all()


def test_nothing_asked_nothing_done():
    images, masks, draws = batch()
    same, same_masks = augment(images, masks, draws)
    torch.testing.assert_close(same, images.float() / 255)
    assert torch.equal(same_masks, masks.long())


def test_four_channels_are_recoloured_as_one():
    """Brightness and contrast alone: channels that were equal stay so, and the image changes."""
    images, masks, draws = batch()
    images = images[:, :1].expand(-1, 4, -1, -1)
    changed, _ = augment(images, masks, draws, color=0.4)
    assert torch.equal(changed, changed[:, :1].expand_as(changed)) and not torch.equal(changed, images / 255)


@pytest.mark.parametrize("height, width", [(40, 60), (41, 63)])
def test_crops_are_parts_of_the_image_and_reach_all_places(height, width):
    """The two channels hold each pixel's row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    images = torch.stack([rows, columns])[None].expand(2000, -1, -1, -1).to(torch.uint8)
    draws = torch.rand(2000, DRAWS, generator=torch.Generator().manual_seed(0))
    crops, masks = augment(images, images[:, 1], draws, (10, 20), (10 / height, 20 / width))
    crops = (255 * crops).round().long()
    assert torch.equal(crops[:, 1], masks)
    assert torch.equal(crops - crops[:, :, :1, :1], (images[:, :, :10, :20] - images[:, :, :1, :1]).long())
    assert set(crops[:, 0, 0, 0].tolist()) == set(range(height - 9))
    assert set(crops[:, 1, 0, 0].tolist()) == set(range(width - 19))
