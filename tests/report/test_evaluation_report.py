"""The report of an evaluated run, as a browser shows it, against evaluation.json and sklearn."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from serengeti_etl.dataset.index import Dataset
from serengeti_etl.errors import ConfigError
from serengeti_etl.evaluate.judge import Evaluation
from serengeti_etl.report import evaluation as evaluation_module
from serengeti_etl.report.evaluation import evaluation_page
from serengeti_etl.report.mistakes import MAX_FRAMES, NUM_MISTAKES, PER_SITE, worst_rows
from serengeti_etl.report.predicted import Predicted, read_predicted, site_intervals
from serengeti_etl.report.write import report_evaluation
from serengeti_etl.storage import Store
from tests.browser import DESK, PHONE, SIZES, Browser
from tests.report.test_conversion_report import number, saved, table
from tests.report_factory import CLASSES, HOSTILE, Capture, captures_of, evaluate, make_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Of 200 sequences, 60 of them in val."""
    return make_dataset(str(tmp_path / "dataset"), captures_of(200))


@pytest.fixture
def run(tmp_path: Path) -> Store:
    """Of a run; nothing is in it yet."""
    return Store(url=str(tmp_path / "run"))


@pytest.fixture
def judged(run: Store, dataset: Dataset) -> Evaluation:
    """What its evaluation came to."""
    return evaluate(run.url, dataset)


@pytest.fixture
def predicted(run: Store, dataset: Dataset, judged: Evaluation) -> Predicted:
    """Its sequences beside the truth."""
    return read_predicted(run, dataset, "val", judged.score)


@pytest.mark.usefixtures("judged")
@pytest.mark.parametrize("size", SIZES)
def test_it_shows_on_phone_and_desk(
    run: Store, dataset: Dataset, tmp_path: Path, browser: Browser, size: tuple[int, int]
) -> None:
    """No error, nothing from outside, nothing wider than the window, and pictures that load."""
    url = saved(evaluation_page(run, dataset, places={"val-0": (-2.3, 34.8)}), tmp_path)
    for is_dark in (False, True):
        with browser.show(url, size, is_dark=is_dark) as shown:
            shown.check()
            sizes = shown.page.evaluate("[...document.images].map((one) => one.naturalWidth)")
            assert len(sizes) >= 10
            assert min(sizes) > 0
            assert shown.page.locator("svg.map circle").count() == 1


@pytest.mark.usefixtures("judged")
def test_it_prints_within_its_page(
    run: Store, dataset: Dataset, tmp_path: Path, browser: Browser
) -> None:
    """Tables of many columns too: paper does not scroll."""
    with browser.show(saved(evaluation_page(run, dataset), tmp_path), (794, 1123)) as shown:
        shown.page.emulate_media(media="print")
        shown.check()


def test_its_figures_are_those_of_the_evaluation(
    run: Store, dataset: Dataset, judged: Evaluation, tmp_path: Path, browser: Browser
) -> None:
    """Score, parts, species, sites and blanks as evaluation.json has them."""
    with browser.show(saved(evaluation_page(run, dataset), tmp_path), DESK) as shown:
        keys = shown.page.locator(".keys > div").all_inner_texts()
        assert f"{judged.score:.4f}" in keys[0]
        assert f"{judged.class_means_score:.4f}" in keys[0]
        species = table(shown, "Figures by category")
        for row, one in zip(species, judged.classes, strict=True):
            assert row[:4] == [
                one.name,
                str(one.support),
                f"{one.log_loss:.4f}",
                f"{one.class_means_log_loss:.4f}",
            ]
            assert row[4] == f"{one.average_precision:.2f}"
        parts = {row[0]: row for row in table(shown, "Score of parts of the split")}
        for group in judged.groups:
            if group.kind == "time":
                assert number(parts[group.name][1]) == group.num_sequences
                assert parts[group.name][3] == f"{group.score.value:.4f}"
        sites = {row[0]: row for row in table(shown, "Figures by site")}
        assert {name: row[3] for name, row in sites.items()} == {
            site.site: f"{site.score:.4f}" for site in judged.sites
        }
        assert judged.blanks is not None
        assert f"{100 * judged.blanks.chosen.called:.1f} % of all sequences" in shown.text()


def test_curves_are_those_of_sklearn(
    run: Store, dataset: Dataset, predicted: Predicted, judged: Evaluation
) -> None:
    """Truth and probabilities are paired rightly: the same average precision and the same loss."""
    import pyarrow.parquet as pq

    content = pq.read_table(f"{run.url}/predictions-sequences.parquet")
    for at, one in enumerate(judged.classes):
        shown_N = predicted.truth.shown_NC[:, at]
        assert shown_N.sum() == one.support
        scores_N = content[one.name].to_numpy()
        assert average_precision_score(shown_N, scores_N) == pytest.approx(one.average_precision)
        recalls, precisions = np.array(predicted.curves[one.name]).T
        assert recalls[-1] == 1
        assert precisions[-1] == pytest.approx(shown_N.mean())
        assert (np.diff(recalls) >= 0).all()
    table_NC = np.stack([content[name].to_numpy() for name in CLASSES], axis=1)
    assert predicted.top_N.tolist() == table_NC.argmax(axis=1).tolist()
    assert float(predicted.loss_N.mean()) == pytest.approx(judged.score)
    right = predicted.right_N[predicted.truth.shown_NC.any(axis=1)].mean()
    assert right == pytest.approx(judged.groups[0].top1.value)
    frames = dataset.index("val").to_pandas().groupby("seq_id").size()
    counted = dict(zip(predicted.seq_ids.to_pylist(), predicted.truth.num_frames_N, strict=True))
    assert counted == frames.to_dict()


def test_confusions_are_those_of_the_evaluation(predicted: Predicted, judged: Evaluation) -> None:
    """Every pair that evaluation.json counts is in the matrix, and no other off its diagonal."""
    places = {name: at for at, name in enumerate(predicted.classes)}
    wrong = {(one.shown, one.taken_for): one.count for one in judged.confusions}
    taken_CC = predicted.taken_CC
    # Of a sequence with two species, the one that was found is no mistake for the other.
    for (shown, taken_for), count in wrong.items():
        assert taken_CC[places[shown], places[taken_for]] >= count
    for shown in predicted.classes:
        for taken_for in predicted.classes:
            if shown != taken_for and taken_CC[places[shown], places[taken_for]]:
                pair = {shown, taken_for}
                assert (shown, taken_for) in wrong or pair == {"zebra", "gazellegrants"}
    assert taken_CC[places["empty"]].sum() == 0


def test_sites_have_intervals_around_their_figures(
    predicted: Predicted, judged: Evaluation
) -> None:
    """Each contains its value, and is drawn anew with the same numbers."""
    found = site_intervals(predicted)
    assert set(found) == {one.site for one in judged.sites}
    for one in judged.sites:
        low, high = found[one.site].score
        assert low < one.score < high
        rates = found[one.site].top1
        assert rates is not None
        assert one.top1 is not None
        assert rates[0] <= one.top1 <= rates[1]
    assert site_intervals(predicted) == found


def test_mistakes_are_the_worst_and_show_their_sequences(
    run: Store, dataset: Dataset, predicted: Predicted, tmp_path: Path, browser: Browser
) -> None:
    """Wrong ones by loss, a few of a site, each with all frames, what it is and was taken for."""
    rows = worst_rows(predicted)
    losses = predicted.loss_N[rows].tolist()
    assert losses == sorted(losses, reverse=True)
    assert not predicted.right_N[rows].any()
    sites = predicted.truth.sites_N[rows].tolist()
    assert max(sites.count(name) for name in sites) <= PER_SITE
    assert 0 < len(rows) <= NUM_MISTAKES
    worst = predicted.seq_ids.to_pylist()[rows[0]]
    frames = dataset.index("val").to_pandas().query("seq_id == @worst")
    with browser.show(saved(evaluation_page(run, dataset), tmp_path), PHONE) as shown:
        articles = shown.page.locator("article")
        assert articles.count() == len(rows)
        first = articles.nth(0)
        shown_labels = {name for labels in frames["labels"] for name in labels}
        for name in shown_labels:
            assert name in first.locator("h3 .is").all_inner_texts()
        taken_for = predicted.classes[predicted.top_N[rows[0]]]
        assert first.locator("h3 .not").inner_text() == taken_for
        assert first.locator("img").count() == min(len(frames), MAX_FRAMES)
        assert worst in first.inner_text()


@pytest.mark.usefixtures("judged")
def test_species_are_sorted_by_a_click(
    run: Store, dataset: Dataset, tmp_path: Path, browser: Browser
) -> None:
    """By average precision, the best first, then the worst; without scripts the table stays."""
    url = saved(evaluation_page(run, dataset), tmp_path)
    with browser.show(url, PHONE) as shown:
        head = shown.page.locator('[aria-label="Figures by category"] thead button').nth(4)
        head.click()
        falling = [float(row[4]) for row in table(shown, "Figures by category")]
        assert falling == sorted(falling, reverse=True)
        head.click()
        assert [float(row[4]) for row in table(shown, "Figures by category")] == falling[::-1]
        shown.check()
    with browser.show(url, PHONE, java_script_enabled=False) as shown:
        assert [row[0] for row in table(shown, "Figures by category")] == list(CLASSES)


def test_hostile_names_are_only_text(tmp_path: Path, run: Store, browser: Browser) -> None:
    """Markup in classes, sites, seasons and sequences runs nothing."""
    classes = (*CLASSES[:3], HOSTILE)
    captures = [
        replace(
            one,
            labels=[[HOSTILE if name == "zebra" else name for name in some] for some in one.labels],
            site=f"{one.site}{HOSTILE}",
            season=f"{one.season}{HOSTILE}",
        )
        for one in captures_of(120)
    ]
    dataset = make_dataset(str(tmp_path / "dataset"), captures, classes=classes, name=HOSTILE)
    evaluate(run.url, dataset, strength=0.0)
    page = evaluation_page(run, dataset, places={f"val-0{HOSTILE}": (1.0, 2.0)})
    assert page.count(b"<script") == 1
    for size in SIZES:
        with browser.show(saved(page, tmp_path), size) as shown:
            shown.check()
            assert HOSTILE[:30] in shown.page.inner_text("#species")
            for kind in (".is", ".not"):
                assert HOSTILE in shown.page.locator(f"article h3 {kind}").all_inner_texts()


@pytest.mark.usefixtures("judged")
def test_without_its_dataset_it_has_what_the_evaluation_says(
    run: Store, tmp_path: Path, browser: Browser
) -> None:
    """Pictures and curves are absent, and it says why and what to do."""
    (tmp_path / "dataset" / "dataset.json").rename(tmp_path / "elsewhere")
    where = report_evaluation(run.url)
    assert where == f"{run.url}/evaluation.html"
    with browser.show(Path(where).as_uri(), PHONE) as shown:
        shown.check()
        assert "--dataset URL" in shown.text()
        assert "cannot be read: no dataset.json" in shown.text()
        assert len(table(shown, "Figures by category")) == len(CLASSES)
        assert shown.page.locator("article, img").count() == 0


@pytest.mark.usefixtures("judged")
def test_another_dataset_is_not_taken_for_that_of_the_evaluation(
    run: Store, tmp_path: Path
) -> None:
    """The same sequences with other labels, or others altogether, give a note instead of lies."""
    relabelled = [replace(one, labels=[["zebra"]] * len(one.labels)) for one in captures_of(200)]
    for name, captures in (("labels", relabelled), ("few", captures_of(30))):
        other = make_dataset(str(tmp_path / name), captures)
        page = evaluation_page(run, other).decode()
        assert "give the dataset that was evaluated" in page
        assert "<article" not in page


def test_a_run_that_was_not_evaluated_is_refused(run: Store, dataset: Dataset) -> None:
    """It says to evaluate first, also where the file is damaged or of another version."""
    with pytest.raises(ConfigError, match="run `serengeti-etl evaluate` first"):
        evaluation_page(run, dataset)
    run.write("evaluation.json", b"{")
    with pytest.raises(ConfigError, match=r"is damaged.* run `serengeti-etl evaluate` again"):
        evaluation_page(run, dataset)
    run.write("evaluation.json", b'{"score": 1}')
    with pytest.raises(ConfigError, match="of another version: it has no aggregation; run"):
        evaluation_page(run, dataset)


@pytest.mark.usefixtures("judged")
def test_it_stays_within_its_size(
    run: Store, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photographs are left out before the page grows too large, with their number."""
    whole = evaluation_page(run, dataset)
    limit = len(whole) * 2 // 3 + evaluation_module._SLACK_NUM_BYTES
    monkeypatch.setattr(evaluation_module, "MAX_NUM_BYTES", limit)
    page = evaluation_page(run, dataset)
    assert len(page) <= limit
    said = re.findall(rb"([\d,]+) photographs were left out", page)
    assert [int(one) for one in said] == [whole.count(b"<img ") - page.count(b"<img ")]


def test_a_long_sequence_shows_its_first_frames(tmp_path: Path, run: Store) -> None:
    """And says of how many."""
    captures = [
        Capture(split=split, site=f"{split}-{at % 3}", labels=[[label]] * 9)
        for at, (split, label) in enumerate(
            (split, label) for split in ("train", "val") for label in CLASSES for _ in range(4)
        )
    ]
    dataset = make_dataset(str(tmp_path / "dataset"), captures)
    evaluate(run.url, dataset, strength=0.1)
    assert f"{MAX_FRAMES} of 9 frames." in evaluation_page(run, dataset).decode()
