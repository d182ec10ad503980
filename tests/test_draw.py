"""Random choices are functions of seed, purpose and identity, and uniform."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from bgscale import draw

KNOWN_ANSWERS = {
    "zeros": ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}
"""Of philox4x32-10: counter, key, result; `kat_vectors` of the Random123 distribution."""


@pytest.mark.parametrize("name", KNOWN_ANSWERS)
def test_philox_gives_the_known_answers_of_random123(name):
    counter, key, expected = KNOWN_ANSWERS[name]
    low = np.array([counter[0] | counter[1] << 32], np.uint64)
    got = draw.philox(key[0] | key[1] << 32, low, counter[2] | counter[3] << 32)
    assert got.dtype == np.uint32
    assert got[0].tolist() == list(expected)


def test_many_counters_at_once_give_what_few_give():
    counter = np.arange(2 * draw.MANY + 5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    key, stream = 2**64 - 5, (7 << 32) + 9
    few = [draw.philox(key, counter[i : i + 100], stream) for i in range(0, len(counter), 100)]
    np.testing.assert_array_equal(draw.philox(key, counter, stream), np.concatenate(few))


def test_words_are_the_two_low_words_of_the_block():
    ids = np.arange(3, dtype=np.uint64)
    block = draw.philox(draw.digest64(4, "p"), ids, 2)
    expected = [int(b[0]) | int(b[1]) << 32 for b in block]
    assert draw.words(4, "p", ids, 2).tolist() == expected


@pytest.mark.parametrize("bound", [2, 7, 15, 1000])
def test_integers_are_uniform(bound):
    drawn = draw.integers(3, "uniform", np.arange(200_000, dtype=np.uint64), bound)
    assert chisquare(np.bincount(drawn, minlength=bound)).pvalue > 1e-3


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20),
    st.integers(0, 2**63),
    st.integers(0, 2**64 - 1),
)
def test_integers_stay_below_their_bounds_and_an_empty_choice_is_0(bounds, seed, first):
    ids = np.uint64(first) + np.arange(len(bounds), dtype=np.uint64)
    drawn = draw.integers(seed, "p", ids, bounds)
    assert ((drawn >= 0) & (drawn < np.maximum(bounds, 1))).all()


def test_seed_purpose_id_and_stream_each_change_the_draw():
    ids = np.arange(50, dtype=np.uint64)
    reference = draw.words(0, "p", ids)
    others = [draw.words(1, "p", ids), draw.words(0, "q", ids), draw.words(0, "p", ids + 50)]
    others += [draw.words(0, "p", ids, 1), draw.words(0, "p", ids, 1 << 32)]
    assert not any((reference == other).any() for other in others)


@given(st.sets(st.integers(0, 2**64 - 1), min_size=1, max_size=40), st.randoms())
def test_the_order_depends_on_the_set_of_ids_only(ids, random):
    ids = np.array(sorted(ids), np.uint64)
    shuffled = ids.copy()
    random.shuffle(shuffled)
    expected = ids[draw.order(5, "p", ids)]
    assert (shuffled[draw.order(5, "p", shuffled)] == expected).all()
    # leaving some out leaves the order of the others
    part = ids[::2]
    assert (part[draw.order(5, "p", part)] == expected[np.isin(expected, part)]).all()


def test_a_million_cells_have_distinct_ids():
    wells = np.repeat([f"W{i:03d}" for i in range(100)], 10_000).tolist()
    fields = np.tile(np.repeat(["0", "1", "2", "3"], 2_500), 100).tolist()
    labels = np.tile(np.arange(2_500), 400)
    ids = draw.cell_ids("plate", wells, fields, labels)
    assert len(np.unique(ids)) == 1_000_000


def test_cell_ids_are_pinned_since_every_result_hangs_on_them():
    ids = draw.cell_ids("P1", ["A01", "A01", "B02"], ["1", "2", "1"], [7, 7, 7])
    assert ids.dtype == np.uint64
    assert ids.tolist() == [862070713742125707, 2680808008132625348, 1697316448030373707]


def test_cell_ids_tell_plate_well_field_and_label_apart_and_not_the_neighbours():
    one = draw.cell_ids("P1", ["A01"], ["1"], [7])
    others = [
        draw.cell_ids("P2", ["A01"], ["1"], [7]),
        draw.cell_ids("P1", ["A02"], ["1"], [7]),
        draw.cell_ids("P1", ["A01"], ["2"], [7]),
        draw.cell_ids("P1", ["A01"], ["1"], [8]),
    ]
    assert one not in others
    assert draw.cell_ids("P1", ["B01", "A01"], ["1", "1"], [1, 7])[1] == one
    assert len(draw.cell_ids("P1", [], [], [])) == 0
