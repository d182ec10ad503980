"""What the tests share: third-party data, a small screen and its run, two worker processes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from screens import config_of, plates_config, write_plate_screen, write_screen

from bgscale.run import Run

if TYPE_CHECKING:
    from distributed import Client

# the clock tells nothing: an example may be the first to compile or to import
settings.register_profile("bgscale", deadline=None)
settings.load_profile("bgscale")

REPOSITORY = Path(__file__).parents[1]

# a run takes a GPU where there is one, and then has other bits: tests of GPUs ask for it
if not os.environ.get("BGSCALE_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of third-party data; its tests are skipped where it is absent."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("BGSCALE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no third-party data in {folder}: set BGSCALE_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def small_screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small simulated crops screen."""
    return write_screen(tmp_path_factory.mktemp("screen") / "small")


@pytest.fixture(scope="session")
def finished(small_screen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of a finished serial run of the small screen; tests must not change it."""
    config = config_of(small_screen, tmp_path_factory.mktemp("finished"))
    Run.from_config(config).execute()
    return Path(config.store)


@pytest.fixture(scope="session")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Store of a finished run of two plates, with the published hyperparameters; not to change."""
    folder = tmp_path_factory.mktemp("plates")
    screen = write_plate_screen(folder / "screen")
    how = {"folds": 3, "replicates": 1, "hyperparameters": "published"}
    config = plates_config(screen, folder, proportions=how)
    Run.from_config(config).execute()
    return Path(config.store)


@pytest.fixture(scope="session")
def cluster() -> "Iterator[Client]":
    """Client of two single-threaded worker processes; its tests are marked `cluster`."""
    from bgscale.distribute.cluster import connect

    # workers import the tests' modules, as units are functions of modules
    folder = str(REPOSITORY / "tests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]))
        with connect("local:2") as client:
            assert client is not None
            client.wait_for_workers(2)
            yield client
