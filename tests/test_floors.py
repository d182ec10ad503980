"""The layout as a test: imports go down only, one folder knows Dask, three modules know Zarr."""

import ast
import tomllib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bgscale"

FLOORS = [
    ["errors", "schema", "registry", "compiled", "draw", "draw_kernel", "sections", "places"],
    ["models", "config", "accuracy", "intervals"],
    [
        "segment",
        "fields",
        "crops",
        "settings",
        "embed",
        "evaluate",
        "proportions",
        "quality",
        "dependence",
        "rows",
    ],
    ["platemap", "annotations", "ngff", "screen", "results", "simulate", "table", "distribute"],
    ["asked", "stages", "pipeline", "train", "importers"],
    [
        "progress",
        "run",
        "summary",
        "shifted",
        "comparison",
        "controls",
        "lent",
        "plot",
        "query",
        "report",
        "scaffold",
        "demo",
        "verify",
    ],
    ["export"],
    ["cli", "__init__", "__main__"],
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
PURE = FLOORS[2]
OWNERS = {
    "dask": ["distribute"],
    "dask_jobqueue": ["distribute"],
    "distributed": ["distribute"],
    "zarr": ["results", "screen", "ngff"],
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part(path: Path) -> str:
    """Return the module or folder right below the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Return the dotted names that a file imports, lazily or for types as well."""
    found = []
    for item in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(item, ast.Import):
            found += [alias.name for alias in item.names]
        elif isinstance(item, ast.ImportFrom) and item.module:
            assert item.level == 0, f"{path}: relative import"
            found.append(item.module)
            if item.module == "bgscale":
                found += [f"bgscale.{alias.name}" for alias in item.names]
    return found


def test_every_module_has_a_floor() -> None:
    assert {part(path) for path in modules()} == set(FLOOR_OF)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    own = part(path)
    for name in imports(path):
        pieces = name.split(".")
        if pieces[0] != "bgscale" or len(pieces) == 1 or pieces[1] not in FLOOR_OF:
            continue
        target = pieces[1]
        if target == own:
            continue
        assert FLOOR_OF[target] <= FLOOR_OF[own], f"{own} imports {target}, which lies above"
        if own in PURE:
            assert FLOOR_OF[target] < FLOOR_OF[own], f"pure stage {own} imports {target}"
        if own == "distribute":
            assert target in ("errors", "sections", "places"), f"distribute imports {target}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dask_and_zarr_have_owners(path: Path) -> None:
    for name in imports(path):
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or part(path) in owners, f"{part(path)} imports {name}"


def test_no_cycles_within_a_floor() -> None:
    for names in FLOORS:
        edges = {
            name: {
                target
                for path in modules()
                if part(path) == name
                for dotted in imports(path)
                if (target := [*dotted.split("."), ""][1]) in names and target != name
            }
            for name in names
        }
        done: set[str] = set()
        while ready := {n for n in names if n not in done and edges[n] <= done}:
            done |= ready
        assert done == set(names), f"cycle among {set(names) - done}"


def test_every_third_party_import_is_declared() -> None:
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    extras = project["optional-dependencies"]
    optional = [one for name, extra in extras.items() if name != "test" for one in extra]
    declared = {
        requirement.split(">")[0].replace("-", "_")
        for requirement in [*project["dependencies"], *optional]
    }
    known_as = {
        "PIL": "pillow",
        "cv2": "opencv_python_headless",
        "skimage": "scikit_image",
        "sklearn": "scikit_learn",
    }
    import sys

    for path in modules():
        for name in imports(path):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top != "bgscale":
                assert known_as.get(top, top) in declared, f"{path}: {top} is not declared"


def test_a_module_is_short_enough_to_be_read() -> None:
    long = {
        str(path.relative_to(PACKAGE)): lines
        for path in modules()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 520
    }
    assert not long
