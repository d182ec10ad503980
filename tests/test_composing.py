"""Crops are composed where they are read, from pixels that were read once."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from screens import config_of

from bgscale import open_results
from bgscale.distribute.listener import Silent
from bgscale.models import load_model
from bgscale.models.engine import Engine
from bgscale.results import Store
from bgscale.run import Run
from bgscale.schema import CENTRE_CELL
from bgscale.settings import SETTINGS, compose_into, device, scaling
from bgscale.settings.device import composed, counts, to_device
from bgscale.stages import embedding
from bgscale.stages.batches import Batches, resident
from bgscale.stages.composing import bank_of
from bgscale.stages.embedding import _read_and_swap, features
from bgscale.stages.job import Job
from bgscale.stages.overlap import ahead

CPU = torch.device("cpu")


def plainly(image, mask, bank, rows, donors, channels, bounds):
    """Compose by the words of the protocol."""
    background = bank[donors][:, channels].astype(np.float32)
    if bounds is not None:
        new, old = (b[..., None, None].astype(np.float32) for b in bounds)
        gain = (new[:, :, 1] - new[:, :, 0]) / (old[:, :, 1] - old[:, :, 0])
        background = (background - old[:, :, 0]) * gain + new[:, :, 0]
    inside = (mask[rows] == CENTRE_CELL)[:, None]
    return np.where(inside, image[rows][:, channels].astype(np.float32), background)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([np.uint16, np.float32]),
    st.sampled_from([[0, 1], [2, 0], [1]]),
    st.booleans(),
)
def test_the_compiled_loop_and_the_gpu_give_what_the_protocol_says(seed, dtype, channels, scaled):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 2**16, (4, 3, 6, 5)).astype(dtype)
    bank = rng.integers(0, 2**16, (7, 3, 6, 5)).astype(dtype)
    mask = rng.integers(0, 3, (4, 6, 5), np.uint8)
    rows, donors, channels = rng.integers(0, 4, 9), rng.integers(0, 7, 9), np.array(channels)
    bounds = None
    if scaled:
        low = rng.gamma(2, 300, (2, 9, len(channels)))
        bounds = np.stack([low, low + rng.gamma(2, 900, low.shape) + 1], -1).astype(np.float32)
    expected = plainly(image, mask, bank, rows, donors, channels, bounds)
    scale = None if bounds is None else scaling(*bounds)
    out = np.empty(expected.shape, np.float32)
    compose_into(out, image, mask, bank, rows, donors, channels, scale)
    np.testing.assert_array_equal(out, expected)
    there = composed(
        to_device(image, CPU),
        to_device(mask, CPU),
        to_device(bank, CPU),
        *(torch.from_numpy(i) for i in (rows, donors, channels)),
        scale=None if scale is None else torch.from_numpy(scale),
    )
    np.testing.assert_array_equal(there.numpy(), expected)


def test_counts_on_a_device_are_those_that_were_stored():
    values = np.array([0, 1, 32767, 32768, 65535], np.uint16)
    np.testing.assert_array_equal(counts(to_device(values, CPU)).numpy(), values)


@pytest.fixture(scope="module")
def job(small_screen, finished):
    config = config_of(small_screen, finished.parent, settings=list(SETTINGS))
    job = Job(config)
    assert job.store.exists()
    return job


@pytest.mark.parametrize("mode", ["unmasked", "masked", "masked_mean"])
@pytest.mark.parametrize("steps", [("minmax",), ("minmax_inside",)])
def test_what_a_gpu_composes_is_what_a_processor_composes(job, mode, steps):
    changed = {"preprocess": steps, "masked_preprocess": (*steps, "mask"), "micro_batch": 48}
    model = load_model("tiny", overrides=changed)
    channels = job.role_indices(["cytosol", "protein"], who="")
    several = [setting for setting in SETTINGS.values() if setting.mode == mode]
    block, wanted = _read_and_swap(job, model, "crops", several, slice(0, 40))
    together = Batches(job, model, block, wanted, channels)
    apart = [Batches(job, model, block, [one], channels) for one in wanted]
    assert len(together) == sum(map(len, apart)) > 20 * len(several)
    first = 0
    for batches, (_, swapped) in zip(apart, wanted, strict=True):
        alone, inside = batches(slice(0, len(batches)))
        crops, inside_too = together(slice(first, first + len(batches)))
        first += len(batches)
        np.testing.assert_array_equal(crops.numpy(), alone.numpy())
        assert (inside is None) == (inside_too is None)
        if inside is not None:
            np.testing.assert_array_equal(inside_too.numpy(), inside.numpy())
            filled_up = np.resize(swapped.rows, len(inside))
            np.testing.assert_array_equal(inside.numpy(), block.mask[filled_up] == CENTRE_CELL)
    # also where one setting ends and the next begins
    for start in range(0, len(together), 48):
        part = slice(start, min(start + 48, len(together)))
        crops, inside = together(part)
        crops_there, inside_there = together._on_device(*together._runs(part))
        np.testing.assert_array_equal(crops_there.numpy(), crops.numpy())
        assert (inside is None) == (inside_there is None)
        if inside is not None:
            np.testing.assert_array_equal(inside_there.numpy(), inside.numpy())


def test_each_crop_is_read_once_for_all_settings(small_screen, tmp_path, monkeypatch):
    run = Run.from_config(config_of(small_screen, tmp_path))
    run.execute(until="bank")
    read = Store.read
    rows: dict[str, list[int]] = {}

    def counting(store, name, *where):
        if "/crops/crops/" in name:
            span = range(*where[0].indices(10**6))
            rows.setdefault(name, []).extend(span)
        return read(store, name, *where)

    monkeypatch.setattr(Store, "read", counting)
    run.execute(until="embed")
    cells = store_length(run.store)
    assert {name: sorted(span) for name, span in rows.items()} == {
        f"plates/crops/crops/{what}": list(range(cells)) for what in ("image", "mask")
    }


def store_length(store):
    return store.array("plates/crops/cells/id").shape[0]


def test_original_is_embedded_once_a_cell(small_screen, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(
        "bgscale.stages.embedding.Batches",
        lambda *args: made.extend((s.name, len(d.rows)) for s, d in args[3]) or Batches(*args),
    )
    run = Run.from_config(config_of(small_screen, tmp_path))
    run.execute(until="embed")
    usable = int((run.store.read("plates/crops/cells/reason") == 0).sum())
    assert sum(n for name, n in made if name == "original") == usable


def test_a_device_is_sent_everything_once_a_block_and_asked_once(job, monkeypatch):
    """On torch's device of shapes alone: what went through the host would fail."""
    sent, asked = [], []
    send = device.to_device

    def sending(values, there):
        sent.append(values.nbytes)
        return send(values, there)

    def asking(tensor):
        asked.append(tuple(tensor.shape))
        return torch.zeros(tensor.shape)

    monkeypatch.setattr(device, "to_device", sending)
    monkeypatch.setattr(torch.Tensor, "cpu", asking)
    plain = load_model("tiny")
    settings = [SETTINGS[n] for n in ("original", "same", "different", "cell_free", "masked")]
    times = {}
    for micro_batch in (8, 32):
        engine = Engine(device="meta", precision="bfloat16", micro_batch=micro_batch)
        model = plain.on(engine)
        channels = job.role_indices(model.spec.channels, who="")
        block, wanted = _read_and_swap(job, model, "crops", settings, slice(0, 64))
        for bank in {id(b): b for s in settings if (b := bank_of(job, s))}.values():
            resident(bank.resident, model.device, image=bank.donors)
        sent.clear(), asked.clear()
        of_layer = features(job, model, block, wanted, channels)
        assert [len(of) for of in of_layer] == [len(model.spec.layers)] * len(settings)
        # unmasked settings are one row of crops, the masked one another
        assert len(asked) == 2 * len(model.spec.layers)
        assert sum(shape[0] for shape in asked) == len(model.spec.layers) * sum(
            len(swapped.rows) for _, swapped in wanted
        )
        # rows, channels, places, ranges
        times[micro_batch] = len(sent)
    # and where the last micro-batch of each row is filled up, with what
    assert abs(times[8] - times[32]) <= 2
    assert times[32] <= 2 * len(settings) + 4
    crops = sum(len(swapped.rows) for _, swapped in wanted)
    assert crops // 8 > 2 * times[8]


# reading ahead, and writing behind


@pytest.mark.parametrize("later", [0, 1])
def test_several_shards_a_unit_give_the_same_and_the_next_is_made_while_one_is_written(
    small_screen, tmp_path, finished, monkeypatch, later
):
    """As a GPU does it; the first write of a unit ends only when its next shard is begun."""
    monkeypatch.setattr(embedding, "shards_a_unit", lambda model: 3)
    monkeypatch.setattr(embedding, "blocks_begun_ahead", lambda model: later)
    write, begin = embedding._write, embedding.begin
    at_next, writes, done, order = threading.Event(), [], [], []

    def waiting(job, node, rows, arrays):
        writes.append(rows)
        if len(writes) == 1:
            assert at_next.wait(timeout=60)
        return write(job, node, rows, arrays)

    def noticed(*args):
        order.append("begun")
        # the first write is asked for when the first block has come
        if order.count("begun") == 2 + later:
            at_next.set()
        coming = begin(*args)

        def come():
            order.append("come")
            return coming()

        return come

    class Counts(Silent):
        def unit_done(self, unit, summary):
            if unit.stage.startswith("embed"):
                done.append(summary["cells"])

    monkeypatch.setattr(embedding, "_write", waiting)
    monkeypatch.setattr(embedding, "begin", noticed)
    run = Run.from_config(config_of(small_screen, tmp_path))
    run.execute(until="embed", listener=Counts())
    assert len(writes) > len(done) == -(-len(writes) // 3)
    assert order[:3] == (["begun", "begun", "come"] if later else ["begun", "come", "begun"])
    assert order.count("begun") == order.count("come")
    assert sum(done) == store_length(run.store)
    node = "plates/crops/embeddings/tiny"
    first, second = (open_results(path)[node] for path in (finished, run.store.path))
    for name in ("donor", "missing", "profile/embedding"):
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_the_next_block_is_read_while_one_is_worked_on():
    begun, seen = [], []
    both = threading.Barrier(2, timeout=30)

    def read(item):
        begun.append(item)
        if item:
            # comes back only when the item before it is in work
            both.wait()
        return -item

    for found in ahead(read, range(4)):
        seen.append(found)
        if found != -3:
            both.wait()
    assert seen == [0, -1, -2, -3]
    assert begun == [0, 1, 2, 3]
    assert list(ahead(read, [])) == []


def test_what_reading_raises_comes_out_where_it_is_used():
    def read(item):
        if item == 2:
            raise OSError("torn")
        return item

    found = ahead(read, [0, 1, 2, 3])
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(OSError, match="torn"):
        next(found)
