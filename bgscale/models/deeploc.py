"""DeepLoc (Kraus et al. 2017): localization classes from GFP and a cytosol marker.

'same' 3x3 convolutions with batch norm, then ReLU, on 60x60 out of 64x64; pooling rounds up; three
dense layers with batch norm after each, the last included, and ReLU after the first two.

References
----------
Kraus, Grys, Ba, Chong, Frey, Boone & Andrews (2017), Automated analysis of high-content microscopy
data with deep learning. Mol Syst Biol 13:924.
"""

from typing import ClassVar

from torch import Tensor, nn

from bgscale.models.layers import NORM_EPSILON, ConvNetwork, Stage, flatten_channels_last
from bgscale.models.spec import ModelSpec


class Deeploc(ConvNetwork):
    """conv1..conv8 (bn1..bn8), fc1..fc3 (bn_fc1..bn_fc3)."""

    stages = tuple(
        Stage(f"conv{i}", f"bn{i}", width, pool=i in {2, 4, 8})
        for i, width in enumerate((64, 64, 128, 128, 256, 256, 256, 256), start=1)
    )
    pool_rounds_up = True
    dense: ClassVar = {"fc1": 512, "fc2": 512}
    default_spec = ModelSpec(
        architecture="deeploc",
        network_crop_px=60,
        channels=("protein", "cytosol"),
        preprocess=("percentile_range",),
        masked_preprocess=("percentile_range", "mask"),
        layers={"conv5": 256, "fc2": 512},
        classification_layer="conv5",
        profile_layer="fc2",
        n_outputs=19,
        licence="BSD-3-Clause",
        origin="architecture after Mol Syst Biol 2017;13:924",
    )

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        size_px = self.spatial_size(spec.network_crop_px)
        width = size_px * size_px * self.stages[-1].width
        for i, outputs in enumerate((512, 512, spec.n_outputs), start=1):
            self.add_module(f"fc{i}", nn.Linear(width, outputs))
            self.add_module(f"bn_fc{i}", nn.BatchNorm1d(outputs, eps=NORM_EPSILON))
            width = outputs

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the layers of the spec and the logits of (n, 2, y, x)."""
        read = {}
        for stage, taps, output in self.run_stages(x):
            if stage.conv in self.spec.layers:
                read[stage.conv] = self.read(taps)
            if self.is_read(read):
                return self.in_order(read)
            x = output
        x = flatten_channels_last(x)
        for i in (1, 2):
            x = read[f"fc{i}"] = self._dense(i, x).relu()
        if self.is_read(read):
            return self.in_order(read)
        return self.in_order(read, self._dense(3, x))

    def _dense(self, i: int, x: Tensor) -> Tensor:
        y: Tensor = getattr(self, f"bn_fc{i}")(getattr(self, f"fc{i}")(x))
        return y
