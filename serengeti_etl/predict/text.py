"""What ``predict`` shows when it is done."""

from serengeti_etl.predict.run import PredictionReport
from serengeti_etl.text_table import table_text


def prediction_text(report: PredictionReport) -> str:
    """Photographs by likeliest category, and those that could not be read by reason."""
    named = sorted(report.categories.items(), key=lambda one: (-one[1], one[0]))
    rows = [("predicted", name, count) for name, count in named]
    rows += [("failed", reason, count) for reason, count in sorted(report.failures.items())]
    rows.append(("photographs", "", report.num_photographs))
    lines = [f"failed: {example}\n" for example in report.examples]
    if report.num_before:
        lines.append(f"{report.num_before:,} of them were predicted before it was stopped\n")
    if report.num_ignored:
        lines.append(f"{report.num_ignored:,} other files in the folder are no photographs\n")
    if report.warning:
        lines.append(f"warning: {report.warning}\n")
    return table_text("photographs", ("", "category or reason", "photographs"), rows) + "".join(
        lines
    )
