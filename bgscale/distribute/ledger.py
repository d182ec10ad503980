"""What is done: a record per unit, beside the store, never inferred from which chunks exist.

A record is named by stage, region and token and holds the files the unit wrote with their sizes and
checksums. It appears at once and whole, after the data are on the disk. Chunk existence proves
nothing: a torn run leaves shards behind.

Before a stage, one listing says which of its units have a record. What these claim, files and
sizes, is compared with what is there: a lost shard would be read as fill value, without a word.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

from bgscale.distribute.units import Unit
from bgscale.errors import InputError
from bgscale.places import Place, each, is_remote, place_at, spelled

BOUND = "bound.jsonl"
WORTH_BINDING = 256
"""With fewer records that are not bound yet, reading them one by one will do."""
_NAME = re.compile(r"units/(?P<stage>.+)/(?P<start>\d{9,})-(?P<stop>\d{9,})\.(?P<token>.+)\.json")

Claim = Mapping[str, int] | None
"""Files and sizes that a record claims; None: it cannot be read."""

Files: TypeAlias = list[str] | dict[str, dict[str, int]]
"""What a unit wrote, relative to the store; or with what the record holds of each, from
`Ledger.settled`."""


@dataclass(frozen=True)
class Ledger:
    """Done-records of one run store.

    Parameters
    ----------
    store : str
        Folder of the run store, or s3://bucket/prefix.
    """

    store: str

    @property
    def location(self) -> str:
        """Where the records are: beside the store, so that a copied store carries none."""
        return spelled(self.store) + ".progress"

    @property
    def folder(self) -> Path:
        """The folder of the records.

        Raises
        ------
        InputError
            They lie in a bucket: `location` says where.
        """
        if is_remote(self.store):
            msg = f"{self.location} lies in a bucket; expected a folder"
            raise InputError(msg)
        return Path(self.location)

    @property
    def place(self) -> Place:
        """Where the records are, for reading and writing."""
        return place_at(self.location)

    def is_done(self, unit: Unit) -> bool:
        """Whether the unit's record is there and its files have the recorded sizes.

        Of many units `done` knows it sooner.
        """
        key = _key(unit)
        return key in self._borne_out(self._claims([key]))

    def done(self, units: Iterable[Unit]) -> set[Unit]:
        """Return those units whose record is there, and whose files have the recorded sizes."""
        found: set[Unit] = set()
        place = self.place
        for stage, of_stage in groupby(units, key=lambda unit: unit.stage):
            names = place.names(f"units/{stage}")
            known = {key: u for u in of_stage if (key := _key(u)).rpartition("/")[2] in names}
            bound = _bound(place, stage) if BOUND in names else {}
            claims = {key: bound[key] for key in known if key in bound}
            claims |= self._claims([key for key in known if key not in bound])
            good = self._borne_out(claims)
            # a record that was made again since may claim something else
            good |= self._borne_out(
                self._claims([k for k in known if k in bound and k not in good])
            )
            found |= {known[key] for key in good}
        return found

    def _claims(self, keys: Iterable[str]) -> dict[str, Claim]:
        place, asked = self.place, list(keys)
        contents = each(lambda key: _quietly(place.read, key), asked, place.readers)
        return {k: _claim(parsed(content)) for k, content in zip(asked, contents, strict=True)}

    def _borne_out(self, claims: Mapping[str, Claim]) -> set[str]:
        """Return the keys of the records whose claims are true."""
        files = {name for claim in claims.values() for name in claim or ()}
        sizes = place_at(self.store).sizes(files)
        return {
            key
            for key, claim in claims.items()
            if claim is not None and all(sizes[name] == size for name, size in claim.items())
        }

    def settled(self, files: Iterable[str]) -> dict[str, dict[str, int]]:
        """Return what a record holds of files, once they are safely on the disk.

        A unit that writes for long has it done meanwhile, and hands it to `complete`.
        """
        store, names = place_at(self.store), sorted(files)
        store.flush(names)
        return {name: checksum(store, name) for name in names}

    def complete(self, unit: Unit, files: Files, summary: dict[str, Any]) -> None:
        """Write the record, after the unit's files are safely on the disk.

        A unit that is done twice has written the same bytes: the first record stays. A record that
        no longer says what is there is replaced.

        Parameters
        ----------
        unit : Unit
        files : list of str, or dict
            What the unit wrote, relative to the store; a dict is of `settled`.
        summary : dict
            Counts worth keeping, plain JSON types.

        Raises
        ------
        FileNotFoundError
            One of the files is not there.
        """
        store, names = place_at(self.store), sorted(files)
        settled = files if isinstance(files, dict) else {}
        # without the metadata above them files are no arrays
        meta = ["zarr.json", *sorted({f"{a}/zarr.json" for name in names for a in _above(name)})]
        there = store.sizes(meta) if not is_remote(self.store) else {}
        late = [name for name in names if name not in settled]
        store.flush([*late, *(key for key in meta if there.get(key) is not None)])
        entries = {name: settled.get(name) or checksum(store, name) for name in names}
        record = {
            "stage": unit.stage,
            "region": [unit.start, unit.stop],
            "token": unit.token,
            "files": entries,
            "summary": summary,
        }
        key, content = _key(unit), json.dumps(record).encode()
        place = self.place
        if not place.create(key, content):
            old = parsed(_quietly(place.read, key))
            if old is None or old["files"] != entries:
                place.replace(key, content)

    def summaries(self, units: Iterable[Unit]) -> list[dict[str, Any]]:
        """Return the summaries of the units that are done."""
        keys = [_key(unit) for unit in units]
        place = self.place
        contents = each(lambda key: _quietly(place.read, key), keys, place.readers)
        records = {k: parsed(content) for k, content in zip(keys, contents, strict=True)}
        good = self._borne_out({key: _claim(record) for key, record in records.items()})
        return [record["summary"] for key, record in records.items() if record and key in good]

    def count(self, stage: str, token: str) -> int:
        """Return how many units of a stage have a record."""
        return sum(name.endswith(f".{token}.json") for name in self.place.names(f"units/{stage}"))

    def recorded(self) -> list[Unit]:
        """Return all units that have a record, by stage and region."""
        found = map(_NAME.fullmatch, self.place.below("units"))
        units = [Unit(m["stage"], int(m["start"]), int(m["stop"]), m["token"]) for m in found if m]
        return sorted(units, key=lambda unit: (unit.name, unit.token))

    def record(self, unit: Unit) -> dict[str, Any] | None:
        """Return what a unit's record says; None where there is none that can be read."""
        return parsed(_quietly(self.place.read, _key(unit)))

    def forget(self, stage: str) -> int:
        """Remove the records of a stage; return how many there were."""
        place = self.place
        names = place.names(f"units/{stage}")
        records = [name for name in names if name.endswith(".json")]
        bound = [BOUND] if BOUND in names else []
        place.delete(f"units/{stage}/{name}" for name in [*bound, *records])
        return len(records)

    def forget_units(self, units: Iterable[Unit]) -> None:
        """Remove the records of some units, so that they are done again."""
        self.place.delete([_key(unit) for unit in units])

    def bind(self, stage: str) -> None:
        """Keep what the many records of a stage claim in one file too, for the next `done`.

        Only the run that holds the store may; it is worth while when the stage is complete.
        """
        place = self.place
        names = place.names(f"units/{stage}")
        keys = {f"units/{stage}/{name}" for name in names if name.endswith(".json")}
        bound = _bound(place, stage) if BOUND in names else {}
        if len(keys - bound.keys()) < WORTH_BINDING:
            return
        claims = self._claims(sorted(keys))
        lines = [json.dumps([k, claim]) for k, claim in claims.items() if claim is not None]
        place.replace(f"units/{stage}/{BOUND}", "\n".join(lines).encode())

    def sweep(self, silent_s: float = 0.0) -> int:
        """Remove what writers of records that are gone left half written; return how many files.

        Only the run that holds the store may; `silent_s` as of `Store.sweep`.
        """
        return self.place.sweep(silent_s)


def parsed(content: bytes | None) -> dict[str, Any] | None:
    """Return a record; None where the bytes are none."""
    try:
        record = json.loads(content or b"")
        files = record["files"].values()
        if all(type(n) is int for e in files for n in (e["bytes"], e["crc32"])):
            return {"summary": {}, **record}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


def checksum(place: Place, key: str) -> dict[str, int]:
    """Return size and CRC-32 of a file, as records hold them."""
    crc = size = 0
    for block in place.blocks(key):
        crc, size = zlib.crc32(block, crc), size + len(block)
    return {"bytes": size, "crc32": crc}


def _key(unit: Unit) -> str:
    return f"units/{unit.name}.{unit.token}.json"


def _above(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:i]) for i in range(1, len(parts)))


def _claim(record: Mapping[str, Any] | None) -> Claim:
    if record is None:
        return None
    return {name: entry["bytes"] for name, entry in record["files"].items()}


def _bound(place: Place, stage: str) -> dict[str, Claim]:
    """Return what the records of a stage claim, as far as that was bound."""
    found: dict[str, Claim] = {}
    for line in (_quietly(place.read, f"units/{stage}/{BOUND}") or b"").splitlines():
        try:
            key, claim = json.loads(line)
            found[key] = {str(name): int(size) for name, size in claim.items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            # the records themselves are asked
            return {}
    return found


def _quietly(read: Callable[[str], bytes | None], key: str) -> bytes | None:
    """Return what a file holds; of one that cannot be read nothing: its unit is done again."""
    try:
        return read(key)
    except OSError:
        return None
