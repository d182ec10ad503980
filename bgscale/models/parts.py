"""A step of a fit in parts: the same bits, whether one process does them all or several share them.

Owns how what the parts of a step found is put together, and what processes of one fit tell each
other. Refuses to own the loss and the optimizer: `fit.py`. The one idea: a part is cut by position
in the batch, never by process. Each goes forward and backward by itself, from the same weights and
the same running statistics; who has done a part gives its gradient to all, and everyone adds them
up in the order of the parts. So everyone takes the same step, and weights never travel.

torch's DistributedDataParallel would not do: it sums over processes, not parts, by an all-reduce
whose order of additions hangs on how many there are; one process with two parts would round
otherwise than two with one each.

Between processes go numbers and JSON, never pickles: who reaches a port can disturb a fit, but runs
no code in it.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from bgscale.errors import InputError, InterruptedRunError

SILENT_FOR_S = 120.0
"""How long a process waits for the part of a step of another. One that dies is noticed at once."""
LEFT_AFTER_S = 10.0
LOOK_EVERY_S = 0.25
_INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


class Team:
    """The processes of one fit, as one of them sees it; by default it is alone.

    Parameters
    ----------
    rank, size : int
        Which of how many; the first one leads: it alone writes.
    device : str
        Where what is sent lies.
    store : TCPStore, optional
        Where they meet; none where one is alone.
    stop : callable, optional
        Whether this process has been told to stop.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        *,
        device: str = "cpu",
        store: TCPStore | None = None,
        stop: Callable[[], bool] = bool,
    ) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._store, self._stop, self._met = store, stop, 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def owner(self, part: int, parts: int) -> int:
        """Return who does a part of a step."""
        return part * self.size // parts

    @property
    def told(self) -> bool:
        """Whether this process has been told to stop."""
        return self._stop()

    def go_on(self, *, told: bool | None = None) -> None:
        """Return unless this process has been told to stop, or `told`, what is known of all."""
        if self.told if told is None else told:
            msg = "training was stopped; its last checkpoint is kept: run again to go on"
            raise InterruptedRunError(msg)

    def spread(self, values: Tensor, source: int) -> None:
        """Replace `values` in every process by those of one of them."""
        if self.size == 1:
            return
        with _lost_in_words():
            work = distributed.broadcast(values, source, async_op=True)
            pause = 1e-5
            # one that fails may keep its connections open: who only waited would not hear of it
            started = time.monotonic()
            while not work.is_completed():
                if time.monotonic() - started > LEFT_AFTER_S:
                    self.go_on()
                time.sleep(pause)
                pause = min(2 * pause, LOOK_EVERY_S)
            work.wait()

    def from_leader(self, content: bytes) -> bytes:
        """Return the leader's content, in every process."""
        return self._from(content, 0)

    def check_alike(self, facts: dict[str, str]) -> None:
        """Refuse to begin where the processes differ in what may not differ.

        Raises
        ------
        InputError
            It says in which of the facts.
        """
        mine = json.dumps(facts).encode()
        others = [json.loads(self._from(mine, rank)) for rank in range(self.size)]
        for name in facts:
            found = list(dict.fromkeys(other[name] for other in others))
            if len(found) > 1:
                msg = (
                    f"the processes of this training have not the same {name} "
                    f"({' / '.join(found)}): they must see the same files, on machines of one kind"
                )
                raise InputError(msg)

    def meet(self) -> None:
        """Wait until all have come this far, however long they work meanwhile."""
        self._met += 1
        if self._store is None:
            return
        keys = [f"met/{self._met}/{rank}" for rank in range(self.size)]
        pause = 0.001
        with _lost_in_words():
            # a broadcast would take long work for a loss
            self._store.set(keys[self.rank], "")
            while not self._store.check(keys):
                self.go_on()
                time.sleep(pause)
                pause = min(2 * pause, LOOK_EVERY_S)

    def _from(self, content: bytes, source: int) -> bytes:
        if self.size == 1:
            return content
        length = torch.tensor([len(content)], device=self.device)
        self.spread(length, source)
        values = torch.empty(int(length), dtype=torch.uint8, device=self.device)
        if self.rank == source:
            values.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.spread(values, source)
        return values.cpu().numpy().tobytes()


@contextmanager
def joined(
    rank: int,
    size: int,
    *,
    host: str,
    port: int,
    listener: int | None = None,
    interface: str = "",
    device: str = "cpu",
    stop: Callable[[], bool] = bool,
    silent_for_s: float = SILENT_FOR_S,
) -> Iterator[Team]:
    """Yield the team of this process, once all have come; they meet at the leader's port.

    Parameters
    ----------
    rank, size : int
    host, port : str, int
        Where the leader listens.
    listener : int, optional
        Of the leader: the file descriptor of its listening socket, which is taken over.
    interface : str
        Name of the network interface to use, as "lo"; empty: torch's choice. What stands in
        ``GLOO_SOCKET_IFNAME`` and ``NCCL_SOCKET_IFNAME`` goes before it.
    device : str
        Gloo connects processes on "cpu", NCCL those with a GPU each.
    stop : callable, optional
        Whether this process has been told to stop.
    silent_for_s : float

    Raises
    ------
    InterruptedRunError
        Not all have come, or one is lost.
    """
    if size == 1:
        yield Team(stop=stop)
        return
    patience = timedelta(seconds=silent_for_s)
    leads = rank == 0
    given = [name for name in _INTERFACES if interface and name not in os.environ]
    os.environ.update(dict.fromkeys(given, interface))
    try:
        with _lost_in_words():
            store = TCPStore(
                host, port, size, is_master=leads, timeout=patience, wait_for_workers=False,
                master_listen_fd=listener if leads else None,
            )  # fmt: skip
            team = Team(rank, size, device=device, store=store, stop=stop)
            # one that cannot come lets the others go: torch would wait for it
            team.meet()
            distributed.init_process_group(
                "nccl" if device.startswith("cuda") else "gloo",
                store=store, rank=rank, world_size=size, timeout=patience,
            )  # fmt: skip
        try:
            yield team
        finally:
            # the others hear of it at once, whatever ends this one
            distributed.destroy_process_group()
    finally:
        for name in given:
            del os.environ[name]


@contextmanager
def _lost_in_words() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, InterruptedRunError):
            raise
        why = str(error).partition("\n")[0].partition(". ")[0]
        msg = (
            f"lost another process of this training ({why}); its last checkpoint is kept: run "
            "again to go on"
        )
        raise InterruptedRunError(msg) from error


def gradients(
    network: nn.Module, losses: Sequence[Callable[[], Tensor]], shares: Sequence[float], team: Team
) -> float:
    """Leave the gradients of one step in the network; return its loss.

    Gradients, running statistics and loss are the means of the parts', each from the same weights
    and statistics. One part leaves what a step without parts does.

    Parameters
    ----------
    network : module
        In training mode.
    losses : sequence of callable
        Of each part: goes forward, returns its loss.
    shares : sequence of float
        Share of the batch's crops in each part.
    team : Team
    """
    if len(losses) == 1:
        team.go_on()
        return _one(network, losses[0])
    before = [buffer.clone() for buffer in network.buffers()]
    own: dict[int, Tensor] = {}
    for part, loss in enumerate(losses):
        if team.owner(part, len(losses)) == team.rank:
            with torch.no_grad():
                for buffer, value in zip(network.buffers(), before, strict=True):
                    buffer.copy_(value)
            # all hear of it in the same step: nobody is left waiting for who has gone
            value = torch.tensor([_one(network, loss), float(team.told)])
            found = [tensor.reshape(-1) for tensor in _found(network)]
            own[part] = torch.cat([value.to(found[0].device), *found])
    total = torch.zeros_like(next(iter(own.values())))
    for part, share in enumerate(shares):
        values = own.get(part)
        values = torch.empty_like(total) if values is None else values
        team.spread(values, team.owner(part, len(losses)))
        total.add_(values, alpha=share)
    team.go_on(told=bool(total[1] > 0))
    tensors = _found(network)
    pieces = torch.split(total[2:], [tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view_as(tensor))
    return float(total[0])


def _one(network: nn.Module, loss: Callable[[], Tensor]) -> float:
    value = loss()
    network.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    return value.item()


def _found(network: nn.Module) -> list[Tensor]:
    """Return what a part leaves in the network: gradients and running statistics.

    Counts of steps are left out: each part has counted one.
    """
    # a layer that is not read has no gradient, and AdamW leaves it alone
    slopes = [p.grad for p in network.parameters() if p.grad is not None]
    return slopes + [buffer for buffer in network.buffers() if buffer.is_floating_point()]
