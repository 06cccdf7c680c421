"""Commands over models: predict with them, and hand them on."""

from typing import TYPE_CHECKING, Any

import click

from serengeti_etl.cli.codes import COMPLETE, WITH_REJECTS
from serengeti_etl.cli.options import debug_option, need_training, place_options
from serengeti_etl.cli.progress import progress_line
from serengeti_etl.cli.stopping import works_long

if TYPE_CHECKING:
    from serengeti_etl.predict.photographs import Source
    from serengeti_etl.predict.run import PredictionReport
    from serengeti_etl.predict.settings import PredictSettings

mirror_option = click.option(
    "--mirror", "with_mirror", is_flag=True, help="Mirror images too, and the mean of both."
)
tuned_option = click.option(
    "--tuned", "is_tuned", is_flag=True, help="Sequences as `evaluate` tuned them on val."
)


@click.command()
@works_long
@click.argument("model")
@click.option("--photographs", required=True, help="Folder or url, or a .txt, .csv, .parquet list.")
@click.option("--source", help="Where the names in a list lie, if not beside it.")
@click.option("--output", required=True, help="File or url of the results; or a folder.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "parquet", "megadetector", "camtrap_dp"]),
    help="By default told by the suffix of --output: .csv, .parquet, .json (MegaDetector's).",
)
@click.option("--sequences", help="File for a table of sequences, .csv or .parquet.")
@click.option(
    "--gap",
    "gap_seconds",
    default=5.0,
    show_default=True,
    help="Where a list names no sequences: photographs of one site, or else one folder, that "
    "follow each other within so many seconds by their Exif time are one.",
)
@mirror_option
@tuned_option
@click.option("--device", default="auto", show_default=True, help="Such as cuda:0 or cpu.")
@place_options
@debug_option
def predict(
    model: str,
    photographs: str,
    source: str | None,
    debug: bool,  # noqa: ARG001, FBT001 - debug is read by main
    **settings: Any,
) -> int:
    """Predict photographs with MODEL: a finished run, one of its .pt files, or a model folder."""
    need_training()
    from serengeti_etl.predict.photographs import Source
    from serengeti_etl.predict.settings import PredictSettings
    from serengeti_etl.predict.text import prediction_text

    own = ("output", "kind", "sequences", "gap_seconds", "with_mirror", "is_tuned", "device")
    wanted = PredictSettings(**{name: settings.pop(name) for name in own}, place=settings)
    report = run_prediction(model, Source(url=photographs, folder=source), wanted)
    click.echo(prediction_text(report), nl=False)
    click.echo(f"written: {wanted.output}")
    return WITH_REJECTS if report.failures else COMPLETE


@click.command()
@works_long
@click.argument("model")
@click.option("--output", default="submission.zip", show_default=True, help="Path or url.")
@mirror_option
@tuned_option
@debug_option
def submit(model: str, output: str, debug: bool, **serving: bool) -> None:  # noqa: ARG001, FBT001 - debug is read by main
    """Pack MODEL with the code that runs it as a submission to Hakuna Ma-data."""
    need_training()
    from serengeti_etl.submit.package import write_submission

    sizes = write_submission(model, output, **serving)
    click.echo(f"written: {output}, {len(sizes)} files, {sum(sizes.values()) / 1e6:,.1f} MB")


@click.command("export-model")
@works_long
@click.argument("model")
@click.option("--output", required=True, help="Folder or url.")
@click.option("--onnx", is_flag=True, help="With model.onnx; needs the extra [onnx].")
@debug_option
def export_model(model: str, output: str, onnx: bool, debug: bool) -> None:  # noqa: ARG001, FBT001 - debug is read by main
    """Write MODEL as a plain folder: safetensors, torch.export, config and model card."""
    need_training()
    from serengeti_etl.submit.model_folder import write_model_folder

    click.echo(f"written: {output}/{', '.join(write_model_folder(model, output, with_onnx=onnx))}")


def run_prediction(model: str, source: "Source", settings: "PredictSettings") -> "PredictionReport":
    """Predict with a progress line; what came of it."""
    from serengeti_etl.predict.run import predict_photographs

    with progress_line(unit=" photographs", desc="predict") as line:

        def show(report: "PredictionReport") -> None:
            line.total = report.num_photographs
            line.set_postfix_str(f"{report.failures.total()} failed", refresh=False)
            line.update(report.num_done - line.n)

        return predict_photographs(model, source, settings, show)
