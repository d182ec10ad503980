"""Names lead to factories; plug-ins can break without taking the rest along."""

from importlib.metadata import EntryPoint

import pytest

from bgscale import errors, registry
from bgscale.errors import InputError, UnknownNameError, nearest
from bgscale.registry import Registry


@pytest.fixture
def plugged(monkeypatch):
    """Return a registry with one built-in and three plug-ins, of which one is broken."""
    plugins = [
        EntryPoint("zeta", "math:pi", "g"),
        EntryPoint("broken", "no_such_module_at_all:Model", "g"),
        EntryPoint("sqrt", "math:tau", "g"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: plugins if group == "g" else [])
    return Registry("model", {"sqrt": "math:sqrt"}, group="g")


def test_an_unknown_name_is_answered_with_the_nearest_and_all_known(plugged):
    with pytest.raises(UnknownNameError, match=r"unknown model 'zeto' \(did you mean 'zeta'\?\)"):
        plugged["zeto"]
    with pytest.raises(LookupError, match="known: sqrt, broken, zeta"):
        plugged["qqqqqqqq"]


def test_a_broken_plugin_stays_listed_and_fails_when_it_is_used(plugged):
    assert list(plugged) == ["sqrt", "broken", "zeta"]
    assert "broken" in plugged
    with pytest.raises(InputError, match="'broken' comes from the plug-in 'no_such_module_at_all"):
        plugged["broken"]


def test_a_plugin_works_beside_a_broken_one_and_does_not_replace_a_built_in(plugged):
    assert plugged["zeta"] == pytest.approx(3.14159, abs=1e-5)
    assert plugged["sqrt"](9.0) == 3.0


def test_without_a_group_there_are_no_plugins():
    assert list(Registry("model", {"sqrt": "math:sqrt"})) == ["sqrt"]


def test_every_error_is_also_a_built_in_one_and_carries_its_exit_code():
    codes = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.BgscaleError)
    }
    assert codes == {
        "BgscaleError": 1,
        "InputError": 2,
        "ConfigError": 2,
        "SchemaError": 2,
        "AlignmentError": 2,
        "UnknownNameError": 2,
        "StoreMismatchError": 2,
        "UnitError": 1,
        "FieldError": 2,
        "DiskFullError": 74,
        "InterruptedRunError": 75,
    }
    assert issubclass(InputError, ValueError)
    assert issubclass(errors.DiskFullError, OSError)
    assert issubclass(errors.UnitError, RuntimeError)


def test_the_nearest_name_is_found_whatever_the_case():
    assert nearest("ORIGINAL", ["masked", "Original"]) == " (did you mean 'Original'?)"
