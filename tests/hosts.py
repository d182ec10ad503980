"""Several hosts on one machine: network namespaces on a switch of their own, with no way out.

A host is cut off at the switch: what it sends is gone without a word, as with a broken cable.
"""

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

import pytest


class Hosts:
    """A number of hosts, from 1; they are gone after the ``with`` block.

    Parameters
    ----------
    count : int
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._prefix = f"bg{os.getpid()}"
        self._switch = f"{self._prefix}sw"

    def name(self, host: int) -> str:
        """Return the namespace of a host."""
        return f"{self._prefix}h{host}"

    def address(self, host: int) -> str:
        return f"10.99.0.{host}"

    def command(self, host: int, *command: str) -> list[str]:
        """Return what runs a command on a host; its process has the number of the one started."""
        return ["ip", "netns", "exec", self.name(host), *command]

    def cut(self, host: int) -> None:
        """Cut a host off from the others."""
        _ip("-n", self._switch, "link", "set", f"p{host}", "nomaster")

    def heal(self, host: int) -> None:
        """Connect a host again."""
        _ip("-n", self._switch, "link", "set", f"p{host}", "master", "br0")

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            pytest.skip("hosts in network namespaces need root")
        if shutil.which("ip") is None:
            pytest.skip("hosts in network namespaces need 'ip': apt-get install iproute2")
        try:
            self._up()
        except subprocess.CalledProcessError as error:
            self._down()
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._down()

    def _up(self) -> None:
        _ip("netns", "add", self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for host in range(1, self._count + 1):
            name, port = self.name(host), f"p{host}"
            _ip("netns", "add", name)
            plug = ("type", "veth", "peer", "name", port, "netns", self._switch)
            _ip("-n", name, "link", "add", "eth0", *plug)
            _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
            _ip("-n", self._switch, "link", "set", port, "up")
            self.heal(host)

    def _down(self) -> None:
        for name in (*map(self.name, range(1, self._count + 1)), self._switch):
            # where it could not be made
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
