"""A step in parts: the same weights with one process or several, also where one of them is lost."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import training_work
from screens import config_of
from test_fit import SHORT, TINY, same_state, toy

from bgscale.config import RunConfig
from bgscale.distribute.training import Seat, together
from bgscale.errors import ConfigError, InputError, InterruptedRunError, UnitError
from bgscale.models import MODELS
from bgscale.models import fit as fitting
from bgscale.models.fit import fit
from bgscale.models.layers import build_network
from bgscale.models.parts import Team, gradients
from bgscale.run import train_model
from bgscale.train import is_for_workers, train_seated

HOW = {"epochs": 3, "threads": 1, "cells_per_protein": 6, "parts": 2, "seed": 3, "patience": 3}


class Stop(Exception):
    """What a kill between two epochs looks like."""


class Heard:
    """Keeps what a training says; may stop it after an epoch."""

    def __init__(self, stop_after=0, stop=None):
        self.epochs, self.notices, self._stop_after, self._stop = [], [], stop_after, stop

    def __getattr__(self, name):
        return lambda *_: None

    def notice(self, text):
        self.notices.append(text)

    def epoch_done(self, epoch, epochs, text):
        self.epochs.append(epoch)
        if epoch == self._stop_after:
            self._stop()


def raise_stop():
    raise Stop


# ---- one process


def test_one_part_is_a_step_as_it_always_was(monkeypatch):
    images, target, field = toy(40)
    arguments = {"spec": TINY, "n_outputs": 2}
    first = fit(images, target, field, **arguments, config=replace(SHORT, epochs=2))

    def plain(network, losses, shares, team):
        (loss,) = losses
        value = loss()
        network.zero_grad(set_to_none=True)
        value.backward()
        return value.item()

    monkeypatch.setattr(fitting, "gradients", plain)
    again = fit(images, target, field, **arguments, config=replace(SHORT, epochs=2))
    assert same_state(first, again)
    assert first.history == again.history
    monkeypatch.undo()
    parts = fit(images, target, field, **arguments, config=replace(SHORT, epochs=2, parts=2))
    assert not same_state(first, parts)


def test_gradients_and_statistics_are_the_means_of_the_parts_each_from_the_same_state():
    spec = replace(TINY, n_outputs=2)
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 2, 64, 64)).astype(np.float32))
    pieces = [x[:6], x[6:]]

    def state(network):
        buffers = {k: v.clone() for k, v in network.named_buffers()}
        return buffers | {k: p.grad.clone() for k, p in network.named_parameters()}

    alone = []
    for piece in pieces:
        network = build_network(MODELS["tiny"], spec).train()
        loss = network(piece)["logits"].square().mean()
        loss.backward()
        alone.append(state(network) | {"loss": loss.detach()})
    network = build_network(MODELS["tiny"], spec).train()
    losses = [lambda piece=piece: network(piece)["logits"].square().mean() for piece in pieces]
    found = gradients(network, losses, [0.6, 0.4], Team())
    for name, value in (state(network) | {"loss": torch.tensor(found)}).items():
        if value.is_floating_point():
            expected = 0.6 * alone[0][name] + 0.4 * alone[1][name]
            torch.testing.assert_close(value, expected, msg=name)
        else:
            assert value == 1, name


def test_parts_are_whole_and_each_has_one_owner():
    for size in (1, 2, 3):
        for parts in range(size, 7):
            owners = [Team(size=size).owner(part, parts) for part in range(parts)]
            assert set(owners) == set(range(size))
            counts = np.bincount(owners)
            assert counts.max() - counts.min() <= 1


def test_parts_too_small_to_be_normalised_are_refused():
    with pytest.raises(ConfigError, match=r"parts = 9 of a step with batch_size = 16: expected 2"):
        replace(SHORT, parts=9)
    images, target, field = toy(12)
    with pytest.raises(InputError, match=r"parts = 6, but a step has \d+ crops"):
        fit(images, target, field, spec=TINY, n_outputs=2, config=replace(SHORT, parts=6))


def test_a_checkpoint_belongs_to_its_number_of_parts(tmp_path):
    images, target, field = toy(40)
    arguments = {"spec": TINY, "n_outputs": 2, "checkpoint": tmp_path / "c"}
    fit(images, target, field, **arguments, config=replace(SHORT, epochs=1, parts=2))
    with pytest.raises(InputError, match="another config"):
        fit(images, target, field, **arguments, config=replace(SHORT, epochs=1, parts=3))


# ---- several processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def configured(small_screen, folder):
    """Return the config of a training that writes its weights there; the cells are cut once."""

    def config(weights, **changes):
        models = {"tiny": {"weights": str(weights)}}
        return config_of(small_screen, folder, models=models, training=HOW | changes)

    return config


@pytest.fixture(scope="module")
def expected(configured, folder):
    """Weights of one process."""
    # weights say the name of their file
    path = folder / "w.safetensors"
    train_model(configured(path))
    return path.read_bytes()


def shared(client, work, config, **changes):
    values = {"config": config.to_config(), "restart": False}
    arguments = {"most": 2, "gpu": False, "tell": lambda _: None, "hear": None} | changes
    return together(client, work, json.dumps(values), **arguments)


@pytest.mark.cluster
@pytest.mark.parametrize("invariant", [False, True])
def test_two_processes_train_what_one_does(cluster, configured, tmp_path, invariant):
    path, heard = tmp_path / "w.safetensors", Heard()
    config = configured(path, invariant=invariant, parts=3, epochs=2)
    one = train_model(config)
    alone = path.read_bytes()
    path.unlink()
    two = train_model(config, cluster, listener=heard)
    assert path.read_bytes() == alone
    assert one == two
    assert heard.epochs == [1, 2]
    assert "2 of 2 workers share the 3 parts of a step" in heard.notices
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.cluster
def test_workers_beyond_the_parts_have_nothing_to_do_and_one_part_is_trained_here(
    cluster, configured, tmp_path
):
    said = []
    seats = shared(
        cluster, lambda seat, _: seat, configured(tmp_path / "w"), most=1, tell=said.append
    )
    assert seats.size == 1
    assert said == ["1 of 2 workers share the 1 parts of a step"]
    assert not is_for_workers(configured(tmp_path / "w", parts=1).training)


@pytest.mark.cluster
def test_a_lost_worker_is_said_and_one_process_goes_on_from_the_checkpoint(
    cluster, configured, expected, tmp_path
):
    path = tmp_path / "w.safetensors"
    config = configured(path)
    with pytest.raises(InterruptedRunError, match=r"worker tls.* lost .*run again to go on"):
        shared(cluster, training_work.killed, config)
    assert [p.name for p in tmp_path.iterdir()] == ["w.checkpoint"]
    heard = Heard()
    train_model(config, listener=heard)
    assert heard.epochs == [2, 3]
    assert path.read_bytes() == expected


@pytest.mark.cluster
def test_two_processes_go_on_from_the_checkpoint_of_one_also_after_ctrl_c(
    cluster, configured, expected, tmp_path
):
    path = tmp_path / "w.safetensors"
    with pytest.raises(Stop):
        train_model(configured(path), listener=Heard(1, raise_stop))
    other = tmp_path / "long.safetensors"
    long = configured(other, epochs=3000, patience=3000)
    interrupt = Heard(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(InterruptedRunError, match="stopped by SIGINT; the last checkpoint is kept"):
        train_model(long, cluster, listener=interrupt)
    # the workers have let go: else these would wait for ever
    heard = Heard()
    train_model(configured(path), cluster, listener=heard)
    assert heard.epochs == [2, 3]
    assert path.read_bytes() == expected


@pytest.mark.cluster
def test_what_is_wrong_in_one_process_is_what_is_said(cluster, configured, tmp_path):
    config = configured(tmp_path / "w")
    with pytest.raises(InputError, match="no such weights"):
        shared(cluster, training_work.wrong_input, config)
    with pytest.raises(UnitError, match=r"training failed on worker tls.*ZeroDivisionError: oh"):
        shared(cluster, training_work.broken, config)
    with pytest.raises(InputError, match="have not the same cells, model and config"):
        shared(cluster, training_work.other_cells, config)


@pytest.mark.cluster
def test_processes_listen_where_their_worker_does(cluster, configured, tmp_path):
    config = configured(tmp_path / "w", epochs=1)
    assert shared(cluster, training_work.ports, config) == {"127.0.0.1"}


def test_a_worker_without_the_gpu_says_so_before_it_meets_the_others(monkeypatch):
    def met(*_, **how):
        raise AssertionError

    monkeypatch.setattr("bgscale.train.joined", met)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = RunConfig.from_dict({"training": {"device": "cuda", "parts": 2}})
    seat = Seat(1, 2, "topic", "127.0.0.1", 0, "127.0.0.1", 0)
    with pytest.raises(InputError, match=r"device 'cuda': torch .* sees 0 GPUs here"):
        train_seated(seat, json.dumps({"config": config.to_config(), "restart": False}))


def test_the_function_that_workers_call_is_one_of_a_module():
    assert train_seated.__module__ == "bgscale.train"
