"""Donors that are dealt: none twice as far as they reach, and none that the protocol forbids."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bgscale.schema import Missing
from bgscale.settings import Cells, Pool, deal_donors, get_setting


def pool_of(proteins: list[int], fields: list[int]) -> Pool:
    order = np.lexsort((fields, proteins))
    protein, field = np.array(proteins)[order][None], np.array(fields)[order][None]
    return Pool(np.array([len(order)]), protein, field)


def cells_of(proteins: list[int], fields: list[int]) -> Cells:
    n = len(proteins)
    labels = np.ones((n, 1), bool)
    return Cells(np.arange(n, dtype=np.uint64), np.array(proteins), np.array(fields), labels)


@settings(max_examples=60, deadline=None)
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
    dealt = deal_donors(get_setting(name), asking, pool, localization=0, seed=3)
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


def test_no_donor_comes_twice_while_there_are_others() -> None:
    pool = pool_of([1] * 20 + [2] * 20, [0] * 40)
    asking = cells_of([7] * 40, [0] * 40)
    dealt = deal_donors(get_setting("same"), asking, pool, localization=0, seed=0)
    assert sorted(dealt.slot.tolist()) == list(range(40))
    more = deal_donors(get_setting("same"), cells_of([7] * 60, [0] * 60), pool,
                       localization=0, seed=0)  # fmt: skip
    assert np.bincount(more.slot, minlength=40).max() == 2


def test_the_seed_and_the_class_change_the_deal() -> None:
    pool = pool_of([1] * 30, [0] * 30)
    two = Pool(np.array([30, 30]), np.repeat(pool.protein, 2, 0), np.repeat(pool.field, 2, 0))
    asking = cells_of([7] * 10, [0] * 10)
    deals = {
        tuple(deal_donors(get_setting("different"), asking, two, localization=k, seed=s).slot)
        for k in (0, 1)
        for s in (0, 1)
    }
    assert len(deals) == 4
