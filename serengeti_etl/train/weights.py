"""Pre-trained weights: from a file or bucket, or by the names that torchvision and timm give them.

There is no need for a network: a file of weights, fetched once on any machine, does as well.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from serengeti_etl.errors import ConfigError

StateDict = dict[str, Tensor]

_FILE_ENDINGS = (".pth", ".pt", ".bin", ".safetensors")


def is_file(weights: str) -> bool:
    """True for a path or url, false for the name of published weights."""
    return "/" in weights or weights.endswith(_FILE_ENDINGS)


def read_weights(url: str) -> StateDict:
    """The state dict at a path or url; nothing in the file is executed.

    Raises:
        ConfigError: there is no such file, or it is no state dict.
    """
    # Here, for a submission takes this module along, and no storage.
    from serengeti_etl.storage import Store
    from serengeti_etl.train.checkpoint import read_tensors

    folder, _, name = url.rpartition("/")
    try:
        content = Store(url=folder or ("/" if url.startswith("/") else ".")).read(name)
    except FileNotFoundError:
        raise ConfigError(
            f"weights is {url!r}, but there is no such file; give a path or url of a .pth or "
            ".safetensors with the network's own names, or None to start from random weights"
        ) from None
    parse = _parse_safetensors if name.endswith(".safetensors") else read_tensors
    try:
        value = parse(content)
    except ValueError as error:
        raise ConfigError(f"weights is {url!r}, but it holds no tensors: {error}") from error
    state = value.get("state_dict", value) if isinstance(value, dict) else value
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(f"weights is {url!r}, but it holds no state dict of tensors")
    return state


def downloaded(weights: str, download: Callable[[], StateDict]) -> StateDict:
    """What ``download`` brings.

    Raises:
        ConfigError: it cannot; names both ways out.
    """
    try:
        return download()
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"weights is {weights!r}, which could not be downloaded ({error}). Two ways out: "
            "download the file where there is a network, and give its path or bucket url as "
            "weights; or None, to start from random weights"
        ) from error


def load_backbone(
    network: nn.Module, head_name: str, state: Mapping[str, Tensor], source: str
) -> None:
    """Put all layers but the last from a state dict into the network.

    Args:
        network: to change.
        head_name: of its last layer, which stays as it is.
        state: weights by the network's own names.
        source: where they are from, for messages.

    Raises:
        ConfigError: names or shapes are not those of the network.
    """
    head = f"{head_name}."
    own = network.state_dict()
    wanted = {key: value.shape for key, value in own.items() if not key.startswith(head)}
    got = {key: value.shape for key, value in state.items() if not key.startswith(head)}
    wrong = sorted(key for key in wanted.keys() | got.keys() if wanted.get(key) != got.get(key))
    if wrong:
        raise ConfigError(
            f"weights is {source!r}, but it does not fit the model: {len(wrong)} tensors are "
            f"missing, unknown or of another shape, such as {wrong[0]}"
        )
    kept = {key: value for key, value in own.items() if key.startswith(head)}
    network.load_state_dict({key: state[key] for key in wanted} | kept)


def _parse_safetensors(content: bytes) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
