"""First weights from a file: of another task, of a network that saw no mask.

Owns what is changed in given weights so that training can go on from them. The one idea: the
network begins with the features that it had. A head of other classes begins afresh, behind the
features; a mask that the first convolution has not read before has a kernel of zeros.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bgscale.models import MODELS
from bgscale.models.layers import ConvNetwork, build_network
from bgscale.models.spec import ModelSpec
from bgscale.models.weights import Weights


def first_weights(weights: Weights, spec: ModelSpec) -> dict[str, Tensor]:
    """Return the tensors with which the network of a spec begins.

    Parameters
    ----------
    weights : Weights
        Of the same architecture.
    spec : ModelSpec
        What is to be trained: its classes, seed (of a new head) and use of the mask.

    Returns
    -------
    dict of str to tensor
        What does not fit is left as it is in the file, and is refused when it is loaded.
    """
    kind = MODELS[spec.architecture]
    state, old = dict(weights.state), weights.spec
    fresh = build_network(kind, spec).state_dict()
    asked = (spec.n_outputs, spec.class_names)
    if old is None or (old.n_outputs, old.class_names) != asked:
        for name in _of_the_head(kind, spec):
            state[name] = fresh[name]
    if issubclass(kind, ConvNetwork) and "channel" in spec.mask_input:
        name = f"{kind.stages[0].conv}.weight"
        kernel, wanted = state.get(name), fresh[name].shape
        if kernel is not None and kernel.shape[1] == len(spec.channels) == wanted[1] - 1:
            zeros = kernel.new_zeros((kernel.shape[0], 1, *kernel.shape[2:]))
            state[name] = torch.cat([kernel, zeros], dim=1)
    return state


def _of_the_head(kind: type[torch.nn.Module], spec: ModelSpec) -> list[str]:
    """Return the tensors whose shape depends on the number of classes."""
    with torch.device("meta"):
        shapes = [
            {name: value.shape for name, value in kind(one).state_dict().items()}
            for one in (
                replace(spec, n_outputs=2, class_names=()),
                replace(spec, n_outputs=3, class_names=()),
            )
        ]
    return [name for name, shape in shapes[0].items() if shape != shapes[1][name]]
