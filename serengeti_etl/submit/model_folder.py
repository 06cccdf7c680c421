"""A model as a plain folder that others read without this package."""

import dataclasses
import io
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch

from serengeti_etl.errors import ConfigError
from serengeti_etl.evaluate.files import EVALUATION_FILE
from serengeti_etl.lease import hold
from serengeti_etl.predict.read_model import WEIGHTS_FILE, read_model
from serengeti_etl.predict.served import CONFIG_FILE, ServedModel
from serengeti_etl.predict.tuned import tuned_serving
from serengeti_etl.storage import Store, json_bytes
from serengeti_etl.submit.model_card import model_card
from serengeti_etl.train.serving import Serving

PROGRAM_FILE = "model.pt2"
ONNX_FILE = "model.onnx"
CARD_FILE = "README.md"
METRICS_FILE = "metrics.json"

_ONNX_PACKAGES = ("onnx", "onnxscript")


def write_model_folder(model_url: str, output: str, *, with_onnx: bool = False) -> tuple[str, ...]:
    """Names of the files in the folder ``output``, after writing them; ``config.json`` is the last.

    Args:
        model_url: as of ``read_model``; of a run that was evaluated, its metrics come along, and
            what it tuned, which ``predict --tuned`` takes.
        output: folder or bucket prefix.
        with_onnx: True adds ``model.onnx``, which needs the extra ``[onnx]``.

    Raises:
        ConfigError: there is no model, or the extra is not installed.
        OutputHeld: another process writes to the folder.
    """
    missing = [name for name in _ONNX_PACKAGES if with_onnx and not find_spec(name)]
    if missing:
        raise ConfigError(
            f"ONNX needs {', '.join(missing)}: install the extra with "
            "`pip install 'serengeti-etl[onnx]'`"
        )
    model = read_model(model_url, torch.device("cpu"))
    store = Store(url=output)
    # Of two at once, weights of the one and the program of the other would lie side by side.
    with hold(store) as lease:
        files = _files(model, model_url, with_onnx=with_onnx)
        lease.check()
        for name, content in files.items():
            store.write(name, content)
    return tuple(files)


def _files(model: ServedModel, model_url: str, *, with_onnx: bool) -> dict[str, bytes]:
    """What the folder holds, by name; ``config.json`` is the last."""
    metrics = _metrics_of(model_url)
    config = dataclasses.replace(model.config, tuned=_tuning_of(model, model_url))
    program = exported_program(model)
    files = {
        WEIGHTS_FILE: _safetensors(model),
        PROGRAM_FILE: _saved(program),
        METRICS_FILE: json_bytes(metrics),
        CARD_FILE: model_card(config, metrics).encode(),
    }
    if with_onnx:
        files[ONNX_FILE] = _onnx(program)
    normalisation = {"normalisation": model.normalisation()}
    return files | {CONFIG_FILE: json_bytes(config.to_json() | normalisation)}


def exported_program(model: ServedModel) -> torch.export.ExportedProgram:
    """The network as a program: uint8 images of any number in, float32 logits out."""
    # Two, for a batch of one would be taken for the only size there is.
    images_BCHW = torch.zeros((2, 3, *model.config.image_size), dtype=torch.uint8)
    shapes = {"images_BCHW": {0: torch.export.Dim("batch", min=1)}}
    return torch.export.export(model.network, (images_BCHW,), dynamic_shapes=shapes)


def _saved(program: torch.export.ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _safetensors(model: ServedModel) -> bytes:
    from safetensors.torch import save

    state = model.network.network.state_dict()
    # Contiguous copies: a layout like channels last is not what the format has.
    content = {name: tensor.contiguous() for name, tensor in state.items()}
    return bytes(save(content, metadata={"format": "pt"}))


def _onnx(program: torch.export.ExportedProgram) -> bytes:
    made = torch.onnx.export(program, dynamo=True, external_data=False)
    if made is None:
        raise ConfigError("torch made no ONNX of this model")
    return bytes(made.model_proto.SerializeToString())


def _tuning_of(model: ServedModel, url: str) -> Serving | None:
    try:
        return tuned_serving(model, url)
    except ConfigError:  # not evaluated, or other weights were: those who ask for it are told
        return None


def _metrics_of(model_url: str) -> Mapping[str, Any]:
    """What the evaluation of a run, or the folder that it became, says; {} if there is none."""
    folder = model_url.rpartition("/")[0] if model_url.endswith(".pt") else model_url
    for name in (EVALUATION_FILE, METRICS_FILE):
        try:
            metrics: dict[str, Any] = Store(url=folder).read_json(name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        return metrics
    return {}
