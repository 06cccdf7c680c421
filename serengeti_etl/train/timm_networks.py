"""The home of timm, whose networks can be trained by any of their names; an extra of its own."""

from typing import Any

from torch import nn

from serengeti_etl.errors import ConfigError
from serengeti_etl.train.recipe import TIMM


def timm_network(name: str, *, pretrained: bool = False) -> nn.Module:
    """The network that timm knows by this name.

    Args:
        name: timm's, without prefix.
        pretrained: with weights that timm downloads.

    Raises:
        ConfigError: there is no timm, or no such network.
        OSError: the weights cannot be downloaded.
    """
    timm = _timm()
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = timm.list_models(f"*{architecture[:6]}*")[:5]
        known = f"it has {', '.join(near)}" if near else "see timm.list_models()"
        raise ConfigError(f"model is {TIMM + name!r}, but timm has no such network; {known}")
    network: nn.Module = timm.create_model(name, pretrained=pretrained)
    return network


def details(network: nn.Module) -> dict[str, Any]:
    """``classifier``, ``mean`` and ``std`` of one of timm's networks."""
    return dict(vars(network)["pretrained_cfg"])


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(
            f"models {TIMM}… need timm: install the extra with "
            "`pip install 'serengeti-etl[timm]'`, or choose a ResNet"
        ) from error
    return timm
