"""The README of a model folder: what it is, what it was trained on, what it is good for."""

from collections.abc import Mapping
from typing import Any

from serengeti_etl.predict.served import ModelConfig

_TEXT = """\
# {title}

Which animals a camera-trap photograph shows: {model} on whole photographs, one probability for each
of {num_classes} categories, which need not add up to one (several may be in a photograph).

## Files

| file | holds |
|---|---|
| `config.json` | categories in order, image size, settings of the resize, normalisation |
| `model.safetensors` | weights, with the network's own names |
| `model.pt2` | the whole network by `torch.export`, normalisation included |
| `metrics.json` | how it did, where it was evaluated |

`serengeti-etl predict THIS_FOLDER --photographs FOLDER --output predictions.csv` does all of what
follows. By hand: resize a photograph as `config.json` says under `resize`, by libvips (Lanczos3),
write it as a JPEG of quality {quality} and {subsampling}, decode that,{cropped}
stretch it to {height} x {width} px (bilinear, antialiased), and give it to the network as uint8
RGB, (batch, 3, {height}, {width}). Without the JPEG in between probabilities differ from those that
were evaluated.

```python
import torch

network = torch.export.load("model.pt2").module()
probabilities_BC = torch.sigmoid(network(images_BCHW).double())
```

## Trained on

{data}

## How it did

{metrics}

## Intended use

To sort photographs of camera traps that look like those of training: the same region, species and
kind of camera. Probabilities of the frames of one sequence belong together: the mean, of `empty`
the geometric mean.{tuned}

## Limits

It knows its {num_classes} categories and nothing else: an animal of another kind comes out as one
of them, or as none. At cameras that it has not seen, and for rare species, it does worse. It does
not count animals or say where they are. Check a sample by eye before acting on a number; do not use
it alone where a missed animal, or person, matters.

## Categories

{classes}
"""

_TUNED = """ On validation another way did better, which `predict --tuned` takes and
`config.json` has under `tuned`: {one.animals}, of `empty` {one.empty}, then the log odds of each
category divided by its temperature."""

_CROPPED = " cut the last {share:.1%} of its rows off (or one more, to an even number),"

_UNKNOWN = "not recorded"


def model_card(config: ModelConfig, metrics: Mapping[str, Any]) -> str:
    """The card as Markdown.

    Args:
        config: of the model.
        metrics: the contents of ``metrics.json``; empty if it was never evaluated.
    """
    height, width = config.image_size
    name = config.data.get("name")
    return _TEXT.format(
        title=f"{config.model} for {name}" if name else config.model,
        model=config.model,
        num_classes=len(config.classes),
        quality=config.resize.quality,
        subsampling=config.resize.subsampling,
        cropped=_CROPPED.format(share=config.crop_bottom) if config.crop_bottom else "",
        height=height,
        width=width,
        data=_data(config),
        metrics=_metrics(metrics),
        tuned="" if config.tuned is None else _TUNED.format(one=config.tuned.aggregation),
        classes=", ".join(f"`{one}`" for one in config.classes),
    )


def _data(config: ModelConfig) -> str:
    rows = {
        "dataset": config.data.get("name"),
        "licence": config.data.get("licence"),
        "cite": config.data.get("citation"),
        "plan": config.plan_hash,
        "photographs prepared by": config.versions.get("encoder"),
        "steps": config.step,
    }
    lines = [f"| {key} | {value or _UNKNOWN} |" for key, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def _metrics(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return "Not evaluated: `serengeti-etl evaluate` does that."
    names = {
        "score": "mean binary log loss over sequences and categories; lower is better",
        "class_means_score": "the same, if the class means are predicted for every sequence",
    }
    split, num = metrics.get("split", _UNKNOWN), metrics.get("num_sequences", _UNKNOWN)
    lines = [f"| {metrics[key]:.4f} | {text} |" for key, text in names.items() if key in metrics]
    head = f"On {num} sequences of split `{split}`:"
    return "\n".join([head, "", "| value | of |", "|---|---|", *lines])
