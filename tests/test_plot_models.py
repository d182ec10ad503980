"""Figures of models side by side: what is drawn is what was compared, in the models' order."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.text import Text
from test_plot import bars, points, set_badly, texts

from bgscale import open_results, plot
from bgscale.comparison import compare
from bgscale.errors import InputError
from bgscale.plot.models import OF_MODELS
from bgscale.plot.style import figure_of
from bgscale.shifted import shifted

ODD = ("plain_$1", "a model that does not see the neighbours: of a very long name")


@pytest.fixture(scope="module")
def found(finished: Path) -> xr.Dataset:
    """Comparison of a model and another that is better by 0.05; weights of the first are random."""
    one = compare([finished])
    other = one.assign({
        name: values + 0.05
        for name, values in one.data_vars.items()
        if str(name).removeprefix("grouped_").startswith(("accuracy", "difference"))
    })  # fmt: skip
    other["random_weights"] = ~one["random_weights"]
    both = xr.concat([one, other], "model").assign_coords(model=["tiny", "other"])
    return both.assign_attrs(one.attrs)


@pytest.fixture(scope="module")
def pair(finished: Path) -> xr.DataTree:
    """Shifts of two models: by the second other proteins shift, and the third was not tested."""
    shifts = open_results(finished)["shifts/tiny"].to_dataset(inherit=False).load()
    one, other = shifts.copy(deep=True), shifts.copy(deep=True)
    for name in ("p", "q", "q_substantial"):
        one[name][:] = 0.001
        other[name][:] = 0.001
        other[name].loc[{"protein": shifts["protein"].values[2]}] = np.nan
    for flag in ("significant", "substantial"):
        one[flag][:] = (np.arange(shifts.sizes["protein"]) < 5).astype(one[flag].dtype)
        other[flag][:] = (np.arange(shifts.sizes["protein"]) == 4).astype(one[flag].dtype)
    other["kl"] = other["kl"] * 0.1
    other["total_variation"] = other["total_variation"] * 0.5
    return xr.DataTree.from_dict({"/shifts/tiny": one, "/shifts/other": other})


@pytest.mark.parametrize(("variable", "dim"), [("accuracy", "setting"), ("difference", "contrast")])
def test_each_model_has_its_point_and_interval_in_each_row(
    found: xr.Dataset, variable: str, dim: str
) -> None:
    ax = plot.comparison(found, variable=variable)
    for name, ink in zip(found["model"].values, OF_MODELS, strict=False):
        at = found.sel(model=name)
        shown = points(ax, ink)
        expected = [at[f"{prefix}{variable}"] for prefix in ("", "grouped_")]
        there = shown[np.isfinite(shown[:, 0])]
        count = found.sizes[dim]
        np.testing.assert_allclose(there[:, 0], np.concatenate(expected))
        np.testing.assert_array_equal(np.round(there[:, 1]), [*range(count), *range(count)])
        ends = [
            [at[f"{prefix}{variable}{end}"] for end in ("_low", "_high")]
            for prefix in ("", "grouped_")
        ]
        drawn = np.concatenate([np.array(one).T for one in ends])
        np.testing.assert_allclose(bars(ax, ink)[..., 0], drawn[np.isfinite(drawn).all(1)])
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend[:2] == ["tiny (random weights)", "other"]


def test_proteins_are_drawn_by_both_models_and_coloured_by_which_shifts_them(
    pair: xr.DataTree,
) -> None:
    for metric in ("kl", "total_variation"):
        ax = plot.shift_comparison(pair, models=("tiny", "other"), setting="masked", metric=metric)
        dots = np.concatenate([np.c_[line.get_data()] for line in ax.lines
                               if line.get_marker() == "o"])  # fmt: skip
        one, other = (shifted(pair, name, setting="masked") for name in ("tiny", "other"))
        names = one.index[other.loc[one.index, "p"].notna()]
        expected = np.c_[one.loc[names, metric], other.loc[names, metric]]
        expected = np.maximum(expected, 1e-4) if metric == "kl" else expected
        np.testing.assert_allclose(dots[np.lexsort(dots.T)], expected[np.lexsort(expected.T)])
        keys = [text.get_text() for text in ax.get_legend().get_texts()]
        rest = len(names) - 4
        assert keys == [f"neither ({rest})", "both (1)", "tiny alone (3)", "other alone (0)"]
        assert ax.get_xlim() == ax.get_ylim()
        assert f"n = {len(names)} proteins" in ax.get_xlabel()
        assert not set_badly(figure_of(ax))


def test_long_and_odd_names_of_models_have_room(found: xr.Dataset, pair: xr.DataTree) -> None:
    odd = found.assign_coords(model=list(ODD))
    shifts = {f"/shifts/{name}": pair[f"shifts/{own}"].to_dataset(inherit=False)
              for name, own in (("plain_$1", "tiny"), ("b" * 60, "other"))}  # fmt: skip
    tree = xr.DataTree.from_dict(shifts)
    scatter = plot.shift_comparison(tree, models=("plain_$1", "b" * 60), setting="masked")
    for ax in (plot.comparison(odd), plot.comparison(odd, variable="difference"), scatter):
        figure = figure_of(ax)
        assert not set_badly(figure)
        assert round(figure.get_figwidth() * 25.4, 3) == 89
        assert {t.get_fontsize() for t in figure.findobj(Text) if t.get_text()} <= {5, 6, 7}
        assert any(r"plain_\$1" in text for text, _ in texts(figure))


def test_what_cannot_be_compared_is_said(found: xr.Dataset, pair: xr.DataTree) -> None:
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        plot.comparison(found, variable="acuracy")
    nothing = found.assign({n: found[n] * np.nan for n in ("difference", "grouped_difference")})
    with pytest.raises(InputError, match="no difference to show"):
        plot.comparison(nothing, variable="difference")
    two = ("tiny", "other")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"models": ["tiny"]}, "expected two models"),
        ({"models": ("tiny", "othr")}, "did you mean 'other'"),
        ({"models": two, "setting": "maskd"}, "did you mean 'masked'"),
        ({"models": two, "metric": "k"}, "there are kl, total_variation"),
    ]
    for what, said in wrong:
        with pytest.raises(InputError, match=said):
            plot.shift_comparison(pair, **what)
    none = pair["shifts/other"].to_dataset(inherit=False)
    tree = xr.DataTree.from_dict({"/shifts/tiny": none, "/shifts/other": none.assign(p=none["p"] * np.nan)})  # fmt: skip  # noqa: E501
    with pytest.raises(InputError, match="for both tiny and other"):
        plot.shift_comparison(tree, models=two)
