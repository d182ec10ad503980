"""tiny: bgscale's own small network, for screens without published weights and for laptops.

A strided convolution and five more, batch norm after each, then ReLU; the profile is a dense layer
on the maximum and the mean over space: what a crop shows somewhere, and how much of it.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from bgscale.models.layers import ConvNetwork, Stage, over_space
from bgscale.models.spec import ModelSpec


class Tiny(ConvNetwork):
    """conv1..conv6 (bn1..bn6), profile (64), head."""

    stages = (
        Stage("conv1", "bn1", 16, stride=2),
        Stage("conv2", "bn2", 16, pool=True),
        Stage("conv3", "bn3", 32),
        Stage("conv4", "bn4", 32, pool=True),
        Stage("conv5", "bn5", 64),
        Stage("conv6", "bn6", 64),
    )
    dense: ClassVar = {"profile": 64}
    # the scaling of the crops takes as long as the network
    probed = False
    default_spec = ModelSpec(
        architecture="tiny",
        channels=("protein", "cytosol"),
        preprocess=("minmax",),
        masked_preprocess=("minmax", "mask"),
        layers={"profile": 64},
        classification_layer="profile",
        profile_layer="profile",
        licence="BSD-3-Clause",
        origin="bgscale",
    )

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.spatial_size(spec.network_crop_px)
        self.profile = nn.Linear(2 * self.stages[-1].width, 64)
        self.head = nn.Linear(64, spec.n_outputs)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the layers of the spec and the logits of (n, channel, y, x)."""
        read = {}
        for stage, taps, _ in self.run_stages(x):
            if stage.conv in self.spec.layers:
                read[stage.conv] = self.read(taps)
            if self.is_read(read):
                return self.in_order(read)
        summary = torch.cat([over_space(taps, "relu", how) for how in ("max", "mean")], dim=1)
        read["profile"] = self.profile(summary)
        if self.is_read(read):
            return self.in_order(read)
        return self.in_order(read, self.head(read["profile"].relu()))
