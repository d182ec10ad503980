"""The centre cell and its neighbours are found: hand-made, simulated and real crops."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from bgscale.errors import InputError
from bgscale.schema import CENTRE_CELL, MEDIUM, OTHER_CELL
from bgscale.screen import open_screen
from bgscale.segment import CENTRE_REACH_PX, cells_of, centre_mask, mask_of, masks
from bgscale.simulate import ScreenSpec, simulate_field

Y, X = np.mgrid[:64, :64]


def disc(y: float, x: float, radius: float) -> npt.NDArray[np.bool_]:
    return np.asarray(np.hypot(Y - y, X - x) <= radius)


def pictured(*cells: tuple[npt.NDArray[np.bool_], float], seed: int = 0) -> npt.NDArray[np.uint16]:
    light = np.full((64, 64), 100.0)
    for where, counts in cells:
        light[where] = 100 + counts
    light = ndimage.gaussian_filter(light, 1.0)
    noise = np.random.default_rng(seed).normal(0, 1, light.shape) * np.sqrt(2 * light - 150)
    return np.clip(np.rint(light + noise), 0, 65535).astype(np.uint16)


def iou(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_two_touching_cells_are_the_centre_cell_and_a_neighbour() -> None:
    left, right = disc(32, 26, 12), disc(32, 49, 11)
    mask = mask_of(None, pictured((left, 900), (right & ~left, 900)))
    assert iou(mask == CENTRE_CELL, left) > 0.7
    assert (mask[right & ~left] == OTHER_CELL).mean() > 0.9
    assert mask[5, 5] == MEDIUM


@pytest.mark.parametrize("share", [0.5, 0.2, 0.1, 0.07])
def test_a_dim_centre_cell_is_found_beside_a_bright_neighbour(share: float) -> None:
    centre, neighbour = disc(32, 32, 9), disc(32, 60, 13)
    mask = mask_of(None, pictured((neighbour, 1500), (centre, 1500 * share)))
    assert iou(mask == CENTRE_CELL, centre) > 0.7
    assert (mask[neighbour] == OTHER_CELL).mean() > 0.9


@pytest.mark.parametrize(("y", "x", "size"), [(19, 32, 5), (32, 19, 6)])
def test_a_bud_belongs_to_its_mother(y: int, x: int, size: int) -> None:
    cell = disc(33, 33, 12) | disc(y, x, size)
    mask = mask_of(None, pictured((cell, 900)))
    assert (mask[cell] == CENTRE_CELL).mean() > 0.95
    assert not (mask == OTHER_CELL).any()


def test_a_vacuole_is_a_part_of_its_cell() -> None:
    cell, vacuole = disc(32, 32, 14), disc(34, 30, 6)
    mask = mask_of(None, pictured((cell, 900), (vacuole, 150)))
    assert (mask[cell] == CENTRE_CELL).all()


@pytest.mark.parametrize("name", ["constant", "noise", "dark noise", "slope", "vignette", "haze"])
def test_a_crop_without_cells_is_all_medium(name: str) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        y, x = Y / 63, X / 63
        light = {
            "constant": np.full((64, 64), 7.0),
            "noise": rng.normal(100, 5, (64, 64)),
            "dark noise": rng.poisson(3, (64, 64)),
            "slope": 100 + 50 * x + rng.normal(0, 2, (64, 64)),
            "vignette": 100 + 200 * (x - 0.3) ** 2 + 100 * y**2 + rng.normal(0, 2, (64, 64)),
            "haze": 100 + 100 * np.exp(-(x**2 + y**2) / 0.18) + rng.normal(0, 2, (64, 64)),
        }[name]
        assert not mask_of(None, light).any()


@pytest.mark.parametrize(("y", "x"), [(6, 8), (12, 52), (60, 32)])
def test_a_cell_away_from_the_middle_is_no_centre_cell(y: int, x: int) -> None:
    mask = mask_of(None, pictured((disc(y, x, 10), 900)))
    assert set(np.unique(mask)) == {MEDIUM, OTHER_CELL}


def test_the_mask_depends_on_neither_gain_nor_offset() -> None:
    crop = pictured((disc(32, 32, 10), 600), (disc(10, 50, 9), 900)).astype(np.float64)
    expected = mask_of(None, crop)
    assert np.mean(mask_of(None, crop * 1e-4) == expected) > 0.999
    assert np.mean(mask_of(None, crop + 5000) == expected) > 0.999


def test_a_crop_that_a_cell_fills_does_not_fail() -> None:
    for radius in (25, 32, 40, 60):
        cells_of(pictured((disc(32, 32, radius), 900)))
    cells_of(pictured((disc(32, 32, 10), 900))[:9, :7])


def test_a_binary_mask_file_shows_the_centre_cell_and_the_cytosol_its_neighbours() -> None:
    left, right = disc(32, 28, 10), disc(32, 49, 9)
    far = disc(8, 12, 6)
    image = pictured((left, 900), (right & ~left, 900), (far, 600))
    mask = mask_of(np.where(left, 255, 0).astype(np.uint8), image)
    assert ((mask == CENTRE_CELL) == left).all()
    assert (mask[right & ~left] == OTHER_CELL).mean() > 0.9
    assert (mask[far] == OTHER_CELL).mean() > 0.9
    ring = ndimage.binary_dilation(left, iterations=4) & ~left & (X < 25)
    assert (mask[ring] == MEDIUM).mean() > 0.9


def test_a_binary_mask_file_without_cytosol_is_taken_as_it_is() -> None:
    cell, other = disc(32, 32, 8), disc(6, 6, 4)
    for value in (1, 255):
        mask = mask_of(np.where(cell | other, value, 0).astype(np.uint8), None)
        assert ((mask == CENTRE_CELL) == cell).all()
        assert ((mask == OTHER_CELL) == other).all()


def test_pixels_of_a_binary_mask_that_meet_at_a_corner_are_one_cell() -> None:
    raw = np.zeros((64, 64), np.uint8)
    raw[28:33, 28:33] = raw[33:36, 33:36] = 255
    assert (mask_of(raw, None) == CENTRE_CELL).sum() == 34


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32, np.float32])
def test_instance_labels_are_cells_each_also_where_they_touch(dtype: Any) -> None:
    raw = np.zeros((64, 64), dtype)
    raw[20:44, 20:44], raw[20:44, 44:60] = 7, 3
    mask = mask_of(raw, pictured((disc(5, 5, 5), 900)))
    assert ((mask == CENTRE_CELL) == (raw == 7)).all()
    assert ((mask == OTHER_CELL) == (raw == 3)).all()


def test_instance_labels_without_medium_are_still_labels() -> None:
    raw = np.full((64, 64), 2)
    raw[20:44, 20:44] = 1
    assert (mask_of(raw, None) == CENTRE_CELL).sum() == 24 * 24


def test_the_centre_cell_comes_near_the_middle_and_of_two_the_nearer_one_is_taken() -> None:
    labels = np.zeros((64, 64), int)
    labels[:20] = 5
    assert not (centre_mask(labels) == CENTRE_CELL).any()
    labels[32 + CENTRE_REACH_PX :, 30:35] = 9
    assert ((centre_mask(labels) == CENTRE_CELL) == (labels == 9)).all()
    labels[34, 32] = 4
    assert ((centre_mask(labels) == CENTRE_CELL) == (labels == 4)).all()


def test_of_two_cells_equally_near_the_one_with_the_nearer_middle_is_taken() -> None:
    labels = np.zeros((64, 64), int)
    labels[0:31, 32], labels[34:40, 32] = 1, 2
    assert ((centre_mask(labels) == CENTRE_CELL) == (labels == 2)).all()


def test_unreadable_crops_get_an_empty_mask_and_count_as_without_a_cell() -> None:
    image = np.stack([pictured((disc(32, 32, 9), 900))] * 2 + [pictured()])
    mask, found = masks(image, None, np.array([True, False, True]))
    assert found.tolist() == [True, False, False]
    assert mask.dtype == np.uint8
    assert not mask[1:].any()


def test_neither_masks_nor_cytosol_is_an_error() -> None:
    with pytest.raises(InputError, match="neither"):
        mask_of(None, None)
    with pytest.raises(InputError, match="neither"):
        masks(None, None, np.ones(1, bool))


def simulated() -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint8]]:
    """Return crops (cell, channel, y, x) and their true masks."""
    spec = ScreenSpec(seed=5)
    crops, truth = [], []
    for well in range(0, 60, 15):
        field = simulate_field(spec, well, 0)
        for cell in field.cells.itertuples():
            y, x = int(cell.y) - 32, int(cell.x) - 32
            window = (slice(y, y + 64), slice(x, x + 64))
            if min(y, x) >= 0 and max(y, x) <= spec.field_size_px - 64:
                around = field.labels[window]
                crops.append(field.image[:, *window])
                truth.append(np.where(around == cell.label, 1, 2 * (around > 0)).astype(np.uint8))
    return np.array(crops), np.array(truth)


def test_simulated_cells_are_found_from_the_cytosol_alone() -> None:
    crops, truth = simulated()
    mask, found = masks(crops[:, 1], None, np.ones(len(crops), bool))
    assert found.mean() >= 0.999
    overlap = np.array([iou(m == 1, t == 1) for m, t in zip(mask, truth, strict=True)])
    assert len(crops) > 150
    assert overlap.mean() >= 0.88
    assert overlap.min() >= 0.5
    assert (mask[truth > 0] == MEDIUM).mean() < 0.05
    assert (mask[truth == 0] != MEDIUM).mean() < 0.03


def test_with_mask_files_the_neighbours_of_simulated_cells_are_found_and_no_others() -> None:
    crops, truth = simulated()
    raw = np.where(truth == 1, 255, 0).astype(np.uint8)
    mask, _ = masks(crops[:, 1], raw, np.ones(len(crops), bool))
    assert ((mask == 1) == (truth == 1)).all()
    both = ((mask == 2) & (truth == 2)).sum()
    assert both / (mask == 2).sum() > 0.95
    assert both / (truth == 2).sum() > 0.93


def test_nearly_every_real_crop_has_its_centre_cell(shared_data: Path) -> None:
    screen = open_screen(shared_data / "yeast_crops" / "crops.zip", class_column="protein")
    image = screen.read(np.arange(len(screen.items))).image
    mask, found = masks(image[:, 1], None, np.ones(len(image), bool))
    assert found.mean() >= 0.999
    area = (mask == CENTRE_CELL).sum((1, 2))
    assert np.percentile(area, 1) > 300
    assert np.percentile(area, 99) < 2600
    brighter = [i[1][m == CENTRE_CELL].mean() > i[1][m == MEDIUM].mean() for i, m in
                zip(image, mask, strict=True)]  # fmt: skip
    assert all(brighter)
