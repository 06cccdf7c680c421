"""A trained model from where it lies: a run, one of its checkpoints, or a plain folder."""

import torch

from serengeti_etl.errors import ConfigError
from serengeti_etl.predict.served import CONFIG_FILE, ModelConfig, ServedModel, resize_settings
from serengeti_etl.storage import Store
from serengeti_etl.train.checkpoint import MODEL_FILE, ModelFile

WEIGHTS_FILE = "model.safetensors"


def read_model(url: str, device: torch.device) -> ServedModel:
    """The model at ``url``, ready to predict on ``device``.

    Args:
        url: a finished run; a file of such a run, as ``…/checkpoints/best.pt``; or a folder that
            ``serengeti-etl export-model`` wrote.
        device: to work on.

    Raises:
        ConfigError: there is none, or it does not say how its photographs were resized.
    """
    if url.endswith(".pt"):
        folder, _, name = url.rpartition("/")
        return _of_run(Store(url=folder or "."), name, device)
    store = Store(url=url)
    if store.exists(CONFIG_FILE):
        return _of_folder(store, device)
    return _of_run(store, MODEL_FILE, device)


def config_of(file: ModelFile, where: str) -> ModelConfig:
    """The config of a run's model.

    Args:
        file: as a run leaves it.
        where: it was found, for messages.

    Raises:
        ConfigError: it does not say how its photographs were resized.
    """
    return ModelConfig(
        model=file.model,
        classes=tuple(file.classes),
        image_size=(file.image_size[0], file.image_size[1]),
        resize=resize_settings(file.resize, where),
        sequence_means=tuple(file.sequence_means),
        empty_shift=file.empty_shift,
        crop_bottom=file.crop_bottom,
        versions=file.versions,
        data=file.data,
        plan_hash=file.plan_hash,
        step=file.step,
    )


def _of_run(store: Store, name: str, device: torch.device) -> ServedModel:
    file = ModelFile.read(store, name)
    config = config_of(file, f"{name} in {store.url}")
    return ServedModel.build(config, file.state_dict, device)


def _of_folder(store: Store, device: torch.device) -> ServedModel:
    from safetensors import SafetensorError
    from safetensors.torch import load

    where = f"{CONFIG_FILE} in {store.url}"
    config = ModelConfig.from_json(store.read_json(CONFIG_FILE), where)
    try:
        weights = load(store.read(WEIGHTS_FILE))
    except (FileNotFoundError, SafetensorError) as error:
        raise ConfigError(
            f"{WEIGHTS_FILE} in {store.url} cannot be read ({error}): run `serengeti-etl "
            "export-model` again"
        ) from error
    return ServedModel.build(config, weights, device)
