"""Kernels on crops: intensity ranges, what surrounds a cell, and medium in place of cells."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from bgscale.crops import (
    HALO_PX,
    MIN_MEDIUM_PX,
    fill_with_medium,
    intensity_range,
    measure,
    usable_medium,
)
from bgscale.schema import CENTRE_CELL, MEDIUM, OTHER_CELL
from bgscale.simulate import ScreenSpec, simulate_field

Y, X = np.mgrid[:64, :64]
CENTRE = np.hypot(Y - 32, X - 32) <= 10
NEIGHBOUR = np.hypot(Y - 8, X - 52) <= 8
MASK = np.where(CENTRE, CENTRE_CELL, np.where(NEIGHBOUR, OTHER_CELL, MEDIUM)).astype(np.uint8)


def halo(where: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    square = np.ones((2 * HALO_PX + 1,) * 2, bool)
    return np.asarray(ndimage.binary_dilation(where, square))


def noisy(seed: int = 0, sd: float = 10.0, light: float = 800.0) -> npt.NDArray[np.float32]:
    medium = np.random.default_rng(seed).normal(200, sd, (1, 64, 64))
    return (medium + light * (MASK != MEDIUM)).astype(np.float32)


def filled(image: npt.NDArray[Any], hole: npt.NDArray[np.bool_], cell: int = 1) -> Any:
    out = fill_with_medium(image, hole=hole, mask=MASK, cell=cell)
    assert out is not None
    return out


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_the_intensity_range_is_that_of_numpy_channel_by_channel(dtype: Any) -> None:
    images = np.random.default_rng(0).gamma(2, 300, (7, 3, 20, 20)).astype(dtype)
    found = intensity_range(images)
    assert found.shape == (3, 2)
    assert found.dtype == np.float32
    for channel in range(3):
        expected = np.percentile(images[:, channel].astype(np.float64), [0.1, 99.9])
        np.testing.assert_allclose(found[channel], expected, rtol=1e-6)


def test_areas_and_neighbours_of_hand_made_masks() -> None:
    mask = np.zeros((3, 64, 64), np.uint8)
    mask[0, 30:34, 30:35] = CENTRE_CELL
    mask[0, :3, :4], mask[0, 60:, 60:] = OTHER_CELL, OTHER_CELL
    mask[1] = OTHER_CELL
    found = measure(mask)
    assert found["area"].tolist() == [20, 0, 0]
    assert found["neighbour_area"].tolist() == [28, 4096, 0]
    assert found["neighbours"].tolist() == [2, 1, 0]
    around = (4 + 2 * HALO_PX) * (5 + 2 * HALO_PX) + (3 + HALO_PX) * (4 + HALO_PX)
    corner = (4 + HALO_PX) ** 2
    assert found["medium_area"].tolist() == [4096 - around - corner, 0, 4096]
    assert all(values.dtype == np.int32 for values in found.values())


def test_measuring_no_crops_gives_no_rows() -> None:
    assert {len(values) for values in measure(np.zeros((0, 64, 64), np.uint8)).values()} == {0}


def test_usable_medium_of_one_mask_is_that_of_a_block() -> None:
    assert (usable_medium(MASK) == usable_medium(MASK[None])[0]).all()
    assert (usable_medium(MASK) == ~halo(MASK != MEDIUM)).all()


def test_only_the_hole_and_its_halo_are_replaced() -> None:
    image = noisy()
    out = filled(image, CENTRE)
    assert (out == image)[0, ~halo(CENTRE)].all()
    assert (out != image)[0, CENTRE].all()
    everything = filled(image, MASK != MEDIUM)
    assert (everything == image)[0, ~halo(MASK != MEDIUM)].all()


def test_neighbours_that_stay_keep_every_pixel() -> None:
    image = noisy()
    mask = MASK.copy()
    mask[CENTRE & (X > 36)] = OTHER_CELL
    out = fill_with_medium(image, hole=mask == CENTRE_CELL, mask=mask, cell=1)
    assert out is not None
    assert (out == image)[0, mask == OTHER_CELL].all()


def test_the_filling_hangs_on_the_cell_and_on_nothing_else() -> None:
    image = noisy()
    before = image.copy()
    assert (filled(image, CENTRE, cell=7) == filled(image, CENTRE, cell=7)).all()
    assert (filled(image, CENTRE, cell=7) != filled(image, CENTRE, cell=8)).any()
    assert (image == before).all()
    # the same pixel gets the same draw, whatever else is replaced
    one, all_cells = filled(image, CENTRE), filled(image, MASK != MEDIUM)
    assert (one == all_cells)[0, CENTRE].all()


def test_all_channels_draw_the_same_pixel() -> None:
    image = np.concatenate([noisy(), 2 * noisy()])
    out = filled(image, MASK != MEDIUM)
    np.testing.assert_allclose(out[1], 2 * out[0], rtol=1e-5)


def test_mean_and_spread_of_the_medium_are_kept() -> None:
    for seed in range(20):
        image = noisy(seed)
        out = filled(image, MASK != MEDIUM, cell=seed)[0]
        medium = image[0, usable_medium(MASK)]
        new = out[MASK != MEDIUM]
        assert abs(new.mean() - medium.mean()) < 0.02 * medium.mean()
        assert abs(new.std() / medium.std() - 1) < 0.12
    # over all pixels, more exactly
    spread = [filled(noisy(s), MASK != MEDIUM, cell=s)[0, MASK != MEDIUM].std() for s in range(20)]
    assert abs(np.mean(spread) / 10 - 1) < 0.04


def test_a_linear_slope_of_the_light_goes_on_under_the_hole() -> None:
    mask = np.where(CENTRE, CENTRE_CELL, MEDIUM).astype(np.uint8)
    slope = 200.0 + 0.5 * X + 0.3 * Y
    image = (slope + np.random.default_rng(0).normal(0, 1, slope.shape))[None].astype(np.float32)
    out = fill_with_medium(image, hole=CENTRE, mask=mask, cell=1)
    assert out is not None
    assert abs((out[0] - slope)[CENTRE].mean()) < 1
    # under a hole the light goes from one side's to the other's, and never beyond either
    steps = np.polyfit(slope[CENTRE], out[0][CENTRE], 1)[0]
    assert 0.6 < steps < 2
    around = slope[halo(halo(CENTRE)) & ~CENTRE]
    assert out[0][CENTRE].min() > around.min() - 5
    assert out[0][CENTRE].max() < around.max() + 5


def test_too_little_medium_is_none() -> None:
    mask = np.full((64, 64), CENTRE_CELL, np.uint8)
    image = np.ones((1, 64, 64), np.float32)
    assert fill_with_medium(image, hole=mask > 0, mask=mask, cell=1) is None
    side = int(np.sqrt(MIN_MEDIUM_PX)) + HALO_PX
    for width, enough in ((side - 1, False), (side + 1, True)):
        mask[:] = CENTRE_CELL
        mask[:width, :width] = MEDIUM
        out = fill_with_medium(image, hole=mask > 0, mask=mask, cell=1)
        assert (out is not None) == enough


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_the_dtype_stays_and_counts_do_not_wrap(dtype: Any) -> None:
    image = np.clip(np.rint(noisy(light=50.0, sd=3.0) - 198), 0, None).astype(dtype)
    out = filled(image, MASK != MEDIUM)
    assert out.dtype == image.dtype
    assert out.max() < 60
    assert out.min() >= (0 if np.issubdtype(dtype, np.integer) else -20)


def test_medium_of_few_counts_keeps_its_noise() -> None:
    rng = np.random.default_rng(0)
    image = (100 + (rng.random((1, 64, 64)) < 0.02)).astype(np.uint16)
    image[0, CENTRE] = 900
    out = filled(image, MASK != MEDIUM)
    assert 0 < (out[0, MASK != MEDIUM] != 100).mean() < 0.05
    assert out.max() <= 102


def test_a_cell_that_the_mask_missed_leaves_no_light_in_a_cell_free_window() -> None:
    missed = np.hypot(Y - 54, X - 12) <= 4
    image = noisy()
    image[0, missed] += 400
    out = filled(image, MASK != MEDIUM)
    assert out[0, missed].max() < 260
    assert (filled(image, CENTRE) == image)[0, missed].all()


def test_simulated_crops_without_their_cells_look_like_their_medium() -> None:
    spec = ScreenSpec(seed=3)
    off, done = [], 0
    for well in (0, 30):
        field = simulate_field(spec, well, 0)
        for i, cell in enumerate(field.cells.itertuples()):
            y, x = max(int(cell.y) - 32, 0), max(int(cell.x) - 32, 0)
            window = (slice(y, y + 64), slice(x, x + 64))
            mask = np.where(field.labels[window] > 0, OTHER_CELL, MEDIUM).astype(np.uint8)
            image = field.image[:, *window]
            if mask.shape != (64, 64):
                continue
            out = fill_with_medium(image, hole=mask > 0, mask=mask, cell=i)
            if out is None:
                continue
            done += 1
            medium, hole = usable_medium(mask), mask > 0
            for before, after in zip(image.astype(float), out.astype(float), strict=True):
                off.append((after[hole].mean() - before[medium].mean()) / before[medium].std())
    assert done > 60
    # haze is brighter where cells are, and stays: a part of the noise, where cells are tens of it
    assert abs(np.mean(off)) < 0.4
    assert np.max(np.abs(off)) < 1.5
