"""The page as one file: gathered, drawn, and written piece by piece.

Owns the file and what is in it besides words: the numbers of all proteins, pictures, the content
policy. The one idea: pieces are made and written one after the other, so that memory does not grow
with the number of proteins or pictures; the page asks for nothing outside itself, and its policy
forbids it to.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from bgscale.errors import InputError
from bgscale.places import is_remote
from bgscale.report import about, body, montage, packed
from bgscale.report.gather import FITS, Model, Run, gather, open_run, protein_rows
from bgscale.report.markup import Markup, data_block, join, tag

MONTAGES = 60
CELLS = 6
_PLACE = re.compile(r"\{([a-z-]+)\}")


def write(
    store: str | Path,
    path: str | Path,
    *,
    model: str = "",
    montages: int = MONTAGES,
    proteins: Sequence[str] = (),
    cells: int = CELLS,
) -> Path:
    """Write the report of a run store as one HTML file.

    It opens from the disk, asks for nothing over the network, and is the same to the byte for the
    same store. A run that is not complete is said to be so at the top, and what there is is shown.

    Parameters
    ----------
    store : str or path
        A folder, or s3://bucket/prefix.
    path : str or path
        The file; one that is there is replaced.
    model : str
        Only this one; by default all of the run.
    montages : int
        Of how many of the most shifted proteins cells are shown.
    proteins : sequence of str
        Further proteins whose cells are shown.
    cells : int
        Cells of each.

    Returns
    -------
    path

    Raises
    ------
    StoreMismatchError
        Not a run store, or one of another version.
    InputError
        No such model or protein (the nearest is said), no results yet, or no folder for the file.

    Examples
    --------
    >>> write("results.zarr", "report.html", proteins=["NUP2"])  # doctest: +SKIP
    PosixPath('report.html')
    """
    out = _checked(path)
    run = open_run(store, model=model)
    wanted = protein_rows(run, proteins)
    models = [gather(run, name) for name in run.models]
    part = out.with_name(f".{out.name}.partial")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            for piece in pieces(run, models, wanted, montages=montages, cells=cells):
                file.write(piece)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return out


def _checked(path: str | Path) -> Path:
    """Return where the page goes.

    Raises
    ------
    InputError
    """
    if is_remote(path):
        msg = f"{path}: a report is written to a file of this machine; copy it there afterwards"
        raise InputError(msg)
    out = Path(path)
    if out.is_dir():
        msg = f"{out} is a folder; expected a file, such as {out / 'report.html'}"
        raise InputError(msg)
    if not out.parent.is_dir():
        msg = f"{out}: there is no folder {out.parent}: make it first"
        raise InputError(msg)
    return out


def pieces(
    run: Run, models: Sequence[Model], wanted: Sequence[int], *, montages: int, cells: int
) -> Iterator[str]:
    """Yield the text of the page, piece by piece."""
    template, style, script = (_file(f"page.{kind}") for kind in ("html", "css", "js"))
    counts = about.counted(run)
    parts = body.sections(run, models, counts)
    title = f"bgscale report of {run.name}"
    texts = {
        "title": join(title),
        "style": style,
        "style-hash": _hash(style),
        "script": script,
        "script-hash": _hash(script),
        "body": join([
            about.header(run, models, counts),
            body.navigation(parts, models),
            tag("main", [body.as_section(part) for part in parts]),
            tag("footer", _footer()),
        ]),
    }  # fmt: skip
    for k, piece in enumerate(_PLACE.split(template)):
        if k % 2 == 0:
            yield piece
        elif piece == "data":
            yield from data(run, models, wanted, title, montages=montages, cells=cells)
        else:
            yield texts[piece]


def data(
    run: Run,
    models: Sequence[Model],
    wanted: Sequence[int],
    title: str,
    *,
    montages: int,
    cells: int,
) -> Iterator[Markup]:
    """Yield what the script reads: names, numbers of all proteins, pictures."""
    place = {name: k for k, name in enumerate(run.classes)}
    facts = {
        "title": title,
        "proteins": run.proteins,
        "labels": [[place[name] for name in own] for own in run.labels()],
        "classes": run.classes,
        "settings": run.settings,
        "setting": run.setting,
        "fits": FITS,
        "numbers": packed.NUMBERS,
        "reasons": [packed.REASONS[reason] for reason in sorted(packed.REASONS)],
        "models": [{"name": one.name, "shifts": one.has_shifts} for one in models],
        "most": max(montages, 10),
    }
    yield data_block(facts, id="data")
    example = montage.sample(run)
    if example is not None:
        yield data_block(example, id="sample")
    chosen = dict.fromkeys(wanted)
    for i, one in enumerate(models):
        if not one.has_shifts:
            continue
        shifts = run.node(f"shifts/{one.name}")
        chosen |= dict.fromkeys(packed.most_shifted(shifts, run.setting, FITS[0], montages))
        for fit in FITS:
            for name, text in packed.protein_blocks(shifts, run.settings, fit).items():
                block = f"block-{i}-{fit}-{name}"
                yield tag("script", Markup(text), type="text/plain", id=block)
    of = next((one.name for one in models if _is_embedded(run, one.name)), None)
    if of is None or cells < 1:
        return
    cells_of = montage.chosen_cells(run, of, chosen, cells)
    for protein, values in montage.montages(run, of, cells_of):
        yield data_block(values, id=f"montage-{protein}")


def _is_embedded(run: Run, model: str) -> bool:
    nodes = [(f"plates/{p}/embeddings/{model}", f"embed/{model}/{p}") for p in run.plates]
    return all(run.shows(node, stage, "bank") for node, stage in nodes)


def _file(name: str) -> str:
    return files("bgscale.report").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what the content policy knows a style or script by."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _footer() -> str:
    return "This page is one file: it holds everything it shows and asks for nothing outside it."
