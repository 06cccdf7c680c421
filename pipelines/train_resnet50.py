"""ResNet50, the network of the story: tune the head, unfreeze, finish on larger images.

Meant for a GPU and a season or more. ``weights`` may be torchvision's name, which is downloaded, or
the local or bucket path of its ``resnet50-11ad3fa6.pth``; without weights the first stage is left
out, since frozen random features give the head nothing to learn from.
"""

from serengeti_etl.load.augment import Augment
from serengeti_etl.train.recipe import Recipe, Stage

# Only the last layer, on fixed features: minutes, and it keeps the first large errors of a new head
# away from the pre-trained layers.
head = Stage(
    name="head",
    num_samples=200_000,
    image_size=(216, 288),
    batch_size=256,
    trainable="head",
    learning_rate=2e-3,
    augment=Augment(min_area=0.65, brightness=0.2),
)
# All layers, the first ones at a hundredth of the head's rate.
everything = head.then(
    "all",
    num_samples=None,
    epochs=3,
    image_size=(288, 384),
    batch_size=128,
    trainable="all",
    learning_rate=1e-3,
)
# The size of the shards, at a lower rate: small animals become visible.
large = everything.then("large", epochs=1, image_size=(384, 512), batch_size=64, learning_rate=3e-4)

recipe = Recipe(
    model="resnet50",
    weights=None,  # such as "IMAGENET1K_V2" or "s3://bucket/weights/resnet50-11ad3fa6.pth"
    stages=(head, everything, large),
    crop_bottom=0.0,  # such as 0.06 where cameras burn in a banner with place and time
    weight_decay=0.01,
    window=4,
    average=0.9998,
)
