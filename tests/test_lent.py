"""How often each donor lent its background is counted, by setting and by its localization."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from screens import config_of

from bgscale import open_results
from bgscale.cli import main
from bgscale.errors import InputError
from bgscale.lent import ALL, lent
from bgscale.run import Run


def counted(tree, setting, bank, localization=None):
    """Return uses, proteins and fields of the donors of a setting, counted one by one."""
    ids, protein, field = (tree[bank][n].to_numpy() for n in ("id", "protein", "field"))
    place = {int(ids[at]): at for at in zip(*np.nonzero(ids), strict=True)}
    uses = Counter()
    for plate in tree.attrs["plates"]:
        donor = tree[f"plates/{plate}/embeddings/tiny/donor"].sel(setting=setting)
        uses.update(int(one) for one in donor.to_numpy() if one)
    if localization is not None:
        uses = Counter({one: n for one, n in uses.items() if place[one][0] == localization})
    return uses, {protein[place[one]] for one in uses}, {field[place[one]] for one in uses}


@pytest.mark.parametrize("store", ["finished", "plates"])
def test_donors_are_counted_by_setting_and_localization(store: str, request) -> None:
    store = request.getfixturevalue(store)
    tree, table = open_results(store), lent(store).set_index(["setting", "localization"])
    assert table.index.get_level_values(0).unique().tolist() == ["same", "different", "cell_free"]
    for setting, bank in (("same", "donors"), ("different", "donors"), ("cell_free", "windows")):
        for k, name in [(None, ALL), *enumerate(tree["donors"]["localization"].to_numpy())]:
            uses, proteins, fields = counted(tree, setting, bank, k)
            row = table.loc[(setting, name)]
            assert uses
            assert row["cells"] == sum(uses.values())
            assert row["donors"] == len(uses) <= row["in_bank"]
            assert (row["proteins"], row["fields"]) == (len(proteins), len(fields))
            assert row["median_uses"] == np.median(list(uses.values()))
            assert row["most_uses"] == max(uses.values())


def test_the_command_prints_the_table(finished: Path) -> None:
    shown = CliRunner().invoke(main, ["donors", str(finished)])
    assert shown.exit_code == 0
    assert shown.stdout.split()[:4] == ["setting", "localization", "cells", "donors"]
    asked = CliRunner().invoke(main, ["donors", str(finished), "--json"])
    assert json.loads(asked.stdout) == json.loads(lent(finished).to_json(orient="records"))


def test_what_is_not_embedded_yet_has_lent_nothing(small_screen: Path, tmp_path: Path) -> None:
    config = config_of(small_screen, tmp_path, settings=["original", "masked"])
    Run.from_config(config).execute(until="bank")
    with pytest.raises(InputError, match="embeddings/tiny yet"):
        lent(config.store)
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        lent(config.store, model="tinny")
    Run.from_config(config).execute(until="embed")
    with pytest.raises(InputError, match="no setting"):
        lent(config.store)


def test_another_bank_is_of_other_cells_of_the_same_pool(
    small_screen: Path, tmp_path: Path
) -> None:
    banks, tokens = [], []
    for bank in (0, 1):
        donors = {"per_class": 10, "windows_per_class": 10, "min_pool": 5, "bank": bank}
        config = config_of(small_screen, tmp_path, donors=donors)
        run = Run.from_config(config)
        run.execute(until="donors", redo=True)
        tree = open_results(config.store)
        banks.append({kind: tree[kind]["id"].to_numpy() for kind in ("donors", "windows")})
        banks[-1]["centres"] = tree["centres"]["id"].to_numpy()
        tokens.append(next(stage.token for stage in run.stages if stage.name == "donors"))
    for kind in ("donors", "windows"):
        first, second = (one[kind] for one in banks)
        assert first.shape == second.shape
        shared = np.isin(first, second).mean()
        assert 0 < shared < 0.9
    np.testing.assert_array_equal(banks[0]["centres"], banks[1]["centres"])
    assert tokens[0] != tokens[1]
