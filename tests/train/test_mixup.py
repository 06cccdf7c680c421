"""What is drawn in a step follows from its key alone."""

import torch

from serengeti_etl.train.mixup import mix, seed_torch

IMAGES_BCHW = torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1).expand(6, 3, 4, 5) * 40
TARGETS_BC = torch.eye(6)


def test_images_and_targets_are_blended_alike() -> None:
    """Each image is a share of its own and the rest of one other, and its targets tell both."""
    images_BCHW, targets_BC = mix(IMAGES_BCHW, TARGETS_BC, 0.4, (1, 2, 0, 0))
    assert images_BCHW.dtype == torch.float32
    assert torch.allclose(targets_BC.sum(dim=1), torch.ones(6))
    values_B = targets_BC @ (torch.arange(6.0) * 40)
    assert torch.allclose(images_BCHW, values_B.reshape(6, 1, 1, 1).expand(6, 3, 4, 5), atol=1e-4)
    assert not torch.equal(targets_BC, TARGETS_BC)


def test_the_key_decides_all() -> None:
    """The same key gives the same blend; another seed, step, part or rank another one."""
    first = mix(IMAGES_BCHW, TARGETS_BC, 0.4, (1, 2, 0, 0))[1]
    assert torch.equal(first, mix(IMAGES_BCHW, TARGETS_BC, 0.4, (1, 2, 0, 0))[1])
    for key in ((2, 2, 0, 0), (1, 3, 0, 0), (1, 2, 1, 0), (1, 2, 0, 1)):
        assert not torch.equal(first, mix(IMAGES_BCHW, TARGETS_BC, 0.4, key)[1])


def test_torch_draws_what_the_key_says() -> None:
    """Dropout and the like repeat with the key, whatever was drawn before."""
    with torch.random.fork_rng():
        seed_torch((1, 2, 3, 4))
        first = torch.rand(3)
        torch.rand(5)
        seed_torch((1, 2, 3, 4))
        assert torch.equal(torch.rand(3), first)
        seed_torch((1, 2, 3, 5))
        assert not torch.equal(torch.rand(3), first)
