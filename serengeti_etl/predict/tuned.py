"""A model that serves what its evaluation chose: mirror images, aggregation, temperatures."""

import dataclasses

import torch

from serengeti_etl.errors import ConfigError
from serengeti_etl.evaluate.files import EVALUATION_FILE, damaged_evaluation, read_evaluation
from serengeti_etl.predict.read_model import read_model
from serengeti_etl.predict.served import ServedModel
from serengeti_etl.storage import Store
from serengeti_etl.train.checkpoint import FOLDER as CHECKPOINTS
from serengeti_etl.train.checkpoint import weights_sha256
from serengeti_etl.train.serving import Serving


def read_to_serve(
    url: str, device: torch.device, *, with_mirror: bool = False, is_tuned: bool = False
) -> ServedModel:
    """The model at ``url``, as ``read_model`` reads it, that serves as is asked.

    Args:
        url: as of ``read_model``.
        device: to work on.
        with_mirror: take the mean of the logits of each photograph and its mirror image.
        is_tuned: do with sequences what the run's evaluation chose, and as with mirror images.

    Raises:
        ConfigError: there is no model, or it is to be tuned and was not evaluated like that.
    """
    model = read_model(url, device)
    serving = Serving(with_mirror=with_mirror)
    if is_tuned:
        serving = tuned_serving(model, url)
        if with_mirror and not serving.with_mirror:
            raise ConfigError(
                f"{url} was tuned without mirror images, which change what there is to tune: "
                "evaluate it with --mirror, or predict without"
            )
    config = dataclasses.replace(model.config, serving=serving)
    return dataclasses.replace(model, config=config)


def tuned_serving(model: ServedModel, url: str) -> Serving:
    """What the evaluation of this model chose.

    Args:
        model: that was read from there.
        url: a run, one of its files, or a model folder, which has it from its run.

    Raises:
        ConfigError: it was not evaluated, or nothing was tuned, or it is another model's.
    """
    if model.config.tuned is not None:
        return model.config.tuned
    advice = "run `serengeti-etl evaluate` on the run, then this again"
    folder = folder_of(url)
    evaluation = read_evaluation(Store(url=folder))
    if evaluation is None:
        raise ConfigError(f"{url} has no {EVALUATION_FILE} with a tuning: {advice}")
    where = f"{EVALUATION_FILE} beside the model of {url}"
    if evaluation.get("weights_sha256") != weights_sha256(model.network.network.state_dict()):
        raise ConfigError(
            f"{where} is of other weights, or of an older version: only `model.pt` of a run is "
            f"evaluated; {advice}"
        )
    tuning = evaluation.get("tuning")
    if tuning is None:
        raise ConfigError(f"{where} tuned nothing, as there was no split for it: {advice}")
    try:
        return Serving.from_json(
            {
                "with_mirror": evaluation["with_mirror"],
                "aggregation": tuning["choice"]["aggregation"],
                "temperatures": [tuning["temperatures"][name] for name in model.config.classes],
            }
        )
    except (KeyError, TypeError) as error:
        raise damaged_evaluation(folder, repr(error)) from error


def folder_of(url: str) -> str:
    """The run that ``url`` is, or is a file of."""
    if not url.endswith(".pt"):
        return url
    return (url.rpartition("/")[0] or ".").removesuffix(f"/{CHECKPOINTS}")
