"""ResNet50, the network of the story: tune the head, unfreeze, finish on larger images.

Meant for a GPU and a season or more. Give ``weights`` a local or bucket path of torchvision's
``resnet50-11ad3fa6.pth`` (ImageNet); without weights the first stage is left out, since frozen
random features give the head nothing to learn from.
"""

from serengeti_etl.train.recipe import Recipe, Stage

recipe = Recipe(
    model="resnet50",
    weights=None,  # such as "s3://bucket/weights/resnet50-11ad3fa6.pth"
    stages=(
        # Only the last layer, on fixed features: minutes, and it keeps the first large errors of a
        # new head away from the pre-trained layers.
        Stage(name="head", epochs=1, trainable="head", image_size=(216, 288), learning_rate=2e-3),
        # All layers; those below the head at a tenth of its rate.
        Stage(name="all", epochs=3, image_size=(288, 384), batch_size=128, learning_rate=1e-3),
        # The size of the shards, at a lower rate: small animals become visible.
        Stage(name="large", epochs=1, image_size=(384, 512), batch_size=64, learning_rate=3e-4),
    ),
    weight_decay=0.01,
    window=4,
)
