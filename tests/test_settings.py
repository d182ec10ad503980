"""Who lends a background, and how it is put around the centre cell: the protocol to the letter."""

from dataclasses import fields, replace

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from strategies import pool_of, screens_of_cells

from bgscale.errors import InputError, UnknownNameError
from bgscale.schema import CENTRE_CELL, Missing
from bgscale.settings import (
    SETTINGS,
    Cells,
    Pool,
    Setting,
    blocks,
    compose,
    dilate,
    draw_donors,
    get_setting,
    pack,
    select_donors,
    shares,
    shortlist,
    uncovered_bits,
)

SAME, DIFFERENT, CELL_FREE = (get_setting(n) for n in ("same", "different", "cell_free"))
SELF = get_setting("self_swap")
SWAPS = [s for s in SETTINGS.values() if s.swaps]
N = 20_000


def some_cells(labels, *, protein=0, field=0, first=0):
    """N cells of one protein with these classes."""
    return Cells(
        np.arange(first, first + N, dtype=np.uint64),
        np.full(N, protein),
        np.full(N, field),
        np.tile(np.asarray(labels, bool), (N, 1)),
    )


@pytest.fixture
def pool():
    """Three classes: of 3 proteins x 2 fields, of 2 proteins x 1 field, of one protein x 3 fields.

    Every (protein, field) has two donors.
    """
    owners = [
        [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)],
        [(3, 6), (4, 7)],
        [(5, 8), (5, 9), (5, 10)],
    ]
    rows = [np.repeat(np.array(o), 2, axis=0) for o in owners]
    protein, field = (np.full((3, 12), -1) for _ in range(2))
    for k, r in enumerate(rows):
        protein[k, : len(r)], field[k, : len(r)] = r.T
    return Pool(np.array([12, 4, 6]), protein, field)


def lent_by(pool, donors):
    """Protein and field of each drawn donor."""
    assert (donors.missing == Missing.PRESENT).all()
    assert (donors.slot < pool.sizes[donors.localization]).all()
    place = donors.localization, donors.slot
    return pool.protein[place], pool.field[place]


def is_uniform(values, expected):
    """Whether values are uniform over exactly the expected ones."""
    found, counts = np.unique(values, return_counts=True)
    return found.tolist() == sorted(expected) and chisquare(counts).pvalue > 1e-3


# compose


@pytest.fixture
def crops():
    rng = np.random.default_rng(0)
    centre, donor = (rng.integers(0, 65536, (5, 2, 16, 16)).astype(np.uint16) for _ in range(2))
    mask = rng.integers(0, 3, (5, 16, 16)).astype(np.uint8)
    return centre, donor, mask


def ranges(low, high):
    return np.tile(np.array([low, high], np.float32), (5, 2, 1))


@pytest.mark.parametrize("scaled", [False, True])
def test_the_centre_cell_is_bit_equal_to_the_image_and_nothing_else_is_of_it(crops, scaled):
    centre, donor, mask = crops
    bounds = {"centre_range": ranges(10, 900), "donor_range": ranges(3, 44)} if scaled else {}
    out = compose(centre, mask, donor, **bounds)
    inside = np.broadcast_to((mask == CENTRE_CELL)[:, None], centre.shape)
    assert out.dtype == np.float32
    assert (out[inside] == centre[inside]).all()
    elsewhere = compose(np.zeros_like(centre), mask, donor, **bounds)
    assert (out[~inside] == elsewhere[~inside]).all()


def test_the_donors_own_centre_cell_stays_where_it_is_not_covered(crops):
    centre, donor, mask = crops
    donor_mask = np.roll(mask, 3, axis=-1)
    out = compose(centre, mask, donor)
    stays = (donor_mask == CENTRE_CELL) & (mask != CENTRE_CELL)
    assert stays.any()
    both = np.broadcast_to(stays[:, None], donor.shape)
    assert (out[both] == donor[both]).all()
    assert uncovered_bits(pack(mask), pack(donor_mask)).tolist() == stays.sum((1, 2)).tolist()


def test_scaling_maps_the_donors_range_onto_the_centres():
    donor = np.array([100, 600, 1100], np.uint16).reshape(1, 1, 1, 3)
    mask = np.zeros((1, 1, 3), np.uint8)
    bounds = [np.array(b, np.float32).reshape(1, 1, 2) for b in ((20, 40), (100, 1100))]
    out = compose(donor, mask, donor, centre_range=bounds[0], donor_range=bounds[1])
    assert out.ravel().tolist() == [20, 30, 40]


def test_channels_are_scaled_each_by_its_own_range():
    donor = np.full((1, 2, 1, 1), 5.0, np.float32)
    centre_range = np.array([[[0, 10], [100, 200]]], np.float32)
    donor_range = np.array([[[0, 10], [0, 10]]], np.float32)
    mask = np.zeros((1, 1, 1), np.uint8)
    out = compose(donor, mask, donor, centre_range=centre_range, donor_range=donor_range)
    assert out.ravel().tolist() == [5, 150]


def test_scaling_keeps_single_counts_where_a_narrow_range_is_far_from_zero():
    donor = np.array([60_000, 60_001], np.uint16).reshape(1, 1, 1, 2)
    bounds = [np.array(b, np.float32).reshape(1, 1, 2) for b in ((7, 20_007), (60_000, 60_002))]
    mask = np.zeros((1, 1, 2), np.uint8)
    out = compose(donor, mask, donor, centre_range=bounds[0], donor_range=bounds[1])
    assert out.ravel().tolist() == [7, 10_007]


def test_a_donor_whose_range_is_one_value_is_shifted_and_not_blown_up():
    donor = np.array([5, 6], np.uint16).reshape(1, 1, 1, 2)
    mask = np.zeros((1, 1, 2), np.uint8)
    bounds = [np.array(b, np.float32).reshape(1, 1, 2) for b in ((100, 9000), (5, 5))]
    out = compose(donor, mask, donor, centre_range=bounds[0], donor_range=bounds[1])
    assert out.ravel().tolist() == [100, 101]


def test_crops_of_different_shape_cannot_be_composed(crops):
    centre, donor, mask = crops
    with pytest.raises(InputError, match=r"\(5, 2, 16, 16\), donor \(4, 2, 16, 16\)"):
        compose(centre, mask, donor[:4])


def test_the_papers_example_is_composed_pixel_for_pixel(shared_data):
    folder = shared_data / "swap_example"
    foreground, background = (
        np.squeeze(tifffile.imread(folder / f"{name}_example.tiff"))
        for name in ("foreground", "background")
    )
    cell = foreground > 0
    assert cell.sum() == 642
    mask = cell.astype(np.uint8)[None]
    out = compose(foreground[None, None], mask, background[None, None])[0, 0]
    assert (out[cell] == foreground[cell]).all()
    assert (out[~cell] == background[~cell]).all()
    assert (foreground[cell] != background[cell]).any()


# draw_donors


def test_a_same_donor_is_uniform_over_the_class_without_the_own_protein(pool):
    cells = some_cells([1, 0, 0], protein=1, field=2)
    donors = draw_donors(SAME, cells, pool, seed=0)
    assert (donors.localization == 0).all()
    assert is_uniform(donors.slot, [0, 1, 2, 3, 8, 9, 10, 11])
    assert 1 not in lent_by(pool, donors)[0]


def test_in_a_class_with_one_protein_the_donor_is_of_another_field(pool):
    cells = some_cells([0, 0, 1], protein=5, field=9)
    donors = draw_donors(SAME, cells, pool, seed=0)
    assert is_uniform(donors.slot, [0, 1, 4, 5])
    assert set(lent_by(pool, donors)[1]) == {8, 10}


def test_in_a_class_with_one_protein_and_one_field_there_is_no_donor():
    alone = Pool(np.array([3]), np.zeros((1, 3), int), np.full((1, 3), 7))
    donors = draw_donors(SAME, some_cells([1], field=7), alone, seed=0)
    assert (donors.missing == Missing.NO_DONOR).all()
    assert (donors.slot == -1).all()
    assert (donors.localization == -1).all()


def test_several_labels_draw_their_class_uniformly_from_their_own(pool):
    donors = draw_donors(SAME, some_cells([1, 0, 1], protein=99), pool, seed=1)
    assert is_uniform(donors.localization, [0, 2])
    assert is_uniform(donors.slot[donors.localization == 0], range(12))
    assert is_uniform(donors.slot[donors.localization == 2], range(6))


@pytest.mark.parametrize("setting", [DIFFERENT, CELL_FREE], ids=lambda s: s.name)
def test_a_different_donor_is_uniform_over_the_classes_outside_the_labels(pool, setting):
    donors = draw_donors(setting, some_cells([0, 1, 0], protein=3), pool, seed=2)
    # classes first, then donors: small classes are drawn as often as large ones
    assert is_uniform(donors.localization, [0, 2])
    assert is_uniform(donors.slot[donors.localization == 0], range(12))
    several = draw_donors(setting, some_cells([0, 1, 1], protein=99), pool, seed=2)
    assert set(several.localization) == {0}


@pytest.mark.parametrize("setting", [SAME, DIFFERENT, SELF], ids=lambda s: s.name)
def test_a_cell_without_a_class_is_missing_with_the_reason(pool, setting):
    donors = draw_donors(setting, some_cells([0, 0, 0]), pool, seed=0)
    assert (donors.missing == Missing.NO_LABEL).all()
    assert donors.missing.dtype == np.uint8


def test_a_cell_without_a_class_takes_windows_of_any_other_protein(pool):
    # its protein stands in the bank when it was unlabelled after the bank was frozen
    donors = draw_donors(CELL_FREE, some_cells([0, 0, 0], protein=1, field=2), pool, seed=0)
    assert is_uniform(donors.localization, [0, 1, 2])
    assert set(lent_by(pool, donors)[0]) == {0, 2, 3, 4, 5}


def test_a_cell_with_every_class_has_no_different_background(pool):
    for setting in (DIFFERENT, CELL_FREE):
        donors = draw_donors(setting, some_cells([1, 1, 1]), pool, seed=0)
        assert (donors.missing == Missing.NO_DONOR).all()


def test_a_self_swap_takes_the_own_protein_from_another_field(pool):
    donors = draw_donors(SELF, some_cells([1, 0, 0], protein=1, field=2), pool, seed=0)
    assert is_uniform(donors.slot, [6, 7])
    absent = draw_donors(SELF, some_cells([1, 0, 0], protein=3, field=6), pool, seed=0)
    assert (absent.missing == Missing.NO_DONOR).all()
    only_field = draw_donors(SELF, some_cells([0, 1, 0], protein=3, field=6), pool, seed=0)
    assert (only_field.missing == Missing.NO_DONOR).all()


def test_the_seed_changes_the_donors(pool):
    cells = some_cells([1, 0, 0], protein=99)
    one, other = (draw_donors(SAME, cells, pool, seed=s).slot for s in (0, 1))
    assert (one != other).mean() > 0.8


@given(screens_of_cells(), st.sampled_from(SWAPS), st.randoms())
def test_a_cells_donor_depends_on_nothing_but_the_cell(cells, setting, random):
    chosen = select_donors(cells, per_class=10, per_field=0, seed=1, purpose="donors")
    pool = pool_of(cells, chosen)

    def drawn(rows):
        found = draw_donors(setting, cells.take(rows), pool, seed=3)
        return np.stack([found.localization, found.slot, found.missing.astype(int)])

    everyone = np.arange(len(cells))
    expected = drawn(everyone)
    shuffled = random.sample(range(len(cells)), len(cells))
    assert (drawn(np.array(shuffled)) == expected[:, shuffled]).all()
    for size in (1, 7):
        parts = [drawn(everyone[part]) for part in blocks(len(cells), size)]
        assert (np.concatenate(parts, axis=1) == expected).all()


@given(screens_of_cells(), st.sampled_from(SWAPS))
def test_no_donor_breaks_a_rule_on_any_screen(cells, setting):
    chosen = select_donors(cells, per_class=10, per_field=0, seed=1, purpose="donors")
    pool = pool_of(cells, chosen)
    donors = draw_donors(setting, cells, pool, seed=3)
    for i in range(len(cells)):
        k, slot = donors.localization[i], donors.slot[i]
        labels, protein, field = cells.labels[i], cells.protein[i], cells.field[i]
        classes = np.flatnonzero(~labels if setting.choice == "different" else labels)

        def may_lend(k, protein=protein, field=field):
            own = pool.protein[k, : pool.sizes[k]] == protein
            elsewhere = pool.field[k, : pool.sizes[k]] != field
            if setting.choice == "protein":
                return own & elsewhere
            return elsewhere if own.all() else ~own

        if donors.missing[i] == Missing.PRESENT:
            assert k in classes
            assert may_lend(k)[slot]
        elif donors.missing[i] == Missing.NO_LABEL:
            assert setting.source == "crop"
            assert not labels.any()
        else:
            # a class was drawn that cannot lend, or there is none
            assert not len(classes) or any(not may_lend(k).any() for k in classes)


# donors of the same plate

PLATE_SAME, PLATE_DIFFERENT = (get_setting(f"{n}_plate_matched") for n in ("same", "different"))
PLATE_OF = np.array([0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1])
"""Of the pool's fields: class 0 lends on both plates, class 1 too, class 2 on the second only."""


def test_a_donor_of_the_same_plate_is_uniform_over_the_class_there(pool):
    cells = some_cells([1, 0, 0], protein=0, field=0)
    donors = draw_donors(PLATE_SAME, cells, pool, seed=0, plate_of=PLATE_OF)
    # protein 1 has one of its two fields on the first plate
    assert is_uniform(donors.slot, [4, 5])
    assert set(PLATE_OF[lent_by(pool, donors)[1]]) == {0}


def test_on_its_own_plate_a_cell_draws_from_the_classes_that_are_there(pool):
    cells = some_cells([0, 1, 0], protein=3, field=6)
    donors = draw_donors(PLATE_DIFFERENT, cells, pool, seed=0, plate_of=PLATE_OF)
    assert set(donors.localization) == {0}
    both = some_cells([0, 1, 0], protein=4, field=7)
    assert is_uniform(
        draw_donors(PLATE_DIFFERENT, both, pool, seed=0, plate_of=PLATE_OF).localization, [0, 2]
    )


def test_without_a_donor_on_the_plate_the_cell_is_missing_with_that_reason(pool):
    cells = some_cells([0, 1, 0], protein=3, field=6)
    donors = draw_donors(PLATE_SAME, cells, pool, seed=0, plate_of=PLATE_OF)
    # elsewhere protein 4 would lend: its own protein never does
    assert (donors.missing == Missing.NO_DONOR_ON_PLATE).all()
    assert (donors.slot == -1).all()
    unlabelled = draw_donors(PLATE_SAME, some_cells([0, 0, 0]), pool, seed=0, plate_of=PLATE_OF)
    assert (unlabelled.missing == Missing.NO_LABEL).all()


@pytest.mark.parametrize("name", ["same", "different"])
@pytest.mark.parametrize("plate_of", [None, np.zeros(11, int)])
def test_on_a_screen_of_one_plate_the_donors_are_those_of_the_plain_setting(pool, name, plate_of):
    cells = some_cells([0, 1, 0], protein=3, field=6)
    plain = draw_donors(get_setting(name), cells, pool, seed=4)
    matched = draw_donors(
        get_setting(f"{name}_plate_matched"), cells, pool, seed=4, plate_of=plate_of
    )
    for own, other in zip(vars(matched).values(), vars(plain).values(), strict=True):
        np.testing.assert_array_equal(own, other)


def test_a_class_that_lends_on_all_plates_is_the_one_that_is_drawn_from_all(pool):
    cells = some_cells([0, 1, 0], protein=4, field=7)
    plain = draw_donors(DIFFERENT, cells, pool, seed=5)
    matched = draw_donors(PLATE_DIFFERENT, cells, pool, seed=5, plate_of=PLATE_OF)
    np.testing.assert_array_equal(matched.localization, plain.localization)


def test_a_dilated_cell_takes_in_what_is_near_and_nothing_else():
    mask = np.zeros((2, 9, 9), np.uint8)
    mask[0, 4, 4], mask[0, 4, 6], mask[1, 0, 0] = CENTRE_CELL, 2, CENTRE_CELL
    wide = dilate(mask, 2)
    y, x = np.ogrid[:9, :9]
    near = [(y - 4) ** 2 + (x - 4) ** 2 <= 4, y**2 + x**2 <= 4]
    np.testing.assert_array_equal(wide == CENTRE_CELL, near)
    assert mask[0, 4, 6] == 2


# select_donors


def bank_cells(counts, *, classes=1, seed=0):
    """Cells of one class; `counts` is {(protein, field): cells}."""
    owners = np.array([owner for owner, n in counts.items() for _ in range(n)])
    n = len(owners)
    ids = np.random.default_rng(seed).choice(2**40, n, replace=False).astype(np.uint64)
    labels = np.zeros((n, classes), bool)
    labels[:, 0] = True
    return Cells(ids, owners[:, 0], owners[:, 1], labels)


def choose(cells, per_class, per_field=0, seed=0):
    return select_donors(cells, per_class=per_class, per_field=per_field, seed=seed, purpose="d")[0]


def test_every_protein_lends_equally_many_and_one_with_fewer_all_it_has():
    cells = bank_cells({(0, 0): 50, (0, 1): 50, (1, 2): 30, (1, 3): 30, (2, 4): 4})
    rows = choose(cells, per_class=60)
    assert np.bincount(cells.protein[rows]).tolist() == [20, 20, 4]


def test_no_field_lends_more_than_its_cap():
    cells = bank_cells({(0, 0): 100, (0, 1): 3, (0, 2): 100})
    # by default twice an even share: 2 * 30 / 3
    assert np.bincount(cells.field[choose(cells, 30)]).max() <= 20
    assert np.bincount(cells.field[choose(cells, 30, per_field=5)]).tolist() == [5, 3, 5]


def test_only_proteins_with_one_class_lend():
    cells = bank_cells({(0, 0): 10, (1, 1): 10, (2, 2): 10}, classes=2)
    labels = cells.labels.copy()
    labels[cells.protein == 1] = [True, True]
    labels[cells.protein == 2] = False
    cells = replace(cells, labels=labels)
    first, second = select_donors(cells, per_class=30, per_field=99, seed=0, purpose="d")
    assert set(cells.protein[first]) == {0}
    assert len(second) == 0


def test_donors_are_sorted_by_protein_then_field():
    cells = bank_cells({(1, 3): 9, (0, 1): 9, (1, 2): 9, (0, 0): 9})
    rows = choose(cells, 20)
    keys = list(zip(cells.protein[rows], cells.field[rows], cells.ids[rows], strict=True))
    assert len(keys) == 20
    assert keys == sorted(keys)


def test_a_bank_smaller_than_its_proteins_takes_one_cell_of_drawn_proteins():
    cells = bank_cells({(p, p): 3 for p in range(40)})
    chosen = {tuple(cells.protein[choose(cells, 10, seed=s)]) for s in range(30)}
    assert all(len(set(proteins)) == len(proteins) == 10 for proteins in chosen)
    counts = np.bincount(np.concatenate([list(c) for c in chosen]), minlength=40)
    # not always the first ones: each protein's share is 30 * 10 / 40
    assert chisquare(counts).pvalue > 1e-3


@given(screens_of_cells(), st.integers(1, 30), st.integers(0, 4), st.randoms())
def test_the_bank_does_not_depend_on_the_order_of_the_cells(cells, per_class, per_field, random):
    def ids(cells):
        chosen = select_donors(cells, per_class=per_class, per_field=per_field, seed=2, purpose="d")
        return [cells.ids[rows].tolist() for rows in chosen]

    shuffled = np.array(random.sample(range(len(cells)), len(cells)))
    expected = ids(cells)
    assert ids(cells.take(shuffled)) == expected
    assert all(len(members) <= per_class for members in expected)


@given(
    screens_of_cells(), st.integers(1, 30), st.integers(0, 4), st.integers(1, 4), st.integers(0, 9)
)
def test_the_bank_is_the_same_when_parts_of_the_screen_are_narrowed_down_first(
    cells, per_class, per_field, parts, seed
):
    drawn = {"seed": seed, "purpose": "d"}
    count = cells.protein.max(initial=-1) + 1
    labels, present = np.zeros((count, cells.labels.shape[1]), bool), np.zeros(count, bool)
    labels[cells.protein], present[cells.protein] = cells.labels, True
    share = shares(labels, present, per_class=per_class, **drawn)
    # all cells of a field lie in one part, as on a plate
    part = np.random.default_rng(seed).integers(0, parts, 1000)[cells.field]
    left = []
    for number in range(parts):
        rows = np.flatnonzero(part == number)
        left.append(rows[shortlist(cells.take(rows), share, **drawn)])
    left = np.concatenate(left)
    groups = np.unique(np.stack([cells.protein, cells.field], axis=1), axis=0)
    assert len(left) <= share[groups[:, 0]].sum()
    expected = select_donors(cells, per_class=per_class, per_field=per_field, **drawn)
    chosen = select_donors(cells.take(left), per_class=per_class, per_field=per_field, **drawn)
    for ours, theirs in zip(chosen, expected, strict=True):
        assert cells.ids[left[ours]].tolist() == cells.ids[theirs].tolist()


def test_seed_and_purpose_change_the_bank():
    cells = bank_cells({(0, 0): 500})
    first = select_donors(cells, per_class=50, per_field=50, seed=0, purpose="a")[0]
    seed = select_donors(cells, per_class=50, per_field=50, seed=1, purpose="a")[0]
    purpose = select_donors(cells, per_class=50, per_field=50, seed=0, purpose="b")[0]
    assert len(first) == 50
    assert set(first) != set(seed)
    assert set(first) != set(purpose)


# the settings as data


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda s: s.name)
def test_a_setting_survives_its_config_and_its_repr(setting):
    assert Setting.from_config(setting.to_config()) == setting
    assert eval(repr(setting), {"Setting": Setting}) == setting
    assert SETTINGS[setting.name] is setting


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'diferent' \(did you mean 'different'\?\)"):
        get_setting("diferent")


def test_which_settings_swap_which_have_each_background_and_which_scale():
    variants = ["dilated_2", "plate_matched"]
    both = [f"{name}_{variant}" for variant in variants for name in ("same", "different")]
    assert [s.name for s in SWAPS] == ["same", "different", "cell_free", "self_swap", *both]
    each = [s.name for s in SETTINGS.values() if s.each_background]
    assert each == ["different", "cell_free", *both[1::2]]
    assert [s.name for s in SWAPS if s.scale] == ["same", "different", "self_swap", *both]


@pytest.fixture
def result(crops, pool):
    """Return a function: all that a setting decides on a few cells, as bytes."""
    from bgscale.models import load_model
    from bgscale.stages.composing import Block, compose, swap
    from bgscale.stages.job import Bank

    image, donor, mask = (np.kron(a, np.ones((4, 4), a.dtype)) for a in crops)
    mask[:, :24] = 0
    n = len(image)
    labels = np.array([[1, 0, 0]] * (n - 1) + [[0, 0, 0]], bool)
    cells = Cells(np.arange(n, dtype=np.uint64), np.zeros(n, int), np.zeros(n, int), labels)
    block = Block(
        cells=cells, image=image, mask=mask, range=ranges(10, 900), usable=np.ones(n, bool)
    )
    bank = Bank(
        pool=pool,
        ids=np.arange(36, dtype=np.uint64).reshape(3, 12),
        image=np.tile(donor[:1], (3, 12, 1, 1, 1)),
        mask=np.tile(mask[:1], (3, 12, 1, 1)),
        range=np.tile(ranges(3, 44)[0], (3, 12, 1, 1)),
    )
    # as PIFiA: standardised, but not when masked
    steps = {"preprocess": ("minmax", "standardise"), "masked_preprocess": ("minmax", "mask")}
    model = load_model("tiny", overrides=steps)

    def of(setting):
        channels = np.arange(len(model.spec.channels))
        lender = bank if setting.swaps else None
        plates = {"plate_of": np.array([0, 0, 0, *[1] * 8])}
        drawn = draw_donors(setting, cells, pool, seed=0, **plates) if setting.swaps else None
        made = swap(block, setting, lender, drawn)
        composed = np.empty((len(made.rows), *image.shape[1:]), np.float32)
        wide = block.dilated(setting.dilate_px)
        compose(wide, setting, lender, made, rows=made.rows, channels=channels, out=composed)
        features = model.embed(composed, wide.mask[made.rows], mode=setting.mode)
        parts = (made.missing, made.donor, composed, *features.values())
        return b"".join(part.tobytes() for part in parts)

    return of


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("same", {"source": "own", "choice": "none"}),
        ("different", {"source": "window"}),
        ("same", {"choice": "different"}),
        ("same", {"choice": "protein"}),
        ("same", {"scale": False}),
        ("cell_free", {"scale": True}),
        ("original", {"refill": "centre"}),
        ("background_only", {"refill": "cells"}),
        ("original", {"mode": "masked"}),
        ("masked", {"mode": "masked_mean"}),
        ("masked", {"dilate_px": 2}),
        ("different", {"dilate_px": 2}),
        ("same", {"same_plate": True}),
    ],
)
def test_each_option_of_a_setting_changes_the_result(result, name, change):
    setting = get_setting(name)
    assert result(replace(setting, **change)) != result(setting)


@pytest.mark.parametrize("field", [f.name for f in fields(Setting)])
def test_each_field_of_a_setting_goes_into_its_config(field):
    setting = get_setting("same")
    changed = replace(setting, **{field: "another"})
    assert changed.to_config() != setting.to_config()
    assert Setting.from_config(changed.to_config()) == changed


@given(st.integers(0, 300), st.integers(1, 70))
def test_blocks_cover_a_length_exactly(length, size):
    covered = [i for part in blocks(length, size) for i in range(part.start, part.stop)]
    assert covered == list(range(length))
