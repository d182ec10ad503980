"""What is done: a record per unit, beside the store, never inferred from which chunks exist.

A record is named by stage, region and token and holds the files the unit wrote with their sizes and
checksums. It appears at once and whole, after the data are on the disk. Chunk existence proves
nothing: a torn run leaves shards behind.
"""

import json
import os
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgscale.distribute.units import Unit


@dataclass(frozen=True)
class Ledger:
    """Done-records of one run store.

    Parameters
    ----------
    store : str
        Folder of the run store.
    """

    store: str

    @property
    def folder(self) -> Path:
        """Where the records are: beside the store, so that a copied store carries none."""
        return Path(self.store.rstrip("/") + ".progress")

    def _record(self, unit: Unit) -> Path:
        return self.folder / "units" / f"{unit.name}.{unit.token}.json"

    def is_done(self, unit: Unit) -> bool:
        """Whether the unit's record is there and its files have the recorded sizes."""
        try:
            record = json.loads(self._record(unit).read_text(encoding="utf-8"))
            sizes = {name: entry["bytes"] for name, entry in record["files"].items()}
            return all((Path(self.store) / n).stat().st_size == size for n, size in sizes.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def complete(self, unit: Unit, files: Iterable[str], summary: dict[str, Any]) -> None:
        """Write the record, after the unit's files are safely on the disk.

        Parameters
        ----------
        unit : Unit
        files : iterable of str
            What the unit wrote, relative to the store.
        summary : dict
            Counts worth keeping, plain JSON types.
        """
        entries = {name: _flushed(Path(self.store) / name) for name in sorted(files)}
        path = self._record(unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "stage": unit.stage,
            "region": [unit.start, unit.stop],
            "token": unit.token,
            "files": entries,
            "summary": summary,
        }
        part = path.with_name(f"{path.name}.{os.getpid()}.partial")
        with part.open("w", encoding="utf-8") as handle:
            json.dump(record, handle)
            handle.flush()
            os.fsync(handle.fileno())
        # the same unit done twice wrote the same bytes: whichever record is last is as good
        part.replace(path)

    def summaries(self, units: Iterable[Unit]) -> list[dict[str, Any]]:
        """Return the summaries of the units that are done."""
        records = (self._record(u) for u in units if self.is_done(u))
        return [json.loads(path.read_text(encoding="utf-8"))["summary"] for path in records]

    def count(self, stage: str, token: str) -> int:
        """Return how many units of a stage have a record."""
        return sum(1 for _ in (self.folder / "units" / stage).glob(f"*.{token}.json"))

    def forget(self, stage: str) -> int:
        """Remove the records of a stage; return how many there were."""
        paths = list((self.folder / "units" / stage).glob("*.json"))
        for path in paths:
            path.unlink()
        return len(paths)


def _flushed(path: Path) -> dict[str, int]:
    # zarr's local store replaces files atomically but never calls fsync
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
        checksum = 0
        while block := handle.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
        return {"bytes": handle.tell(), "crc32": checksum}
