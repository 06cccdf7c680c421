"""What a training says to its board."""

from serengeti_etl.runs.board import Board
from serengeti_etl.train.settings import Event


class BoardTeller:
    """Hands the events of ``train.loop.train`` on to a board.

    Args:
        board: of the run; opened by the first event, when the run is known to be this one.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    def tell(self, event: Event) -> None:
        """To be given as ``on_event``, or called by what is."""
        board, values = self._board, event.values
        if event.kind == "step":
            board.progress(event.step, stage=event.stage)
        elif event.kind == "validating":
            board.pause(f"{event.stage}, validation")
        elif event.kind == "log":
            board.show(values)
            speed = f"{values['images_per_second']:.0f} images/s"
            board.log(f"step {event.step}: loss {values['loss']:.4f}, {speed}")
        elif event.kind in ("start", "resume"):
            self._open(event)
        elif event.kind == "validated":
            self._validated(event)
        elif event.kind == "checkpoint":
            board.log(f"step {event.step}: saved as {values['name']}")
        elif event.kind == "damaged":
            said = f"checkpoint {values['name']} is damaged and was passed over"
            board.event("damaged", said, "warning")
        elif event.kind in ("warning", "late"):
            board.event(event.kind, values["text"], "warning")

    def _open(self, event: Event) -> None:
        board, values = self._board, event.values
        marks, step = [], 0
        for name, num_steps in values["stages"]:
            marks.append((step, name))
            step += num_steps
        board.open(
            run_id=values["run_id"],
            step=event.step,
            num_steps=event.num_steps,
            marks=marks,
            metrics=values["metrics"],
        )
        board.progress(event.step, stage=event.stage)
        begun = "started" if event.kind == "start" else f"goes on from step {event.step}"
        board.event(event.kind, f"{begun} on {values['device']}")

    def _validated(self, event: Event) -> None:
        score, means = event.values["score"], event.values["class_means_score"]
        is_best = event.values["is_best"]
        figures = {"score": score, "class_means_score": means}
        if is_best:
            figures["best_score"] = score
        self._board.show(figures, event.values["samples"])
        self._board.pause(event.stage)  # the validation is over
        said = f"epoch {event.epoch + 1} of {event.num_epochs}: score {score:.4f}"
        said += f", class means {means:.4f}"
        self._board.event("best" if is_best else "validated", said + ", the best" * is_best)
