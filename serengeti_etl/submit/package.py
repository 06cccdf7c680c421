"""A run as ``submission.zip``: its weights, how photographs are prepared, and the code that runs.

::

    main.py                     what is started
    config.json                 categories, sizes, the settings of the resize, class means, tuning
    weights.pt                  the state dict
    serengeti_etl/…             the modules of this package that are needed, as they are

Where it runs it needs Python 3.11, torch, torchvision, numpy, pyvips and simplejpeg.
"""

import io
import zipfile
from collections.abc import Mapping

import torch

from serengeti_etl.errors import ConfigError, require
from serengeti_etl.predict.served import CONFIG_FILE, ModelConfig, ServedModel
from serengeti_etl.predict.tuned import read_to_serve
from serengeti_etl.storage import Store, json_bytes
from serengeti_etl.submit.modules import needed_files
from serengeti_etl.submit.runtime import WEIGHTS_FILE

RUNTIME = "serengeti_etl.submit.runtime"

MAIN = '''\
"""Predicts the photographs in data/ and leaves submission.csv beside this file."""

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the code that prepared the photographs for training lies here

from serengeti_etl.submit.runtime import log_to_stderr, run_submission  # noqa: E402

if __name__ == "__main__":
    log_to_stderr()
    run_submission(FOLDER)
'''

_MOMENT = (1980, 1, 1, 0, 0, 0)
"""Of every file in the zip: the same model gives the same bytes."""


def write_submission(
    model_url: str, output: str, *, with_mirror: bool = False, is_tuned: bool = False
) -> Mapping[str, int]:
    """Sizes in bytes of the files in the zip at ``output``, by name, after writing it.

    Args:
        model_url: as of ``read_model``.
        output: path or url of the zip.
        with_mirror: it shall predict mirror images too, and take the mean.
        is_tuned: it shall do with sequences what the run's evaluation chose.

    Raises:
        ConfigError: there is no model or no tuning of it, or it does not know what it was trained
            with.
    """
    folder, _, name = output.rpartition("/")
    is_zip = name.endswith(".zip")
    require(is_zip, "output", output, "a file whose name ends in .zip")
    model = read_to_serve(
        model_url, torch.device("cpu"), with_mirror=with_mirror, is_tuned=is_tuned
    )
    _check(model.config, model_url)
    content, sizes = _zipped(model)
    Store(url=folder or ("/" if output.startswith("/") else ".")).write(name, content)
    return sizes


def _check(config: ModelConfig, url: str) -> None:
    if len(config.sequence_means) != len(config.classes):
        raise ConfigError(
            f"the model of {url} has no class means, which sequences without photographs get: "
            "train it again with this version"
        )


def _zipped(model: ServedModel) -> tuple[memoryview, dict[str, int]]:
    weights = io.BytesIO()
    torch.save(model.network.network.state_dict(), weights)
    files: dict[str, bytes | memoryview] = {
        "main.py": MAIN.encode(),
        CONFIG_FILE: json_bytes(model.config.to_json()),
        WEIGHTS_FILE: weights.getbuffer(),
    }
    files |= {name: path.read_bytes() for name, path in needed_files(RUNTIME).items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _MOMENT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, bytes(content))
    return buffer.getbuffer(), {name: len(content) for name, content in files.items()}
