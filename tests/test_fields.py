"""Whole fields: cells are found, measured and cut out, whatever the light and the segmenter."""

from importlib.metadata import EntryPoint

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import regionprops

from bgscale import fields, registry
from bgscale.errors import ConfigError, InputError, SchemaError
from bgscale.fields.yeast import YeastSegmenter
from bgscale.simulate import ScreenSpec, simulate_field

ROLES = ("protein", "cytosol", "nucleus")
SEGMENT = YeastSegmenter()


def f1(labels, truth):
    """Return F1 of cells whose intersection over union with a true one is above 0.5."""
    columns = int(truth.max()) + 1
    pairs = labels.ravel().astype(np.int64) * columns + truth.ravel()
    shared = np.bincount(pairs, minlength=(int(labels.max()) + 1) * columns).reshape(-1, columns)
    union = shared.sum(1)[1:, None] + shared.sum(0)[None, 1:] - shared[1:, 1:]
    true, found = shared.sum(0)[1:] > 0, shared.sum(1)[1:] > 0
    return 2 * int((shared[1:, 1:] > 0.5 * union).sum()) / (true.sum() + found.sum())


def found_in(field, roles=ROLES):
    image = field.image[[ROLES.index(role) for role in roles]]
    return SEGMENT(image, channels=roles, pixel_size_um=ScreenSpec().pixel_size_um)


def medium_only(rng, size=512, falloff=0.4):
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    expected = 100 + 300 * (1 - falloff * ((y - 0.2) ** 2 + (x + 0.1) ** 2) / 2.65)
    return rng.normal(expected, 25).astype(np.uint16)


@pytest.fixture(scope="module")
def crowded():
    spec = ScreenSpec(seed=4, cells_per_field=100, field_size_px=512)
    return simulate_field(spec, 7, 0)


@pytest.fixture(scope="module")
def disks():
    """Return an image with a cell at each corner of a lattice, and labels of its cells."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :256]
    inside = np.hypot(y % 64 - 32, x % 64 - 32) < 13
    labels = ndimage.label(inside)[0].astype(np.int32)
    image = rng.normal(200, 4, (2, 256, 256)) + 800 * inside
    return image.astype(np.uint16), labels


@pytest.mark.parametrize(
    "changes",
    [
        {"cells_per_field": 120, "field_size_px": 640},
        {"cells_per_field": 160, "field_size_px": 640, "illumination": 0.4},
        {"cells_per_field": 45, "field_size_px": 400, "plates": 3, "illumination": 0.4},
        {"cells_per_field": 10, "field_size_px": 512},
    ],
)
def test_cells_of_simulated_fields_are_found(changes):
    scores = []
    for seed in range(3):
        field = simulate_field(ScreenSpec(seed=seed, **changes), 5 * seed, 0)
        scores.append(f1(found_in(field), field.labels))
    assert np.mean(scores) >= 0.95
    assert min(scores) >= 0.92


def test_without_cytosol_cells_are_found_by_the_light_they_have(crowded):
    assert f1(found_in(crowded, ("protein",)), crowded.labels) >= 0.9
    with pytest.raises(InputError, match="channels are brightfield; to find cells, one must be"):
        SEGMENT(crowded.image[:1], channels=("brightfield",), pixel_size_um=0.17)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_uneven_light_noise_and_hot_pixels_are_no_cells(kind):
    rng = np.random.default_rng(1)
    image = medium_only(rng)
    image.ravel()[rng.integers(0, image.size, 50)] = 60_000
    image = image if kind is np.uint16 else (image / 65535).astype(kind)
    assert SEGMENT(image[None], channels=("cytosol",), pixel_size_um=0.17).max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (5, 700), (64, 64)])
def test_a_field_that_shows_nothing_has_no_cells_whatever_its_shape(shape):
    noise = np.random.default_rng(2).normal(100, 5, shape)
    for plane in (np.zeros(shape), np.full(shape, 1000.0), noise):
        labels = SEGMENT(plane[None], channels=("cytosol",), pixel_size_um=0.17)
        assert labels.dtype == np.int32
        assert labels.shape == shape
        assert labels.max() == 0


def test_cells_that_are_erased_from_a_field_are_not_found_in_their_haze():
    field = simulate_field(ScreenSpec(seed=1, cells_per_field=60, illumination=0.4), 5, 0)
    cytosol = field.image[1].astype(float)
    medium = ~ndimage.binary_dilation(field.labels > 0, iterations=3)
    weight = ndimage.gaussian_filter(medium.astype(float), 15)
    around = ndimage.gaussian_filter(cytosol * medium, 15) / np.maximum(weight, 1e-6)
    noise = np.random.default_rng(3).normal(0, 9, cytosol.shape)
    erased = np.where(medium, cytosol, around + noise).astype(np.uint16)
    assert found_in(field).max() > 50
    assert SEGMENT(erased[None], channels=("cytosol",), pixel_size_um=0.17).max() == 0


def test_one_very_bright_dead_cell_does_not_hide_the_others(crowded):
    image = crowded.image.astype(float)
    dead = int(np.bincount(crowded.labels.ravel())[1:].argmax()) + 1
    light = np.where(crowded.labels == dead, image - 140, 0)
    image += 19 * ndimage.gaussian_filter(light, (0, 1.2, 1.2))
    bright = np.clip(image, 0, 65535).astype(np.uint16)
    labels = SEGMENT(bright, channels=ROLES, pixel_size_um=0.17)
    assert f1(labels, crowded.labels) >= 0.95
    measures = fields.measure(labels, bright, channels=ROLES, crop_size_px=64)
    own = np.bincount(labels[crowded.labels == dead])[1:].argmax()
    assert fields.debris(measures)[own]


def test_light_between_0_and_1_and_counts_give_the_same_cells(crowded):
    scaled = (crowded.image / 65535).astype(np.float32)
    labels = SEGMENT(scaled, channels=ROLES, pixel_size_um=0.17)
    assert f1(labels, found_in(crowded)) >= 0.99


def test_segmenting_again_gives_the_same_bits_and_leaves_image_and_threads_alone(crowded):
    before, threads = crowded.image.copy(), cv2.getNumThreads()
    first = found_in(crowded)
    np.testing.assert_array_equal(first, found_in(crowded))
    np.testing.assert_array_equal(crowded.image, before)
    assert cv2.getNumThreads() == threads
    fields.check_labels(first, crowded.labels.shape)
    numbers, starts = np.unique(first, return_index=True)
    assert (np.diff(starts[numbers > 0]) > 0).all()
    assert all(ndimage.label(first == i, np.ones((3, 3)))[1] == 1 for i in numbers[1:])


def test_each_option_changes_what_is_found(crowded):
    default = found_in(crowded)
    for key, value in {
        "diameter_um": 9.0, "smallest_um": 3.5, "contrast": 14.0, "edge": 0.5, "bud": 0.01,
    }.items():  # fmt: skip
        other = YeastSegmenter.from_config({key: value})
        assert YeastSegmenter.from_config(other.to_config()) == other
        labels = other(crowded.image, channels=ROLES, pixel_size_um=0.17)
        assert not np.array_equal(labels, default), key
    with pytest.raises(ConfigError, match=r"diametre_um \(did you mean 'diameter_um'\?\)"):
        YeastSegmenter.from_config({"diametre_um": 5})
    with pytest.raises(ConfigError, match="edge = 0: expected a positive number"):
        YeastSegmenter(edge=0)


def test_real_fields_agree_with_the_segmentation_of_the_lab_they_come_from(shared_data):
    folder = shared_data / "yeast_fields"
    scores, overlaps = [], []
    for number in (1, 2, 3):
        name = f"r01c01f{number:02d}p01"
        cytosol = tifffile.imread(folder / "images" / f"{name}-ch3sk1fk1fl1.tiff")
        truth = tifffile.imread(folder / "labels" / f"{name}_labeled.tiff").astype(np.int64)
        labels = SEGMENT(cytosol[None], channels=("cytosol",), pixel_size_um=0.2)
        scores.append(f1(labels, truth))
        both, either = (labels > 0) & (truth > 0), (labels > 0) | (truth > 0)
        overlaps.append(both.sum() / either.sum())
    assert np.mean(scores) >= 0.65
    assert np.mean(overlaps) >= 0.8


class Halves:
    """A segmenter as another package would bring it."""

    @classmethod
    def from_config(cls, config):
        return cls()

    def __call__(self, image, *, channels, pixel_size_um):
        labels = np.ones(image.shape[1:], np.int32)
        labels[:, labels.shape[1] // 2 :] = 2
        return labels


def test_a_segmenter_of_another_package_is_found_by_its_name(monkeypatch):
    plugins = [EntryPoint("halves", "test_fields:Halves", "bgscale.segmenters")]
    monkeypatch.setattr(
        registry, "entry_points", lambda group: plugins if group == "bgscale.segmenters" else []
    )
    assert list(fields.SEGMENTERS) == ["yeast", "halves"]
    labels = fields.SEGMENTERS["halves"].from_config({})(
        np.zeros((1, 8, 8)), channels=("cytosol",), pixel_size_um=0.2
    )
    fields.check_labels(labels, (8, 8))
    assert fields.SEGMENTERS["yeast"] is YeastSegmenter


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((4, 4)), "float64; expected an array of integers"),
        (np.zeros((4, 5), np.int32), r"\(4, 5\), the field \(4, 4\)"),
        (np.full((4, 4), -1), "begin at -1"),
        (np.full((4, 4), 99), "go up to 99"),
        (np.eye(4, dtype=np.int32) * 2, "label 1 is lacking"),
        (np.eye(4, dtype=np.int32).tolist(), "labels are list"),
    ],
)
def test_what_is_no_label_image_is_refused(labels, message):
    with pytest.raises(SchemaError, match=message):
        fields.check_labels(labels, (4, 4))


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([(24, 40), (33, 17)]))
def test_measures_are_those_of_scikit_image(seed, size):
    rng = np.random.default_rng(seed)
    blobs = ndimage.gaussian_filter(rng.standard_normal(size), 2) > 0.02
    labels = ndimage.label(blobs)[0].astype(np.int32)
    image = rng.integers(100, 1000, (2, *size)).astype(np.uint16)
    measures = fields.measure(labels, image, channels=("protein", "cytosol"), crop_size_px=16)
    regions = regionprops(labels, image[1])
    assert measures["label"].tolist() == [region.label for region in regions]
    medium = [np.median(plane[labels == 0]) for plane in image]
    for i, region in enumerate(regions):
        assert measures["area"][i] == region.area
        assert (measures["y"][i], measures["x"][i]) == pytest.approx(region.centroid)
        # a pixel has an extent of its own: 1/12 in each direction
        long, short = (v + 1 / 12 for v in region.inertia_tensor_eigvals)
        assert measures["eccentricity"][i] ** 2 == pytest.approx(1 - short / long, abs=1e-9)
        top, left, bottom, right = region.bbox
        assert measures["border_distance"][i] == min(top, left, size[0] - bottom, size[1] - right)
        mean = image[1][labels == region.label].mean() - int(medium[1])
        assert measures["mean_cytosol"][i] == pytest.approx(mean, abs=1)
        half = 8
        y, x = int(measures["y"][i]) - half, int(measures["x"][i]) - half
        window = labels[max(y, 0) : max(y + 16, 0), max(x, 0) : max(x + 16, 0)]
        others = window[(window > 0) & (window != region.label)]
        assert measures["neighbours"][i] == len(np.unique(others))
        assert measures["neighbour_area"][i] == len(others)
        assert measures["padded_area"][i] == 16 * 16 - window.size


def test_windows_equal_slices_inside_and_are_padded_with_medium_outside(disks):
    image, labels = disks
    y, x = np.array([96.7, 3.0]), np.array([96.2, 250.0])
    number = np.array([labels[96, 96], labels[32, 224]])
    crops, masks = fields.windows_of(image, labels, y, x, number, size_px=32)
    assert crops.dtype == image.dtype
    np.testing.assert_array_equal(crops[0], image[:, 80:112, 80:112])
    own = labels[80:112, 80:112]
    np.testing.assert_array_equal(masks[0], np.where(own == number[0], 1, 2 * (own > 0)))
    np.testing.assert_array_equal(crops[1][:, 13:, :22], image[:, :19, 234:])
    medium = np.median(image[:, labels == 0], axis=1).astype(image.dtype)
    assert (crops[1][:, :13] == medium[:, None, None]).all()
    assert (crops[1][:, :, 22:] == medium[:, None, None]).all()
    assert not masks[1][:13].any()


def test_free_windows_lie_in_the_field_away_from_cells_and_depend_on_the_seed():
    labels = np.zeros((300, 400), np.int32)
    labels[100:130, 150:180] = 1
    labels[250:260, 20:30] = 2
    corners = fields.free_windows(labels, size_px=64, margin_px=8, most=6, seed_id=5)
    again = fields.free_windows(labels, size_px=64, margin_px=8, most=6, seed_id=5)
    np.testing.assert_array_equal(corners, again)
    assert len(corners) == 6
    for y, x in corners.tolist():
        assert 0 <= y <= 300 - 64
        assert 0 <= x <= 400 - 64
        assert not labels[max(y - 8, 0) : y + 72, max(x - 8, 0) : x + 72].any()
    other = fields.free_windows(labels, size_px=64, margin_px=8, most=6, seed_id=6)
    assert not np.array_equal(corners, other)
    full = np.ones((300, 400), np.int32)
    assert len(fields.free_windows(full, size_px=64, margin_px=8, most=6, seed_id=5)) == 0


def test_what_is_bright_or_ragged_is_debris_and_the_field_s_others_are_not(disks):
    image, labels = disks
    image, labels = image.copy(), labels.copy()
    image[:, labels == 3] += 9000
    ragged = np.argwhere(labels == 7)
    labels[tuple(ragged[(ragged[:, 1] % 4) > 1].T)] = 0
    measures = fields.measure(labels, image, channels=("protein", "cytosol"), crop_size_px=64)
    assert (np.flatnonzero(fields.debris(measures)) + 1).tolist() == [3, 7]


def test_quality_tells_blurred_and_saturated_fields(disks):
    image, labels = disks
    good = fields.quality(image, labels, ("protein", "cytosol"))
    soft = np.stack([ndimage.gaussian_filter(plane, 3) for plane in image])
    assert fields.quality(soft, labels, ("protein", "cytosol"))["focus_cytosol"] < (
        0.5 * good["focus_cytosol"]
    )
    assert good["saturated_cytosol"] == 0
    assert good["medium_cytosol"] == pytest.approx(200, abs=2)
    bright = image.copy()
    bright[1][labels == 1] = 65535
    share = fields.quality(bright, labels, ("protein", "cytosol"))["saturated_cytosol"]
    assert share == pytest.approx((labels == 1).mean())
    nothing = fields.quality(image, np.zeros_like(labels), ("protein", "cytosol"))
    assert np.isnan(nothing["focus_protein"])
