"""Which layers of a network learn, and how fast, from the image to the head."""

from typing import Any

from torch import Tensor, nn

from serengeti_etl.train.model import Classifier

_CONTAINERS = ("blocks", "features", "layers", "stages")
"""Names under which timm's networks keep several blocks; in ResNets each has a name of its own."""


def blocks_of(model: Classifier) -> list[tuple[str, ...]]:
    """Names of the modules of each block, from the image to the head, which is the last.

    Of a ResNet: the stem, ``layer1`` to ``layer4`` and ``fc``. Modules between blocks, such as a
    last norm, belong to the block before them.
    """
    head = model.head_name.partition(".")[0]
    blocks: list[tuple[str, ...]] = [()]
    for name, child in model.network.named_children():
        if name == head:
            continue
        if not isinstance(child, nn.Sequential | nn.ModuleList):
            blocks[-1] += (name,)
        elif name in _CONTAINERS:
            blocks += [(f"{name}.{part}",) for part, _ in child.named_children()]
        else:
            blocks.append((name,))
    return [*filter(None, blocks), (head,)]


def set_trainable(model: Classifier, trainable: str) -> None:
    """Freeze the layers that do not learn, and set the modes of all.

    Frozen layers are in eval mode: BatchNorm then uses and keeps its running statistics, so that
    the features stay what they were.

    Args:
        model: to change.
        trainable: ``head``, ``layer4``, which is the last block and the head, or ``all``.
    """
    model.train()
    blocks = blocks_of(model)
    first = {"head": len(blocks) - 1, "layer4": len(blocks) - 2, "all": 0}[trainable]
    numbers = _block_numbers(model, blocks)
    for name, parameter in model.network.named_parameters():
        parameter.requires_grad_(numbers[name] >= first)
    for names in blocks[:first]:
        for name in names:
            model.network.get_submodule(name).eval()


def parameter_groups(
    model: Classifier, weight_decay: float, backbone_rate: float
) -> list[dict[str, Any]]:
    """Groups for AdamW, each with ``rate``: its share of the head's learning rate.

    Args:
        model: parameters that are frozen at this moment are left out.
        weight_decay: for weights; biases and norms get none.
        backbone_rate: share of the first block; from block to block it rises by the same factor.
    """
    blocks = blocks_of(model)
    numbers = _block_numbers(model, blocks)
    groups: dict[tuple[int, bool], list[Tensor]] = {}
    for name, parameter in model.network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((numbers[name], parameter.ndim > 1), []).append(parameter)
    last = len(blocks) - 1
    return [
        {
            "params": parameters,
            "rate": backbone_rate ** ((last - number) / last),
            "weight_decay": weight_decay if is_weight else 0.0,
        }
        for (number, is_weight), parameters in groups.items()
    ]


def _block_numbers(model: Classifier, blocks: list[tuple[str, ...]]) -> dict[str, int]:
    """Number of the block of each parameter; what belongs to no module is the first block's."""
    number_of = {name: number for number, names in enumerate(blocks) for name in names}
    numbers = {}
    for name, _ in model.network.named_parameters():
        parts = name.split(".")
        above = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        numbers[name] = next((number_of[one] for one in above if one in number_of), 0)
    return numbers
