"""Commands about weights files: make one of published weights, look at one."""

import json
from pathlib import Path

import click

from bgscale.cli.root import TABLE, main, tell

MODEL_NAMES = ("pifia", "pci", "deeploc")


@main.group()
def weights() -> None:
    """Turn published weights into files that a run.toml takes, and look at such files."""


@weights.command()
@click.argument("model", type=click.Choice(MODEL_NAMES))
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=TABLE, help="File to write; by default MODEL.safetensors.")
@click.option(
    "--classes", type=TABLE, help="Names of the model's classes, one a line, in its order."
)
@click.option(
    "--names",
    type=TABLE,
    help="Where names differ: a .toml or .csv of SOURCE's names and bgscale's, of variables or of "
    'layers ("batch_normalization_3" = "bn1_1").',
)
def convert(
    model: str, source: Path, output: Path | None, classes: Path | None, names: Path | None
) -> None:
    """Turn published weights into a safetensors file with the model's spec.

    SOURCE is a TensorFlow checkpoint (its prefix, its .index file, or the folder of one) or a Keras
    HDF5 file (a whole model, or weights alone). Every array of the network must be found; what else
    is in SOURCE is said. Needs TensorFlow or h5py: pip install 'bgscale[weights]'.
    """
    from bgscale.models.convert import convert as make
    from bgscale.models.convert.tables import read_classes, read_names

    output = output or Path(f"{model}.safetensors")
    made = make(
        model,
        source,
        output,
        classes=read_classes(classes) if classes else (),
        names=read_names(names) if names else None,
    )
    for note in made.notes:
        tell(note)
    tell(f"wrote {output}: {model}, {made.spec.n_outputs} outputs, licence {made.spec.licence}")
    tell("use it in run.toml:")
    click.echo(f'[models.{model}]\narchitecture = "{model}"\nweights = {json.dumps(str(output))}')


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(file: Path, as_json: bool) -> None:  # noqa: FBT001
    """Say what a weights file holds: model, origin, licence, hash, tensors.

    FILE is a safetensors file, or published weights that are not converted yet; of those it lists
    the variables.
    """
    from bgscale.models.convert.listing import describe, format_listing

    values = describe(file)
    click.echo(json.dumps(values, indent=2) if as_json else format_listing(values))
