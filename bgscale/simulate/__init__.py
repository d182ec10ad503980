"""Screens with planted truth: fluorescence fields of budding yeast, for demo, tests and benchmarks.

`spec` says what a screen is and which proteins it has; `colony` where the cells of a field lie;
`localizations` how a protein looks in a cell; `field` renders a field of view; `crops` and `plates`
write a screen of either kind. The one idea: a field is a pure function of (spec, well, field).
"""

from bgscale.simulate.crops import write_crops
from bgscale.simulate.field import CHANNELS, Field, simulate_field
from bgscale.simulate.plates import write_plates
from bgscale.simulate.spec import ScreenSpec, proteins

__all__ = [
    "CHANNELS",
    "Field",
    "ScreenSpec",
    "proteins",
    "simulate_field",
    "write_crops",
    "write_plates",
]
