"""What the tests share: where the third-party data are, and a small simulated screen."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of third-party data; its tests are skipped where it is absent."""
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("BGSCALE_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no third-party data in {folder}: set BGSCALE_TEST_DATA")
    return folder
