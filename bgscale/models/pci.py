"""PCI, paired cell inpainting (Lu et al. 2019): the encoder, read at its fourth convolution.

'same' 3x3 convolutions, ReLU, then batch norm. The published network was trained to paint the
protein of one cell into the cytosol image of another; here the decoder is left out, and the head
for our own pretext task (which protein is this?) reads the feature itself.

References
----------
Lu, Kraus, Cooper & Moses (2019), Learning unsupervised feature representations for single cell
microscopy images with paired cell inpainting. PLoS Comput Biol 15:e1007348.
"""

from torch import Tensor, nn

from bgscale.models.layers import ConvNetwork, Stage, over_space
from bgscale.models.spec import ModelSpec

_FEATURE = "conv4_1"


class Pci(ConvNetwork):
    """conv1_1..conv5_1 (bn1_1..bn5_1) and a dense head on conv4_1."""

    stages = (
        Stage("conv1_1", "bn1_1", 96, pool=True),
        Stage("conv2_1", "bn2_1", 256, pool=True),
        Stage("conv3_1", "bn3_1", 384),
        Stage("conv4_1", "bn4_1", 384),
        Stage("conv5_1", "bn5_1", 256),
    )
    order = ("relu", "norm")
    default_spec = ModelSpec(
        architecture="pci",
        channels=("protein", "cytosol"),
        preprocess=("minmax",),
        masked_preprocess=("minmax", "mask"),
        layers={_FEATURE: 384},
        classification_layer=_FEATURE,
        profile_layer=_FEATURE,
        licence="BSD-3-Clause",
        origin="architecture after PLoS Comput Biol 2019;15:e1007348 (its code and weights: GPL-2)",
    )

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.head = nn.Linear(self.widths()[_FEATURE], spec.n_outputs)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the layers of the spec and the logits of (n, 2, y, x)."""
        read = {}
        for stage, taps, _ in self.run_stages(x):
            if stage.conv in self.spec.layers:
                read[stage.conv] = self.read(taps)
            if self.is_read(read):
                return self.in_order(read)
            if stage.conv == _FEATURE:
                logits = self.head(over_space(taps, "relu", "max"))
                if "conv5_1" not in self.spec.layers:
                    break
        return self.in_order(read, logits)
