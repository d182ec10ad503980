"""PIFiA (Razdaibiedina et al. 2024): tells from a crop of GFP which of 4,049 proteins it shows.

'valid' 3x3 convolutions with batch norm, then ReLU; two dense layers, the second of which is the
64-d profile. Names are those of the published TensorFlow checkpoint.

References
----------
Razdaibiedina, Brechalov, Friesen, Mattiazzi Usaj, Masinas, Garadi Suresh, Wang, Boone, Ba &
Andrews (2024), PIFiA: self-supervised approach for protein functional annotation from single-cell
imaging data. Mol Syst Biol 20:521.
"""

from typing import ClassVar

from torch import Tensor, nn

from bgscale.models.layers import ConvNetwork, Stage, flatten_channels_last
from bgscale.models.spec import ModelSpec


class Pifia(ConvNetwork):
    """conv1..conv8 (bn1..bn8), d1, d2 (the profile), d3 (the proteins)."""

    stages = tuple(
        Stage(f"conv{i}", f"bn{i}", width, pool=i in {2, 4, 8})
        for i, width in enumerate((64, 64, 128, 128, 256, 256, 256, 256), start=1)
    )
    padding = 0
    dense: ClassVar = {"d1": 128, "d2": 64}
    default_spec = ModelSpec(
        architecture="pifia",
        channels=("protein",),
        preprocess=("minmax", "standardise"),
        masked_preprocess=("minmax", "mask"),
        layers={"conv8": 256, "d2": 64},
        classification_layer="conv8",
        profile_layer="d2",
        n_outputs=4049,
        licence="MIT",
        origin="architecture after arazd/pifia; Mol Syst Biol 2024;20:521",
    )

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        size_px = self.spatial_size(spec.network_crop_px)
        self.d1 = nn.Linear(size_px * size_px * self.stages[-1].width, 128)
        self.d2 = nn.Linear(128, 64)
        self.d3 = nn.Linear(64, spec.n_outputs)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the layers of the spec and the logits of (n, 1, y, x)."""
        read = {}
        for stage, taps, output in self.run_stages(x):
            if stage.conv in self.spec.layers:
                read[stage.conv] = self.read(taps)
            if self.is_read(read):
                return self.in_order(read)
            x = output
        read["d1"] = self.d1(flatten_channels_last(x)).relu()
        read["d2"] = self.d2(read["d1"]).relu()
        if self.is_read(read):
            return self.in_order(read)
        return self.in_order(read, self.d3(read["d2"]))
