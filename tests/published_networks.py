"""The three published networks, built in TensorFlow from their layer lists, saved and run.

A script, so that TensorFlow stays out of the tests' own process: `published_networks.py FOLDER`
writes the files that `bgscale weights convert` is given, and MODEL.npz: crops (n, y, x, channel)
and what every layer makes of them. It shares no code with bgscale. All weights and batch-norm
statistics are random.
"""

import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format

keras = tf.keras
v1 = tf.compat.v1
N_CROPS = 2
EIGHT = (64, 64, 128, 128, 256, 256, 256, 256)


def random_value(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> Any:
    """Return values that keep activations near one, and no batch norm near the identity."""
    if len(shape) > 1:
        value = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
    elif "var" in name or "Squeeze_1" in name:
        value = rng.uniform(0.3, 2.0, shape)
    elif "gamma" in name:
        value = rng.uniform(0.5, 1.5, shape)
    else:
        value = rng.normal(0, 0.3, shape)
    return value.astype(np.float32)


def randomise(model: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        for weight in layer.weights:
            weight.assign(random_value(rng, weight.name, tuple(weight.shape)))


def pooled(values: dict[str, Any]) -> dict[str, Any]:
    """Return maps as their maximum and mean over space, vectors as they are."""
    read = {}
    for name, value in values.items():
        if value.ndim == 4:
            read |= {f"{name}.max": value.max((1, 2)), f"{name}.mean": value.mean((1, 2))}
        else:
            read[name] = value
    return read


def save_expected(folder: Path, name: str, crops: Any, values: dict[str, Any]) -> None:
    np.savez(folder / f"{name}.npz", input=crops, **pooled(values))


def crops_of(seed: int, size_px: int, channels: int) -> Any:
    shape = (N_CROPS, size_px, size_px, channels)
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def run(crops: Any, inputs: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    model = keras.Model(inputs, list(tensors.values()))
    return {k: v.numpy() for k, v in zip(tensors, model(crops, training=False), strict=True)}


def save_keras2(model: Any, path: Path) -> None:
    """Write what save_weights wrote in Keras 2: groups by layer, weights such as kernel:0."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        file.attrs["backend"] = b"tensorflow"
        for layer in model.layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{weight.name}:0" for weight in layer.weights]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = weight.numpy()


# ---- PIFiA


def pifia(folder: Path) -> None:
    layers = keras.layers
    x = inputs = keras.Input((64, 64, 1))
    taps = {}
    for i, width in enumerate(EIGHT, start=1):
        x = taps[f"conv{i}.conv"] = layers.Conv2D(width, 3, name=f"conv{i}")(x)
        x = taps[f"conv{i}.norm"] = layers.BatchNormalization(name=f"bn{i}")(x)
        x = taps[f"conv{i}.relu"] = layers.ReLU()(x)
        if i in {2, 4, 8}:
            x = layers.MaxPool2D()(x)
    x = layers.Flatten()(x)
    x = taps["d1"] = layers.Dense(128, activation="relu", name="d1")(x)
    x = taps["d2"] = layers.Dense(64, activation="relu", name="d2")(x)
    taps["logits"] = layers.Dense(4049, name="d3")(x)
    model = keras.Model(inputs, taps["logits"])
    randomise(model, seed=1)
    crops = crops_of(1, 64, 1)
    save_expected(folder, "pifia", crops, run(crops, inputs, taps))
    nodes = {
        layer.name: tf.train.Checkpoint(**{w.name: tf.Variable(w.numpy()) for w in layer.weights})
        for layer in model.layers
        if layer.weights
    }
    tf.train.Checkpoint(**nodes).write(str(folder / "pifia" / "weights"))
    optimizer = tf.train.Checkpoint(iter=tf.Variable(3, dtype=tf.int64), beta_1=tf.Variable(0.9))
    training = tf.train.Checkpoint(model=tf.train.Checkpoint(**nodes), optimizer=optimizer)
    training.save(str(folder / "pifia_training" / "ckpt"))
    tf.train.Checkpoint(model=model).write(str(folder / "pifia_keras" / "weights"))
    model.save(folder / "pifia.h5")


# ---- PCI


def encoder(x: Any, prefix: str, taps: dict[str, Any], *, scale: bool = True) -> Any:
    layers = keras.layers
    for number, width in (("1_1", 96), ("2_1", 256), ("3_1", 384), ("4_1", 384), ("5_1", 256)):
        name = f"{prefix}{number}"
        x = taps[f"{name}.conv"] = layers.Conv2D(width, 3, padding="same", name=name)(x)
        x = taps[f"{name}.relu"] = layers.Activation("relu")(x)
        x = taps[f"{name}.norm"] = layers.BatchNormalization(scale=scale)(x)
        if number in {"1_1", "2_1"}:
            x = layers.MaxPool2D()(x)
    return x


def pci(folder: Path) -> None:
    layers = keras.layers
    source, target = keras.Input((64, 64, 2)), keras.Input((64, 64, 1))
    # both branches have such batch norms, and their names do not tell whose they are
    other: dict[str, Any] = {}
    taps: dict[str, Any] = {}
    y = encoder(target, "target", other)
    x = encoder(source, "conv", taps)
    z = layers.Concatenate()([x, y])
    for width in (384, 256, 96):
        z = layers.Conv2D(width, 3, padding="same", activation="relu")(z)
        z = layers.BatchNormalization()(z)
    z = layers.Conv2D(1, 3, padding="same")(layers.UpSampling2D(4)(z))
    model = keras.Model([source, target], z)
    randomise(model, seed=2)
    crops = crops_of(2, 64, 2)
    save_expected(folder, "pci", crops, run(crops, source, taps))
    model.save(folder / "pci_whole.h5")
    save_keras2(model, folder / "pci_whole_weights.h5")
    # the encoder alone
    alone = keras.Model(source, x)
    save_keras2(alone, folder / "pci_keras2.h5")
    alone.save_weights(folder / "pci.weights.h5")
    with h5py.File(folder / "pci_legacy.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, alone)


def pci_unscaled(folder: Path) -> None:
    taps: dict[str, Any] = {}
    source = keras.Input((64, 64, 2))
    model = keras.Model(source, encoder(source, "conv", taps, scale=False))
    randomise(model, seed=3)
    crops = crops_of(3, 64, 2)
    save_expected(folder, "pci_unscaled", crops, run(crops, source, taps))
    model.save(folder / "pci_unscaled.h5")
    model.save_weights(folder / "pci_unscaled.weights.h5")


# ---- DeepLoc


def normalised(x: Any, name: str, updates: list[Any]) -> Any:
    """Return a batch norm whose statistics are moving averages of the batches' moments."""
    width = x.shape[-1]
    with v1.name_scope("batch_norm"), v1.variable_scope(f"{name}_batch_norm"):
        beta = tf.Variable(np.zeros(width, np.float32), name="beta")
        gamma = tf.Variable(np.ones(width, np.float32), name="gamma")
        mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)), name="moments")
        average = tf.train.ExponentialMovingAverage(0.5)
        updates.append(average.apply([mean, variance]))
        statistics = average.average(mean), average.average(variance)
        return tf.nn.batch_normalization(x, *statistics, beta, gamma, 1e-3)


def weighted(x: Any, name: str, width: int) -> Any:
    shape = (3, 3, x.shape[-1], width) if len(x.shape) == 4 else (x.shape[-1], width)
    with v1.name_scope("weights"):
        kernel = tf.Variable(tf.zeros(shape))
    with v1.name_scope("biases"):
        bias = tf.Variable(tf.zeros(width))
    return (tf.nn.conv2d(x, kernel, 1, "SAME") if len(shape) == 4 else x @ kernel) + bias


def deeploc(folder: Path) -> None:
    taps, updates = {}, []
    with tf.Graph().as_default(), v1.Session() as session:
        x = inputs = v1.placeholder(tf.float32, (None, 60, 60, 2))
        for i, width in enumerate(EIGHT, start=1):
            with v1.name_scope(f"conv_{i}"):
                x = taps[f"conv{i}.conv"] = weighted(x, f"conv_{i}", width)
                x = taps[f"conv{i}.norm"] = normalised(x, f"conv_{i}", updates)
                x = taps[f"conv{i}.relu"] = tf.nn.relu(x)
            if i in {2, 4, 8}:
                x = tf.nn.max_pool2d(x, 2, 2, "SAME")
        x = tf.reshape(x, (-1, 8 * 8 * 256))
        for ours, name, width in (
            ("fc1", "fc_1", 512),
            ("fc2", "fc_2", 512),
            ("logits", "final_layer", 19),
        ):
            with v1.name_scope(name):
                x = normalised(weighted(x, name, width), name, updates)
                x = taps[ours] = x if ours == "logits" else tf.nn.relu(x)
        weights = v1.trainable_variables()[:2]
        v1.train.MomentumOptimizer(0.1, 0.9).minimize(
            tf.reduce_mean(x), v1.train.get_or_create_global_step(), var_list=weights
        )
        rng = np.random.default_rng(4)
        for one in v1.global_variables():
            shape = tuple(one.shape)
            value = random_value(rng, one.name, shape) if shape else np.int64(5)
            session.run(v1.assign(one, value))
        crops = crops_of(4, 60, 2)
        save_expected(folder, "deeploc", crops, session.run(taps, {inputs: crops}))
        for name, version in (
            ("deeploc", v1.train.SaverDef.V2),
            ("deeploc_v1", v1.train.SaverDef.V1),
        ):
            (folder / name).mkdir()
            saver = v1.train.Saver(v1.global_variables(), write_version=version)
            saver.save(
                session, str(folder / name / "model.ckpt"), global_step=9500, write_meta_graph=False
            )


if __name__ == "__main__":
    out = Path(sys.argv[1])
    pifia(out)
    pci(out)
    pci_unscaled(out)
    deeploc(out)
