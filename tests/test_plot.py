"""Figures: what is drawn is what the store holds, and it can be printed as it is."""

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from bgscale import dependence, open_results, plot
from bgscale.cli import main
from bgscale.controls import groups_of, neighbours_of
from bgscale.errors import InputError
from bgscale.plot.labels import Label, place
from bgscale.plot.style import COLOURS, figure_of, plain
from bgscale.rows import full_table
from bgscale.shifted import shift_shares, shifted

PANELS: dict[str, dict[str, str]] = {
    "accuracy": {},
    "table": {},
    "sensitivity": {},
    "harm": {"setting": "cell_free"},
    "confusion": {},
    "neighbours": {},
    "shift_distribution": {},
    "volcano": {"setting": "masked"},
    "proportions": {"protein": ""},
    "reliability": {"fit": "matched", "setting": "masked"},
}
LONG = ("nuclear pore complex, outer ring and basket", "ER", "endocytosis_machinery_$1", "a" * 30)


@pytest.fixture(scope="module")
def tree(finished: Path) -> xr.DataTree:
    return open_results(finished)


@pytest.fixture(scope="module")
def proteome(tree: xr.DataTree) -> xr.DataTree:
    """Shifts of 4,000 proteins, some of them far and sure."""
    rng = np.random.default_rng(0)
    few = tree["shifts/tiny"].to_dataset(inherit=False).load()
    many = few.isel(protein=np.arange(4000) % few.sizes["protein"])
    many = many.assign_coords(protein=[f"YAL{k:03}W-{k % 7}" for k in range(4000)])
    shape, dims = (2, 5, 4000), ("fit", "setting", "protein")
    variation = rng.beta(1, 6, shape)
    q = np.maximum(10 ** (-30 * variation * rng.random(shape)), 1e-5)
    for name, values in {
        "kl": rng.lognormal(-1, 1, shape), "total_variation": variation, "p": q / 2, "q": q,
        "q_substantial": np.minimum(1, q * 5), "significant": (q <= 0.05).astype(np.uint8),
        "substantial": (variation > 0.3).astype(np.uint8),
    }.items():  # fmt: skip
        many[name] = (dims, values)
    return xr.DataTree.from_dict({"/shifts/tiny": many})


def drawn(tree: xr.DataTree, name: str, **more: Any) -> Axes:
    what = {**PANELS[name], **more}
    if what.get("protein") == "":
        what["protein"] = str(tree["proteins"]["protein"].values[0])
    found: Axes = getattr(plot, name)(tree, model="tiny", **what)
    return found


def renamed(tree: xr.DataTree, names: tuple[str, ...]) -> xr.DataTree:
    """Return the tree with other names of the classes."""
    nodes = {}
    plate = f"plates/{tree.attrs['plates'][0]}"
    for path in ("evaluation/tiny", "controls/tiny", "shifts/tiny", "proteins", "centres", plate,
                 f"{plate}/cells", f"{plate}/crops"):  # fmt: skip
        node = tree[path].to_dataset(inherit=False)
        own = {d: list(names) for d in node.coords if str(d).startswith("localization")}
        if "background" in node.coords:
            own["background"] = [node["background"].values[0], *names]
        nodes[path] = node.assign_coords(own)
    made = xr.DataTree.from_dict({f"/{path}": node for path, node in nodes.items()})
    made.attrs = tree.attrs
    return made


def points(ax: Axes, ink: str) -> np.ndarray:
    """Return the points of a colour that are drawn with their intervals: (point, x or y)."""
    found = [
        np.column_stack(line.get_data())
        for line in ax.lines
        if line.get_marker() == "o"
        and line.get_linestyle() == "None"
        and len(line.get_xdata())
        and to_hex(line.get_color()) == ink
    ]
    return np.concatenate(found)


def bars(ax: Axes, ink: str) -> np.ndarray:
    """Return the ends of the intervals of a colour: (bar, end, x or y)."""
    found = [
        np.asarray(one.get_segments())
        for one in ax.collections
        if isinstance(one, LineCollection) and to_hex(one.get_color()[0]) == ink
    ]
    return np.concatenate([np.zeros((0, 2, 2)), *(one for one in found if len(one))])


def texts(figure: Figure) -> list[tuple[str, Any]]:
    """Return what is written and where, in pixels."""
    figure.draw_without_rendering()
    hidden = {id(t) for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for t in _hidden(axis)}
    return [
        (one.get_text(), Text.get_window_extent(one))
        for one in figure.findobj(Text)
        if isinstance(one, Text)
        and id(one) not in hidden
        and one.get_visible()
        and one.get_text().strip()
    ]


def _hidden(axis: Any) -> list[Text]:
    """Return labels of ticks outside the view, which matplotlib keeps but does not draw."""
    low, high = sorted(axis.get_view_interval())
    margin = 1e-9 * (high - low)
    return [
        label
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not (low - margin <= tick.get_loc() <= high + margin)
    ]


def set_badly(figure: Figure) -> list[str]:
    """Return texts that lie on one another or are cut off by the edge."""
    written = texts(figure)
    wide, high = figure.bbox.width, figure.bbox.height
    found = [
        text for text, box in written
        if box.x0 < -1 or box.y0 < -1 or box.x1 > wide + 1 or box.y1 > high + 1
    ]  # fmt: skip
    for (one, a), (other, b) in combinations(written, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        along = min(a.y1, b.y1) - max(a.y0, b.y0)
        if across > 2 and along > 2:
            found.append(f"{one} on {other}")
    return found


# what is drawn


def test_accuracy_has_a_point_of_each_class_under_each_setting(tree: xr.DataTree) -> None:
    ax = drawn(tree, "accuracy")
    means = full_table(tree["evaluation/tiny"].to_dataset())["localization_mean"]
    shown = ("same", "different", "cell_free", "masked")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "same", "different", "cell free", "masked",
    ]  # fmt: skip
    for name, dots in zip(shown, ax.collections, strict=True):
        expected = np.c_[means.sel(setting="original"), means.sel(setting=name)]
        np.testing.assert_allclose(dots.get_offsets(), expected)
        assert to_hex(dots.get_facecolor()[0]) == COLOURS[name]


@pytest.mark.parametrize("aggregate", ["symmetric", "published"])
def test_the_table_has_published_and_grouped_folds_with_their_intervals(
    tree: xr.DataTree, aggregate: Any
) -> None:
    ax = plot.table(tree, model="tiny", aggregate=aggregate)
    made = full_table(tree["evaluation/tiny"].to_dataset(), aggregate=aggregate)
    for row, setting in enumerate(made["setting"].values):
        at = made.sel(setting=setting)
        shown = points(ax, COLOURS[setting])
        np.testing.assert_allclose(shown[:, 0], [at["mean"], at["grouped_mean"]])
        assert (np.round(shown[:, 1]) == row).all()
        ends = [[at[p + "low"], at[p + "high"]] for p in ("", "grouped_")]
        ends = [one for one in ends if np.isfinite(one).all()]
        np.testing.assert_allclose(bars(ax, COLOURS[setting])[..., 0], np.array(ends, float))
    assert "published folds" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_sensitivity_is_the_loss_of_each_class_the_largest_first(tree: xr.DataTree) -> None:
    ax = drawn(tree, "sensitivity")
    found = dependence.sensitivity(tree["evaluation/tiny"].to_dataset())
    losses = found["accuracy_difference"].sel(contrast="same - different").to_series()
    shown = points(ax, COLOURS["same"])
    np.testing.assert_allclose(shown[:, 0], losses.sort_values(ascending=False))
    rows = [text.get_text().replace("\n", " ") for text in ax.get_yticklabels()]
    assert losses.loc[rows].is_monotonic_decreasing
    low = found["accuracy_difference_low"].sel(contrast="original - different", localization=rows)
    np.testing.assert_allclose(bars(ax, COLOURS["different"])[:, 0, 0], low)


@pytest.mark.parametrize("setting", ["different", "cell_free"])
def test_harm_is_what_each_background_takes_from_each_class(
    tree: xr.DataTree, setting: str
) -> None:
    ax = drawn(tree, "harm", setting=setting)
    found = dependence.background_harm(tree["evaluation/tiny"].to_dataset()).sel(setting=setting)
    meshes = [
        c for c in ax.collections if isinstance(c, QuadMesh) and c.cmap.name == "loss and gain"
    ]
    for mesh, name in zip(meshes, ("change", "overall"), strict=True):
        values = np.ma.filled(mesh.get_array(), np.nan)
        np.testing.assert_allclose(values, np.atleast_2d(found[name]), err_msg=name)
    assert meshes[0].get_clim() == meshes[1].get_clim()
    assert -meshes[0].get_clim()[0] == meshes[0].get_clim()[1]
    unsure = [(found[f"{k}_low"] <= 0) & (found[f"{k}_high"] >= 0) for k in ("change", "overall")]
    dots = sum(len(line.get_xdata()) for line in ax.lines if line.get_gid() == "dots")
    assert dots == sum(int(one.sum()) for one in unsure)


def test_confusion_is_the_share_taken_for_the_background(tree: xr.DataTree) -> None:
    ax = drawn(tree, "confusion")
    evaluation = tree["evaluation/tiny"].to_dataset()
    found = dependence.background_confusion(
        evaluation, tree["controls/tiny"].to_dataset(), groups=groups_of(tree, evaluation)
    ).sel(setting="different")
    mesh = next(c for c in ax.collections if getattr(c, "cmap", None) and c.cmap.name == "shares")
    assert isinstance(mesh, QuadMesh)
    shown = np.ma.filled(mesh.get_array(), np.nan)
    np.testing.assert_allclose(shown, found["told_as_background"])
    assert mesh.get_clim() == (0, 1)
    dots = next(line for line in ax.lines if line.get_gid() == "dots")
    assert len(dots.get_xdata()) == int((found["excess_low"] <= 0).sum())


def test_neighbours_are_told_by_number_and_by_share_of_the_crop(tree: xr.DataTree) -> None:
    ax = drawn(tree, "neighbours")
    evaluation = tree["evaluation/tiny"].to_dataset()
    counts, share = neighbours_of(tree)
    found = dependence.by_neighbours(
        evaluation, neighbours=counts, share=share, groups=groups_of(tree, evaluation)
    )
    for setting in ("original", "different"):
        at = found.sel(setting=setting)
        expected = np.concatenate([at["recall_by_neighbours"], at["recall_by_share"]])
        np.testing.assert_allclose(points(ax, COLOURS[setting])[:, 1], expected)
        low = np.concatenate([at["recall_by_neighbours_low"], at["recall_by_share_low"]])
        ends = bars(ax, COLOURS[setting])
        np.testing.assert_allclose(ends[:, 0, 1], low[np.isfinite(low)])
    labels = [text.get_text() for text in ax.get_xticklabels()]
    cells = found["recall_by_neighbours_n_cells"].max("setting").values
    assert labels[0] == f"0\n({cells[0]:,})"
    assert labels[-1].startswith("40-100%\n")


@pytest.mark.parametrize("fit", ["fixed", "matched"])
def test_the_distribution_has_every_protein_its_quartiles_and_the_shares(
    tree: xr.DataTree, fit: str
) -> None:
    ax = drawn(tree, "shift_distribution", fit=fit)
    kl = tree["shifts/tiny"]["kl"].sel(fit=fit)
    lines = {name: [x for x in ax.lines if x.get_gid() == name]
             for name in ("proteins", "quartiles", "median")}  # fmt: skip
    written = [text.get_text() for text in ax.texts]
    for row, setting in enumerate(("same", "different", "cell_free", "masked")):
        values = kl.sel(setting=setting).values
        values = values[np.isfinite(values)]
        np.testing.assert_allclose(lines["proteins"][row].get_xdata(), values)
        assert (np.round(lines["proteins"][row].get_ydata()) == row).all()
        np.testing.assert_allclose(
            lines["quartiles"][row].get_xdata(), np.quantile(values, [0.25, 0.75])
        )
        np.testing.assert_allclose(lines["median"][row].get_xdata(), np.median(values))
        shares = shift_shares(tree, "tiny", setting=setting, fit=fit)
        if shares["tested"]:
            text = f"{shares['share_significant']:.0%} / "
            text += f"{shares['share_significant_and_substantial']:.0%}"
        else:
            text = "untested"
        assert text == written[row]


def test_of_thousands_of_proteins_there_is_the_density_and_the_surest_are_named(
    proteome: xr.DataTree, tmp_path: Path
) -> None:
    ax = drawn(proteome, "shift_distribution")
    assert not [line for line in ax.lines if line.get_gid() == "proteins"]
    assert len(ax.collections) == 4
    assert plot.save(ax, tmp_path / "few.svg").stat().st_size < 100_000
    assert not set_badly(figure_of(ax))

    ax = drawn(proteome, "volcano")
    frame = shifted(proteome, "tiny", setting="masked")
    sure = frame[frame["significant"] & frame["substantial"]]
    other, coloured = (line for line in ax.lines if line.get_marker() == "o")
    assert len(coloured.get_xdata()) == len(sure) > 20
    assert len(other.get_xdata()) == 4000 - len(sure)
    np.testing.assert_allclose(coloured.get_xdata(), sure["total_variation"])
    np.testing.assert_allclose(coloured.get_ydata(), -np.log10(sure["q"]))
    named = [text.get_text() for text in ax.texts]
    assert named
    first = sure.sort_values(["q_substantial", "total_variation"], ascending=[True, False])
    assert set(named) <= set(first.index[:12])
    assert first.index[0] in named
    assert not set_badly(figure_of(ax))


def test_a_volcano_has_the_tested_proteins_alone(tree: xr.DataTree) -> None:
    changed = tree["shifts/tiny"].to_dataset().load().copy(deep=True)
    one = {"fit": 0, "setting": 4, "protein": 0}
    for name in ("p", "q", "q_substantial"):
        changed[name][one] = np.nan
    ax = drawn(xr.DataTree.from_dict({"/shifts/tiny": changed}), "volcano")
    tested = int(np.isfinite(changed["p"].sel(fit="fixed", setting="masked")).sum())
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert sum(len(line.get_xdata()) for line in dots) == tested
    assert f"(n = {tested} proteins)" in ax.get_xlabel()


def test_proportions_have_intervals_and_sum_to_one_with_the_others(tree: xr.DataTree) -> None:
    for protein in tree["proteins"]["protein"].values:
        ax = drawn(tree, "proportions", protein=protein)
        at = tree["shifts/tiny"].to_dataset().sel(fit="fixed", protein=protein)
        rows = [text.get_text().replace("\n", " ") for text in ax.get_yticklabels()]
        classes = [row for row in rows if not row.startswith("other")]
        label = tree["proteins"]["label"].sel(protein=protein).to_series().astype(bool)
        bold = {t.get_text() for t in ax.get_yticklabels() if t.get_fontweight() == "bold"}
        assert {text.replace("\n", " ") for text in bold} == set(label.index[label]) & set(classes)
        for setting in at["setting"].values:
            own = at.sel(setting=setting, localization=classes)
            shown = points(ax, COLOURS[setting])
            np.testing.assert_allclose(shown[: len(classes), 0], own["proportion"])
            assert shown[:, 0].sum() == pytest.approx(1)
            ends = bars(ax, COLOURS[setting])[..., 0]
            for end, name in enumerate(("proportion_low", "proportion_high")):
                kept = own[name].values[np.isfinite(own[name])]
                np.testing.assert_allclose(ends[:, end], kept)


def test_reliability_is_the_share_told_right_by_softmax(tree: xr.DataTree) -> None:
    ax = drawn(tree, "reliability", fit="fixed", setting="original")
    at = tree["reliability/tiny"].to_dataset().sel(fit="fixed", setting="original", label="top")
    shown = points(ax, COLOURS["original"])
    np.testing.assert_allclose(shown, np.c_[at["confidence"], at["observed"]])
    heights = np.array([patch.get_height() for patch in ax.patches])
    np.testing.assert_allclose(heights / heights.max(), at["n_cells"] / at["n_cells"].max())
    assert f"n = {int(at['n_cells'].sum()):,} cells" in ax.get_xlabel()
    assert f"{float(at['calibration_error']):.3f}" in ax.texts[1].get_text()


def test_the_montage_is_the_sample_of_the_store(tree: xr.DataTree) -> None:
    axes = plot.settings(tree, channel="cytosol", example=1)
    sample = tree["sample"].to_dataset().sel(channel="cytosol").isel(example=1)
    assert axes.shape == (4, 5)
    there = sample["missing"].values == 0
    for k, s in np.ndindex(axes.shape):
        assert len(axes[k, s].images) == there[k, s]
        if there[k, s]:
            np.testing.assert_array_equal(axes[k, s].images[0].get_array(), sample["image"][k, s])
            assert axes[k, s].images[0].get_clim() == axes[k, 0].images[0].get_clim()


# how it is drawn


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_is_drawn_where_one_says_and_nothing_global_changes(
    tree: xr.DataTree, name: str
) -> None:
    before = dict(matplotlib.rcParams)
    figure = Figure(layout="constrained")
    left, right = figure.subplots(1, 2)
    assert drawn(tree, name, ax=right) is right
    assert right.has_data()
    assert not left.has_data()
    assert dict(matplotlib.rcParams) == before
    assert drawn(tree, name).figure is not figure


@pytest.mark.parametrize("name", PANELS)
def test_a_figure_is_as_wide_as_a_column_and_no_text_lies_on_another(
    tree: xr.DataTree, name: str
) -> None:
    figure = figure_of(drawn(tree, name))
    assert round(figure.get_figwidth() * 25.4, 3) in (89, 183)
    assert not set_badly(figure)
    assert {t.get_fontsize() for t in figure.findobj(Text) if t.get_text()} <= {5, 6, 7}


@pytest.mark.parametrize("name", ["accuracy", "sensitivity", "harm", "confusion", "proportions"])
def test_long_and_odd_names_are_drawn_as_they_are(tree: xr.DataTree, name: str) -> None:
    figure = figure_of(drawn(renamed(tree, LONG), name))
    assert not set_badly(figure)
    if name != "proportions":
        written = " ".join(text for text, _ in texts(figure)).replace("\n", " ")
        assert LONG[1] in written
        assert name == "accuracy" or plain("machinery_$1") in written


def test_random_weights_are_said_in_the_figure(tree: xr.DataTree) -> None:
    assert "random weights" in drawn(tree, "table").get_xlabel()
    assert "random weights" in drawn(tree, "neighbours").get_title(loc="left")
    node = tree["evaluation/tiny"].to_dataset().assign_attrs(random_weights=False)
    trained = xr.DataTree.from_dict({"/evaluation/tiny": node})
    assert "random" not in plot.table(trained, model="tiny").get_xlabel()


def test_names_find_a_free_place_or_none() -> None:
    ax = Figure(figsize=(3, 3)).subplots()
    rng = np.random.default_rng(1)
    at = np.concatenate([rng.normal(0, 0.02, (60, 2)), [[1, 1]]])
    ax.plot(*at.T, "o", markersize=2)
    labels = [Label(f"P{k}", *at[k]) for k in (60, *range(30))]
    named = place(ax, labels, at)
    assert named[0] == "P60"
    assert 3 < len(named) < 31
    assert [text.get_text() for text in ax.texts] == named
    figure_of(ax).draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in ax.texts]
    assert not [1 for a, b in combinations(boxes, 2) if a.overlaps(b)]
    pixels = ax.transData.transform(at)
    assert not [1 for box in boxes for x, y in pixels if box.contains(x, y)]


# files


def test_letters_stay_letters_and_the_same_figure_has_the_same_bytes(
    tree: xr.DataTree, tmp_path: Path
) -> None:
    one, two = (plot.save(drawn(tree, "table"), tmp_path / f"{n}.svg") for n in (1, 2))
    text = one.read_text(encoding="utf-8")
    assert ">different</text>" in text
    assert 'width="252.283465pt"' in text  # 89 mm
    assert one.read_bytes() == two.read_bytes()
    one, two = (plot.save(drawn(tree, "table"), tmp_path / f"{n}.pdf") for n in (1, 2))
    assert one.read_bytes() == two.read_bytes()
    assert b"/Type0" in one.read_bytes()
    assert b"/Type3" not in one.read_bytes()
    figure = figure_of(drawn(tree, "table"))
    path = plot.save(figure, tmp_path / "a.PNG", transparent=True)
    wide = int.from_bytes(path.read_bytes()[16:20], "big")
    assert wide == int(figure.get_figwidth() * 300)


def test_a_very_large_figure_has_fewer_dots_an_inch(tmp_path: Path) -> None:
    path = plot.save(Figure(figsize=(1, 2000)), tmp_path / "tall.png")
    wide, high = (int.from_bytes(path.read_bytes()[k : k + 4], "big") for k in (16, 20))
    assert 50_000 < high <= 60_000
    assert wide * 2000 == pytest.approx(high, rel=0.05)


def test_a_format_or_folder_that_is_not_there_is_an_error(
    tree: xr.DataTree, tmp_path: Path
) -> None:
    ax = drawn(tree, "table")
    with pytest.raises(InputError, match=r"no format 'tif'; expected .* \.svg, \.pdf, \.png"):
        plot.save(ax, tmp_path / "a.tif")
    with pytest.raises(InputError, match="there is no folder"):
        plot.save(ax, tmp_path / "none" / "a.svg")


# what is not there


@pytest.mark.parametrize("name", PANELS)
def test_a_model_that_is_not_there_is_named_with_the_nearest(tree: xr.DataTree, name: str) -> None:
    what = {**PANELS[name], "model": "tinny"}
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        getattr(plot, name)(tree, **what)
    with pytest.raises(InputError, match="none yet"):
        getattr(plot, name)(xr.DataTree(), **what)


@pytest.mark.parametrize(
    ("name", "what", "said"),
    [
        ("harm", {"setting": "diferent"}, "did you mean 'different'"),
        ("harm", {"setting": "masked"}, "there are different, cell_free"),
        ("confusion", {"setting": "cellfree"}, "did you mean 'cell_free'"),
        ("volcano", {"setting": "maskd"}, "did you mean 'masked'"),
        ("volcano", {"setting": "original"}, "setting to compare with original"),
        ("volcano", {"fit": "matchd"}, "did you mean 'matched'"),
        ("shift_distribution", {"fit": "fix"}, "did you mean 'fixed'"),
        ("proportions", {"protein": "SIM0001"}, "did you mean 'SIM001'"),
        ("reliability", {"setting": "orignal"}, "did you mean 'original'"),
    ],
)
def test_names_that_are_not_there_are_said_with_the_nearest(
    tree: xr.DataTree, name: str, what: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        drawn(tree, name, **what)


def test_a_channel_or_example_that_is_not_there_is_an_error(tree: xr.DataTree) -> None:
    with pytest.raises(InputError, match="did you mean 'protein'"):
        plot.settings(tree, channel="protien")
    with pytest.raises(InputError, match="no example 7; there are 0 to"):
        plot.settings(tree, example=7)
    with pytest.raises(InputError, match="`bgscale run` makes it"):
        plot.settings(xr.DataTree())


@pytest.mark.parametrize("name", PANELS)
def test_what_is_planned_but_not_done_is_no_empty_picture(tree: xr.DataTree, name: str) -> None:
    def empty(values: xr.DataArray) -> xr.DataArray:
        if values.dtype.kind == "f":
            return xr.full_like(values, np.nan)
        return xr.full_like(values, -1) if values.dtype == np.int8 else xr.zeros_like(values)

    nodes = {f"/{kind}/tiny": tree[f"{kind}/tiny"].to_dataset(inherit=False)
             for kind in ("evaluation", "controls", "shifts", "reliability")}  # fmt: skip
    kind = {"confusion": "controls", "reliability": "reliability"}.get(
        name, "shifts" if name in ("shift_distribution", "volcano", "proportions") else "evaluation"
    )
    nodes[f"/{kind}/tiny"] = nodes[f"/{kind}/tiny"].map(empty, keep_attrs=True)
    nodes |= {f"/{one}": tree[one].to_dataset() for one in ("proteins", "centres")}
    with pytest.raises(InputError, match=r"is not done yet: `bgscale run` goes on"):
        drawn(xr.DataTree.from_dict(nodes), name)


def test_of_two_classes_there_is_no_background_to_do_harm(tree: xr.DataTree) -> None:
    two = tree["evaluation/tiny"].to_dataset()[["accuracy"]].isel(
        localization_a=slice(2), localization_b=slice(2), background=slice(3)
    )  # fmt: skip
    few = xr.DataTree.from_dict({"/evaluation/tiny": two})
    with pytest.raises(InputError, match="takes three localizations"):
        plot.harm(few, model="tiny")


# all of them


def test_the_command_draws_what_there_is_and_says_what_is_not(
    finished: Path, tmp_path: Path
) -> None:
    arguments = ["plot", str(finished), "-o", str(tmp_path / "figures")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    written = sorted(path.stem for path in (tmp_path / "figures").iterdir())
    assert sorted(Path(line).stem for line in result.stdout.split()) == written
    kinds = {name.split("-")[0] for name in written}
    assert kinds == set(plot.FIGURES) - {"quality", "comparison", "shift_comparison"}
    assert "volcano-tiny-cell_free" in written
    assert re.search(r"not drawn: quality: .*quality is that of plates", result.stderr)

    chosen = [*arguments, "--figure", "volcano", "--figure", "quality", "--format", "png"]
    result = CliRunner().invoke(main, chosen)
    assert result.exit_code == 2
    assert "could not draw quality" in result.stderr
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4
    for wrong, said in (
        (["--figure", "vulcano"], "did you mean 'volcano'"),
        (["--model", "tinny"], "did you mean 'tiny'"),
        (["--figure", "proportions", "--protein", "SIM0"], "no protein 'SIM0'"),
        (["--figure", "comparison"], "models are set side by side where there are two or more"),
    ):
        result = CliRunner().invoke(main, [*arguments, *wrong])
        assert result.exit_code == 2
        assert said in result.stderr


def test_files_have_safe_and_different_names(finished: Path) -> None:
    proteins = ("../../etc/x", "a b", "a_b", "A_B", "é<script>")
    found = plot.every(finished, figures=["proportions"], proteins=proteins)
    names = [one.name for one in found]
    assert len({name.casefold() for name in names}) == 5
    assert not [name for name in names if re.search(r"[/\\<> ]|^\.", name)]


def test_every_figure_has_a_function() -> None:
    functions: list[Callable[..., Any]] = [getattr(plot, name) for name in plot.FIGURES]
    assert all(function.__doc__ for function in functions)
