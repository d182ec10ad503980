"""One function on several workers at once, whose processes talk to one another: for training.

Owns who takes part, where they meet, and what it means that one is lost. Refuses to own what they
do and what they say to each other. The one idea: a unit is done by whoever is free, but the
processes of a training need each other at every step. So each is bound to its worker and none is
tried again; where one ends the others are let go, and the checkpoint is what is kept.
"""

import logging
import queue
import socket
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from distributed import Client, KilledWorker, get_worker
from distributed.comm.addressing import get_address_host
from distributed.utils import get_ip_interface, silence_logging_cmgr

from bgscale.distribute.execute import draining_signals
from bgscale.distribute.lost import scheduler_needed
from bgscale.distribute.profile import GPU
from bgscale.errors import BgscaleError, InterruptedRunError, UnitError

WAIT_FOR_OTHERS_S = 120.0
"""How long to wait for workers that were asked for, once one is there."""
SAY_WHY_S = 10.0
"""How long the others have to say why they ended."""
LOOK_EVERY_S = 0.1
ASK_EVERY_S = 1.0
KEPT = "the last checkpoint is kept: run again to go on"

Answer = TypeVar("Answer")

_LISTENING: dict[str, socket.socket] = {}
"""Of this worker process: the sockets at which a training will meet, by its topic."""


@dataclass(frozen=True)
class Seat:
    """A process of a training: which one it is, and where it meets the others.

    Parameters
    ----------
    rank, size : int
        Which of how many; the first one leads.
    topic : str
        Names the training.
    host, port : str, int
        Where the leader listens.
    own_host : str
        Address by which others reach this process.
    neighbours : int
        Processes of this training on the same host that come before it.
    """

    rank: int
    size: int
    topic: str
    host: str
    port: int
    own_host: str
    neighbours: int

    def listener(self) -> int | None:
        """Return the leader's listening socket, as a file descriptor that is the caller's now."""
        return _LISTENING.pop(self.topic).detach() if self.topic in _LISTENING else None

    def interface(self) -> str:
        """Return the network interface that has its address, or nothing."""
        for _, name in socket.if_nameindex():
            with suppress(ValueError):
                if get_ip_interface(name) == self.own_host:  # type: ignore[no-untyped-call]
                    return name
        return ""

    def say(self, *values: Any) -> None:
        """Let the one who waits for the training hear this."""
        get_worker().log_event(self.topic, list(values))

    def stopped(self) -> bool:
        """Whether nobody waits for this process any more: asked from within its task."""
        worker = get_worker()
        task = worker.state.tasks.get(worker.get_current_task())
        return task is None or task.state not in ("executing", "long-running")


def together(
    client: Client,
    work: Callable[[Seat, str], Answer],
    job: str,
    *,
    most: int,
    gpu: bool,
    tell: Callable[[str], None],
    hear: Callable[..., None] | None,
) -> Answer:
    """Run one function on several workers at once; return the leader's answer.

    Parameters
    ----------
    client : distributed.Client
    work : callable
        A module-level function of a seat and `job`.
    job : str
    most : int
        How many parts there are to share: of more workers the rest have nothing to do.
    gpu : bool
        Whether each must have a GPU.
    tell : callable
        Hears how many take part.
    hear : callable or None
        Called with what the leader says.

    Raises
    ------
    InterruptedRunError
        A worker is lost, the scheduler is gone, or Ctrl-C or SIGTERM came.
    BgscaleError, OSError
        As a process raised it.
    UnitError
        A process raised anything else.
    """
    with draining_signals() as stop:

        def look() -> None:
            if stop:
                msg = f"stopped by {stop.requested}; {KEPT}"
                raise InterruptedRunError(msg)

        found = _come(client, most, look, gpu=gpu)
        addresses = found[:most]
        tell(f"{len(addresses)} of {len(found)} workers share the {most} parts of a step")
        topic = f"bgscale-training-{uuid.uuid4().hex}"
        hosts = [get_address_host(address) for address in addresses]
        port = _Tasks(client, addresses[:1], [(_listen, topic, hosts[0])]).answers(look)[0]
        seats = [
            Seat(rank, len(hosts), topic, hosts[0], port, host, hosts[:rank].count(host))
            for rank, host in enumerate(hosts)
        ]
        said: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

        def look_and_hear() -> None:
            while not said.empty():
                spoken = said.get()
                if hear is not None:
                    hear(*spoken)
            look()

        with scheduler_needed(client):
            client.subscribe_topic(topic, lambda event: said.put(tuple(event[1])))  # type: ignore[no-untyped-call]
        tasks = _Tasks(client, addresses, [(work, seat, job) for seat in seats])
        try:
            answer: Answer = tasks.answers(look_and_hear)[0]
        finally:
            with suppress(InterruptedRunError), scheduler_needed(client):
                client.unsubscribe_topic(topic)  # type: ignore[no-untyped-call]
        return answer


class _Tasks:
    """Calls that run at the same time, each on its own worker, all or none."""

    def __init__(
        self,
        client: Client,
        addresses: Sequence[str],
        calls: Sequence[tuple[Any, ...]],
    ) -> None:
        self._client, self._addresses = client, addresses
        with scheduler_needed(client):
            self._futures = [
                client.submit(*call, workers=[address], allow_other_workers=False, pure=False)
                for address, call in zip(addresses, calls, strict=True)
            ]

    def answers(self, look: Callable[[], None]) -> list[Any]:
        """Return what they return; `look` is called again and again meanwhile, and may raise."""
        asked = 0.0
        # that a task was taken back is no news
        with silence_logging_cmgr(logging.CRITICAL, root="distributed.client"):
            try:
                while not all(future.status == "finished" for future in self._futures):
                    look()
                    ended = any(f.status not in ("finished", "pending") for f in self._futures)
                    lost = ""
                    if time.monotonic() - asked > ASK_EVERY_S:
                        lost, asked = self._lost(), time.monotonic()
                    if ended or lost:
                        raise self._cause()
                    time.sleep(LOOK_EVERY_S)
                look()
                with scheduler_needed(self._client):
                    return [future.result() for future in self._futures]
            finally:
                # what still runs sees that nobody waits for it, and ends
                with suppress(InterruptedRunError), scheduler_needed(self._client):
                    self._client.cancel(self._futures)  # type: ignore[no-untyped-call]

    def _lost(self) -> str:
        """Return the address of a worker that is gone, or nothing."""
        with scheduler_needed(self._client):
            there = self._client.nthreads()  # type: ignore[no-untyped-call]
        return next((address for address in self._addresses if address not in there), "")

    def _cause(self) -> BaseException:
        """Return why they cannot go on, once each has had the time to say why it ended."""
        until = time.monotonic() + SAY_WHY_S
        while True:
            raised = self._raised()
            # that another is gone is what those say that have nothing of their own to say
            for address, error in raised.items():
                if isinstance(error, (BgscaleError, OSError)):
                    if not isinstance(error, InterruptedRunError):
                        return error
                elif not isinstance(error, (KilledWorker, CancelledError)):
                    what = "".join(traceback.format_exception_only(error)).strip()
                    failed = UnitError(f"training failed on worker {address}: {what}")
                    failed.__cause__ = error
                    return failed
            if lost := self._lost():
                msg = f"worker {lost} was lost (out of memory?), and the training with it; {KEPT}"
                return InterruptedRunError(msg)
            pending = any(future.status == "pending" for future in self._futures)
            if not pending or time.monotonic() > until:
                interrupted = (e for e in raised.values() if isinstance(e, InterruptedRunError))
                return next(interrupted, InterruptedRunError(f"a worker was lost; {KEPT}"))
            time.sleep(LOOK_EVERY_S)

    def _raised(self) -> dict[str, BaseException]:
        found = {}
        for address, future in zip(self._addresses, self._futures, strict=True):
            if future.status not in ("finished", "pending"):
                with scheduler_needed(self._client):
                    found[address] = future.exception()  # type: ignore[no-untyped-call]
        return found


def _listen(topic: str, host: str) -> int:
    """Open the port at which a training will meet, on the leader's own address alone."""
    listening = socket.create_server((host, 0), backlog=128)
    _LISTENING[topic] = listening
    return int(listening.getsockname()[1])


def _come(client: Client, most: int, look: Callable[[], None], *, gpu: bool) -> list[str]:
    """Return the addresses of the workers, once those that are needed have come, or are late."""
    until = time.monotonic() + WAIT_FOR_OTHERS_S
    awaited = min(most, _asked_for(client, gpu=gpu))
    while len(found := _there(client, gpu=gpu)) < max(awaited, 1):
        look()
        if time.monotonic() > until:
            break
        time.sleep(LOOK_EVERY_S)
    if not found:
        msg = f"no worker {'with a GPU ' * gpu}has come; {KEPT}"
        raise InterruptedRunError(msg)
    return found


def _asked_for(client: Client, *, gpu: bool) -> int:
    """Return how many workers will come, where this process starts them."""
    if client.cluster is None:
        return 0
    names = [str(name) for name in client.cluster.worker_spec]
    return sum(name.startswith("gpu") for name in names) if gpu else len(names)


def _there(client: Client, *, gpu: bool) -> list[str]:
    """Return the workers of the kind that is wanted, host by host."""
    with scheduler_needed(client):
        workers = client.scheduler_info(n_workers=-1)["workers"]
    own = {a: w for a, w in workers.items() if bool(w["resources"].get(GPU)) == gpu}
    # a scheduler that somebody else has started may not say which of its workers have a GPU
    order = [(w["host"], str(w["name"]), a) for a, w in (own or workers).items()]
    return [address for _, _, address in sorted(order)]
