"""Decoding by nvJPEG, through torchvision: an option where GPU time is cheaper than CPU time.

Not run on a GPU by the project's own tests, which hold only what surrounds torchvision's call. Two
things to know before choosing it: it needs a torchvision built for the CUDA of torch, and nvJPEG
does not promise to refuse a truncated file as ``decode.decode_onto`` does. What comes out of a
dataset's shards has been checked by checksum before.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from serengeti_etl.errors import ConfigError
from serengeti_etl.load.augment import Int64


def decode_on_device(
    jpegs: Sequence[bytes], device: torch.device, canvas_size: tuple[int, int]
) -> tuple[Tensor, Int64]:
    """Canvases on the device, and the sizes of the photographs, as ``device.prepare`` wants them.

    The canvases are (B, 3, height, width) uint8 RGB, channels last in memory; each photograph lies
    in the top left corner of its own, and the rest is zero. The sizes are (B, 2) in px.

    Args:
        jpegs: whole JPEG files.
        device: a GPU for nvJPEG; on the CPU it is torchvision's libjpeg-turbo.
        canvas_size: height and width in px; no photograph may be larger.

    Raises:
        ConfigError: there is no torchvision that fits.
        ValueError: the bytes of one are no JPEG, or a photograph is larger than the canvas.
    """
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"nvJPEG needs a torchvision that was built for this torch {torch.__version__}, and "
            f"the one here does not load ({error}); install a matching pair"
        ) from error
    # frombuffer warns of bytes, which cannot be written to.
    contents = [torch.from_numpy(np.frombuffer(jpeg, np.uint8).copy()) for jpeg in jpegs]
    try:
        # It refuses an empty list.
        images = decode_jpeg(contents, mode=ImageReadMode.RGB, device=device) if contents else []
    except RuntimeError as error:
        raise ValueError(f"torchvision cannot decode one of {len(jpegs)} JPEGs: {error}") from error
    sizes_B2 = np.array([image.shape[1:] for image in images], dtype=np.int64).reshape(-1, 2)
    if (sizes_B2 > canvas_size).any():
        raise ValueError(
            f"a photograph of {sizes_B2.max(axis=0).tolist()} px does not fit a canvas of "
            f"{list(canvas_size)}; take a larger canvas"
        )
    shape = (len(images), *canvas_size, 3)
    canvases_BCHW = torch.zeros(shape, dtype=torch.uint8, device=device).permute(0, 3, 1, 2)
    for canvas_CHW, image_CHW, (height, width) in zip(
        canvases_BCHW, images, sizes_B2.tolist(), strict=True
    ):
        canvas_CHW[:, :height, :width] = image_CHW
    return canvases_BCHW, sizes_B2
