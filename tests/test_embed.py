"""Crops become what a network reads: rescaled about the centre pixel, cut, padded by their edge."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgscale.embed import SAME_PIXEL_SIZE, fit_window, zoom
from bgscale.models import load_model


def disc(radius, n=64):
    """Return a crop with a disc around pixel n // 2, and its mask."""
    y, x = np.mgrid[:n, :n] - n // 2
    inside = y**2 + x**2 <= radius**2
    return np.where(inside, 1000.0, 100.0)[None, None], inside.astype(np.uint8)[None]


def noise(n, *, cells=3, side=64):
    rng = np.random.default_rng(n)
    crops = rng.integers(0, 65536, (cells, 2, side, side)).astype(np.uint16)
    return crops, rng.integers(0, 3, (cells, side, side)).astype(np.uint8)


def test_equal_sizes_are_left_bit_equal():
    crops, masks = noise(0)
    fitted, labels = fit_window(crops, masks, size_px=64)
    assert fitted.dtype == np.float32
    assert (fitted == crops).all()
    assert (labels == masks).all()


@pytest.mark.parametrize("side", [63, 64])
@pytest.mark.parametrize("factor", [0.4, 0.5, 0.75, 1.3, 2.0, 3.0])
def test_a_disc_is_enlarged_by_the_factor_and_stays_at_the_centre_pixel(factor, side):
    radius = 18 if factor < 1 else 8
    crops, masks = disc(radius, n=side)
    fitted, labels = fit_window(crops, masks, size_px=64, factor=factor)
    weight = (fitted[0, 0] - 100) / 900
    area = masks.sum() * factor**2
    assert weight.sum() == pytest.approx(area, rel=0.01)
    assert labels.sum() == pytest.approx(area, rel=0.05)
    y, x = np.mgrid[:64, :64]
    # nearest neighbours cannot be centred where a pixel becomes two
    for image, within in ((weight, 0.01), (labels[0], 0.51)):
        centre = [(axis * image).sum() / image.sum() for axis in (y, x)]
        assert centre == pytest.approx([32, 32], abs=within)


@pytest.mark.parametrize("size", [32, 60, 61, 64, 65, 96])
def test_without_a_factor_pixels_are_moved_and_never_mixed(size):
    crops, masks = noise(1)
    fitted, labels = fit_window(crops, masks, size_px=size)
    shift = size // 2 - 32
    place = np.clip(np.arange(size) - shift, 0, 63)
    assert (fitted == crops[:, :, place[:, None], place]).all()
    assert (labels == masks[:, place[:, None], place]).all()
    assert (fitted[:, :, size // 2, size // 2] == crops[:, :, 32, 32]).all()


def test_what_lies_beyond_a_shrunken_crop_is_its_edge():
    crops = np.full((1, 1, 64, 64), 10.0)
    crops[..., -1] = 50.0
    fitted, _ = fit_window(crops, np.zeros((1, 64, 64), np.uint8), size_px=64, factor=0.25)
    assert fitted[0, 0, :, :30] == pytest.approx(10)
    assert fitted[0, 0, :, -20:] == pytest.approx(50)


def test_shrinking_averages_and_does_not_alias():
    stripes = np.zeros((1, 1, 64, 64))
    stripes[..., ::2] = 100.0
    fitted, _ = fit_window(stripes, np.zeros((1, 64, 64), np.uint8), size_px=32, factor=0.5)
    assert fitted[0, 0, :, 1:-1] == pytest.approx(50)


@given(st.floats(0.2, 4), st.integers(8, 80), st.integers(5, 70), st.integers(0, 3))
def test_masks_keep_their_codes_and_crops_their_range(factor, size, side, seed):
    crops, masks = noise(seed, side=side)
    fitted, labels = fit_window(crops, masks, size_px=size, factor=factor)
    assert fitted.shape == (3, 2, size, size)
    assert (fitted.dtype, labels.dtype) == (np.float32, np.uint8)
    assert set(np.unique(labels)) <= set(np.unique(masks))
    assert fitted.min() >= crops.min() - 0.1
    assert fitted.max() <= crops.max() + 0.1


def test_a_crop_becomes_the_same_bits_alone_and_among_others():
    crops, masks = noise(2, cells=37)
    together, _ = fit_window(crops, masks, size_px=64, factor=1.37)
    for part in (slice(0, 1), slice(5, 12), slice(36, 37)):
        alone, _ = fit_window(crops[part], masks[part], size_px=64, factor=1.37)
        assert (alone == together[part]).all()


def test_no_cells_are_no_problem():
    crops, masks = noise(3)
    fitted, labels = fit_window(crops[:0], masks[:0], size_px=60, factor=2.0)
    assert fitted.shape == (0, 2, 60, 60)
    assert labels.shape == (0, 60, 60)


def test_crops_are_enlarged_to_the_models_pixel_size_if_both_are_known():
    spec = replace(load_model("tiny").spec, pixel_size_um=0.2)
    assert zoom(spec, 0.3) == pytest.approx(1.5)
    assert zoom(spec, 0.1) == pytest.approx(0.5)
    assert zoom(spec, 0.0) == zoom(spec, None) == 1.0
    assert zoom(replace(spec, pixel_size_um=None), 0.3) == 1.0
    assert zoom(spec, 0.2 * (1 + SAME_PIXEL_SIZE / 2)) == 1.0
