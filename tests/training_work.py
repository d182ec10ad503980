"""Trainings that go wrong in one of their processes, for the tests."""

import os
import signal
import socket

import psutil

from bgscale.errors import InputError
from bgscale.models import fit
from bgscale.train import train_seated


def killed(seat, text):
    """Kill the second process when it begins its second epoch."""
    plain = fit._epoch

    def epoch(state, *others):
        if seat.rank == 1 and len(state.history) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(state, *others)

    fit._epoch = epoch
    try:
        return train_seated(seat, text)
    finally:
        fit._epoch = plain


def wrong_input(seat, text):
    """Let the second process have no file to begin from."""
    if seat.rank == 1:
        msg = "no such weights"
        raise InputError(msg)
    return train_seated(seat, text)


def broken(seat, text):
    """Let the second process meet what nobody has thought of."""
    if seat.rank == 1:
        raise ZeroDivisionError("oh")
    return train_seated(seat, text)


def other_cells(seat, text):
    """Let the second process see other cells."""
    return train_seated(seat, text.replace('"seed": 3', f'"seed": {3 + seat.rank}'))


def ports(seat, text):
    """Return the addresses at which the process listens while it trains."""
    found = set()
    plain = fit._epoch

    def epoch(*arguments):
        for one in psutil.Process().net_connections():
            if one.status == psutil.CONN_LISTEN and one.family == socket.AF_INET:
                found.add(one.laddr.ip)
        return plain(*arguments)

    fit._epoch = epoch
    try:
        train_seated(seat, text)
    finally:
        fit._epoch = plain
    return found
