"""Commands about models: which there are, what each expects, and whether one can be trusted."""

import hashlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from bgscale.cli.root import TABLE, Group, main, tell
from bgscale.errors import EXIT_FAILURE, InputError


@main.group(cls=Group, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def models(ctx: click.Context, as_json: bool) -> None:  # noqa: FBT001
    """Say which embedding models there are: input, layers, size, licence, source.

    Built in or from other packages (entry-point group bgscale.models). Any other network is an
    ONNX file or a torch.export program with a spec file, which `bgscale models init` begins.
    """
    if ctx.invoked_subcommand is not None:
        return
    from bgscale.models.listing import format_listed, listed

    found = listed()
    if as_json:
        click.echo(json.dumps([model.to_json() for model in found], indent=2))
    else:
        click.echo(format_listed(found))


@models.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the whole spec of a model, as JSON.

    NAME is a model of `bgscale models`, a spec file (.toml) or a weights file (.safetensors).
    """
    from bgscale.models import load_model

    click.echo(json.dumps(load_model(name).spec.to_config(), indent=2, ensure_ascii=False))


@models.command()
@click.argument("name")
@click.option(
    "--device", default="cpu", show_default=True, help="Where it runs: cpu, cuda, cuda:1."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(name: str, device: str, as_json: bool) -> None:  # noqa: FBT001
    """Try whether a model keeps what the comparison of backgrounds relies on.

    NAME is a model of `bgscale models`, a spec file (.toml) or a weights file (.safetensors).
    Checks shapes, that equal crops give equal features whatever else is in the batch, that no
    crop gives NaN, and that a masked crop hides its background. Ends with 1 if a check fails.
    """
    from bgscale.models import load_model
    from bgscale.models.check import check_model

    model = load_model(name, device=device)
    if model.random_weights:
        tell(f"{name}: random weights of seed {model.spec.seed}")
    found = check_model(model)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found], indent=2))
    else:
        for one in found:
            click.echo(f"{'ok' if one.passed else 'FAILED':<7} {one.name:<11} {one.detail}")
    if not all(one.passed for one in found):
        sys.exit(EXIT_FAILURE)


@models.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("-o", "--output", type=TABLE, help="File to write.  [default: FILE's name, .toml]")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(file: Path, output: Path | None, force: bool) -> None:  # noqa: FBT001
    """Write a commented spec file for an ONNX file or a torch.export program.

    Holds what FILE (.onnx, .pt2) says of itself: its hash, its input and outputs with their shapes.
    Channels, scaling, licence and origin are for you to complete.
    """
    from bgscale.models.program import facts_of
    from bgscale.models.program_spec import commented_spec

    output = output or file.with_suffix(".toml")
    if output.exists() and not force:
        msg = f"{output} is there already: edit it, or replace it with --force"
        raise InputError(msg)
    facts, data = facts_of(file)
    named = os.path.relpath(file, output.parent)
    text = commented_spec(named, hashlib.sha256(data).hexdigest(), facts)
    output.write_text(text, encoding="utf-8")
    tell(f"wrote {output}")
    tell("next: look at channels, preprocess, layers, licence and origin in it, then")
    tell(f"      bgscale models check {output}")
