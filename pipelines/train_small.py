"""ResNet18 from random weights on small images: minutes on two CPU cores.

For trying things out, for the demo and for small collections.
"""

from serengeti_etl.train.recipe import Recipe, Stage

recipe = Recipe(
    model="resnet18",
    weights=None,
    stages=(
        # Small batches: few images still give enough steps. All layers learn at one rate, as none
        # of them knows anything yet.
        Stage(
            name="small",
            epochs=12,
            image_size=(72, 96),  # keeps 3:4
            batch_size=16,
            learning_rate=1e-3,
            backbone_rate=1.0,
        ),
    ),
    weight_decay=0.01,
    window=4,
)
