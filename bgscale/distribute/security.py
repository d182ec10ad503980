"""Who may talk to a scheduler: certificates of one run, and files that their owner alone reads.

Whoever reaches a Dask scheduler can run code as its user, also from the same machine. So schedulers
that bgscale starts ask for a certificate, made for the run, that only its processes have.

Batch scripts start their scheduler themselves:
``python -m bgscale.distribute.security FOLDER`` makes the folder, with a certificate, its key and
the ``dask.yaml`` that makes every Dask process use them (``export DASK_CONFIG=FOLDER/dask.yaml``).
"""

import json
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distributed import Security

from bgscale.errors import InputError

CERTIFICATE = "certificate.pem"
KEY = "key.pem"


def temporary() -> Security:
    """Return a new certificate, in memory only."""
    made: Security = Security.temporary()  # type: ignore[no-untyped-call]
    return made


def from_files(ca_file: str | Path, certificate: str | Path, key: str | Path) -> Security:
    """Return the certificate that lies in files; the same for client, scheduler and workers.

    Raises
    ------
    InputError
        A file is missing, or others can read the key.
    """
    for path in map(Path, (ca_file, certificate, key)):
        if not path.is_file():
            msg = f"no certificate file {path}"
            raise InputError(msg)
    mode = stat.S_IMODE(Path(key).stat().st_mode)
    if os.name == "posix" and mode & 0o077:
        msg = f"{key}: others can read the private key (mode {mode:o}); chmod 600 {key}"
        raise InputError(msg)
    paths: dict[str, Any] = {"tls_ca_file": str(ca_file), "require_encryption": True}
    for role in ("client", "scheduler", "worker"):
        paths |= {f"tls_{role}_cert": str(certificate), f"tls_{role}_key": str(key)}
    return Security(**paths)  # type: ignore[no-untyped-call]


def write_files(security: Security, folder: Path) -> Security:
    """Write a temporary certificate to `folder`, for this user alone; return it as files.

    Raises
    ------
    FileExistsError
        The files are there already.
    """
    parts = security.get_tls_config_for_role("worker")  # type: ignore[no-untyped-call]
    _write(folder / CERTIFICATE, parts["cert"])
    _write(folder / KEY, parts["key"])
    return from_files(folder / CERTIFICATE, folder / CERTIFICATE, folder / KEY)


def write_configured(folder: Path) -> None:
    """Make `folder`, for this user alone, with a new certificate and Dask's configuration of it.

    Raises
    ------
    InputError
        The folder is there already, or cannot be made.
    """
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        msg = f"cannot make {folder}: {error.strerror}; expected a new folder"
        raise InputError(msg) from None
    folder = folder.resolve()
    write_files(temporary(), folder)
    pair = {"cert": str(folder / CERTIFICATE), "key": str(folder / KEY)}
    tls = {"ca-file": pair["cert"], "client": pair, "scheduler": pair, "worker": pair}
    comm = {"require-encryption": True, "default-scheme": "tls", "tls": tls}
    # JSON is YAML
    _write(folder / "dask.yaml", json.dumps({"distributed": {"comm": comm}}, indent=2) + "\n")


@contextmanager
def private_folder(parent: str) -> Iterator[Path]:
    """Make a folder in `parent` that this user alone can enter; it is gone after the block.

    Raises
    ------
    InputError
        `parent` is no folder that can be written to.
    """
    place = Path(os.path.expandvars(parent)).expanduser()
    try:
        made = tempfile.TemporaryDirectory(prefix=".bgscale-", dir=place)
    except OSError as error:
        msg = f"cannot make a folder in {place}: {error.strerror}; choose another shared_directory"
        raise InputError(msg) from None
    with made as name:
        yield Path(name).resolve()


def address_in(scheduler_file: Path) -> str:
    """Return the address that a scheduler file holds.

    Raises
    ------
    InputError
        No such file, no address in it, or others can write it: they could send you to a scheduler
        of theirs.
    """
    try:
        mode = scheduler_file.stat().st_mode
        address = json.loads(scheduler_file.read_text(encoding="utf-8"))["address"]
    except OSError as error:
        msg = f"cannot read the scheduler file {scheduler_file}: {error.strerror}"
        raise InputError(msg) from None
    except (ValueError, KeyError, TypeError):
        msg = f"{scheduler_file} is no scheduler file: expected JSON with an 'address'"
        raise InputError(msg) from None
    if mode & stat.S_IWOTH:
        msg = f"{scheduler_file}: anyone can write it; chmod 600 {scheduler_file}"
        raise InputError(msg)
    return str(address)


def _write(path: Path, text: str) -> None:
    # the mode from the start: a chmod afterwards leaves a moment for others
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
        handle.write(text)


if __name__ == "__main__":
    try:
        write_configured(Path(sys.argv[1]))
    except InputError as failure:
        sys.exit(f"error: {failure}")
