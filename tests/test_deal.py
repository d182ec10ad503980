"""Donors that are dealt: none twice as far as they reach, and none that the protocol forbids."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bgscale.schema import Missing
from bgscale.settings import Cells, Donors, Ints, Pool, Setting, deal_donors, get_setting, pack


def pool_of(proteins: list[int], fields: list[int]) -> Pool:
    order = np.lexsort((fields, proteins))
    protein, field = np.array(proteins)[order][None], np.array(fields)[order][None]
    return Pool(np.array([len(order)]), protein, field)


def cells_of(proteins: list[int], fields: list[int]) -> Cells:
    n = len(proteins)
    labels = np.ones((n, 1), bool)
    return Cells(np.arange(n, dtype=np.uint64), np.array(proteins), np.array(fields), labels)


def deal(
    setting: Setting,
    cells: Cells,
    pool: Pool,
    *,
    localization: int = 0,
    seed: int = 0,
    folds: int = 1,
    plate_of: Ints | None = None,
) -> Donors:
    """Deal where no donor's centre cell is covered better than another's."""
    return deal_donors(
        setting,
        cells,
        pool,
        localization=localization,
        seed=seed,
        folds=folds,
        covered=True,
        own_bits=np.zeros((len(cells), 1), np.uint64),
        donor_bits=np.zeros((pool.protein.shape[1], 1), np.uint64),
        plate_of=plate_of,
    )


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30),
    st.sampled_from(["same", "different", "self_swap"]),
)
def test_no_donor_is_forbidden(
    donors: list[tuple[int, int]], cells: list[tuple[int, int]], name: str
) -> None:
    pool = pool_of(*map(list, zip(*donors, strict=True)))
    asking = cells_of(*map(list, zip(*cells, strict=True)))
    dealt = deal(get_setting(name), asking, pool, seed=3)
    alone = len(set(pool.protein[0].tolist())) == 1
    for i, slot in enumerate(dealt.slot):
        own = pool.protein[0] == asking.protein[i]
        elsewhere = pool.field[0] != asking.field[i]
        allowed = own & elsewhere if name == "self_swap" else ~own
        if name != "self_swap" and alone:
            allowed = ~own | elsewhere
        assert (slot >= 0) == allowed.any()
        assert dealt.missing[i] == (Missing.PRESENT if slot >= 0 else Missing.NO_DONOR)
        assert slot < 0 or allowed[slot]


def test_donors_of_the_same_plate_are_dealt_where_there_are_any() -> None:
    pool = pool_of([1] * 10 + [2] * 10, [0] * 10 + [1] * 10)
    asking = cells_of([7] * 12, [0, 1, 2] * 4)
    matched = get_setting("same_plate_matched")
    dealt = deal(matched, asking, pool, plate_of=np.array([0, 1, 2]))
    lent = np.where(dealt.slot < 0, -1, pool.field[0, dealt.slot])
    assert lent.tolist() == [0, 1, -1] * 4
    assert dealt.missing.tolist() == [0, 0, Missing.NO_DONOR_ON_PLATE] * 4
    one = deal(matched, asking, pool, plate_of=np.zeros(3, int))
    assert one.slot.tolist() == deal(get_setting("same"), asking, pool).slot.tolist()


def test_no_donor_comes_twice_while_there_are_others() -> None:
    pool = pool_of([1] * 20 + [2] * 20, [0] * 40)
    asking = cells_of([7] * 40, [0] * 40)
    dealt = deal(get_setting("same"), asking, pool)
    assert sorted(dealt.slot.tolist()) == list(range(40))
    more = deal(get_setting("same"), cells_of([7] * 60, [0] * 60), pool)
    assert np.bincount(more.slot, minlength=40).max() == 2


def test_the_seed_and_the_class_change_the_deal() -> None:
    pool = pool_of([1] * 30, [0] * 30)
    two = Pool(np.array([30, 30]), np.repeat(pool.protein, 2, 0), np.repeat(pool.field, 2, 0))
    asking = cells_of([7] * 10, [0] * 10)
    deals = {
        tuple(deal(get_setting("different"), asking, two, localization=k, seed=s).slot)
        for k in (0, 1)
        for s in (0, 1)
    }
    assert len(deals) == 4


def test_a_donor_is_dealt_to_cells_of_one_fold_only() -> None:
    pool = pool_of([1] * 30 + [2] * 30, [0] * 60)
    fold_of: dict[int, set[int]] = {}
    for protein in (7, 8):
        asking = cells_of([protein] * 50, [0] * 50)
        dealt = deal(get_setting("different"), asking, pool, folds=5)
        assert len(set(dealt.slot.tolist())) == 50
        for i, slot in enumerate(dealt.slot.tolist()):
            fold_of.setdefault(slot, set()).add(i // 10)
    assert max(map(len, fold_of.values())) == 1
    few = pool_of([1, 2], [0, 0])
    assert (deal(get_setting("same"), cells_of([1] * 9, [0] * 9), few, folds=5).slot == 1).all()


def test_the_deal_leaves_the_fewest_pixels_of_donors_visible() -> None:
    rng = np.random.default_rng(0)
    own, donors = (rng.random((n, 8, 8)) < rng.random((n, 1, 1)) for n in (6, 9))
    proteins = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    pool, asking = pool_of(proteins, [0] * 9), cells_of([0, 1, 2, 3, 3, 3], [0] * 6)

    def visible(covered: bool, seed: int = 0) -> int:
        dealt = deal_donors(
            get_setting("same"), asking, pool, localization=0, seed=seed, folds=1, covered=covered,
            own_bits=pack(own.astype(np.uint8)), donor_bits=pack(donors.astype(np.uint8)),
        )  # fmt: skip
        assert len(set(dealt.slot.tolist())) == 6
        return int((donors[dealt.slot] & ~own).sum())

    every = (
        slots
        for slots in itertools.permutations(range(9), 6)
        if all(proteins[s] != p for s, p in zip(slots, asking.protein, strict=True))
    )
    pixels = (donors[None] & ~own[:, None]).sum((2, 3))
    fewest = min(pixels[np.arange(6), list(slots)].sum() for slots in every)
    assert {visible(True, seed) for seed in range(5)} == {fewest}
    assert max(visible(False, seed) for seed in range(5)) > fewest
