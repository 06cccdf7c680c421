"""Species taken for others, by hand."""

import pytest
from sklearn.metrics import confusion_matrix

from serengeti_etl.evaluate.confusion import confusions, look_alikes, top_species
from tests.predicted import CLASSES, images_of, predicted_split

TARGETS = [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
P = [
    [0.9, 0.1, 0.4, 0.2],  # grants, taken for thomsons though empty is likelier still
    [0.1, 0.8, 0.4, 0.2],  # grants, right
    [0.1, 0.1, 0.2, 0.9],  # thomsons and zebra: zebra is there, so nothing is wrong
    [0.1, 0.1, 0.2, 0.9],  # thomsons, taken for zebra
    [0.1, 0.9, 0.2, 0.3],  # empty: no species to be taken for another
    [0.0, 0.5, 0.1, 0.4],  # zebra, taken for grants
]
MADE = images_of("abcdef", TARGETS, P)


def test_pairs_by_hand() -> None:
    """The likeliest species of sequences with animals; empty is never one."""
    found = confusions(top_species(MADE, CLASSES, empty=0))
    grants, thomsons, zebra = CLASSES[1:]
    assert [(one.shown, one.taken_for, one.count, one.share) for one in found] == [
        (grants, thomsons, 1, 0.5),
        (thomsons, zebra, 1, 0.5),
        (zebra, grants, 1, 0.5),
    ]


def test_look_alikes_by_hand() -> None:
    """Of four gazelles two are right, one is taken for the other kind, one for a zebra."""
    (gazelles,) = look_alikes(top_species(MADE, CLASSES, empty=0))
    assert gazelles.names == CLASSES[1:3]
    assert (gazelles.support, gazelles.right) == (4, 0.5)
    assert (gazelles.within, gazelles.outside) == (0.25, 0.25)


def test_look_alikes_are_known_by_letters_and_need_company() -> None:
    """Gazelle_Grant's is gazellegrants; a lone one of a group is left out."""
    names = ("empty", "Gazelle_Grant's", "gazelle thomsons", "topi")
    (gazelles,) = look_alikes(top_species(MADE, names, empty=0))
    assert gazelles.names == names[1:3]
    assert look_alikes(top_species(MADE, ("empty", "topi", "hare", "lionmale"), empty=0)) == ()


def test_counts_equal_scikit_learns() -> None:
    """Of sequences with one species each; largest first."""
    made = predicted_split().images
    found = confusions(top_species(made, CLASSES, empty=0))
    has_animal = made.targets_NC[:, 0] == 0
    truth = made.targets_NC[has_animal, 1:].argmax(axis=1)
    guess = made.probabilities_NC[has_animal, 1:].argmax(axis=1)
    matrix = confusion_matrix(truth, guess)
    assert len(found) == 6
    for one in found:
        row, column = CLASSES.index(one.shown) - 1, CLASSES.index(one.taken_for) - 1
        assert one.count == matrix[row, column]
        assert one.share == pytest.approx(matrix[row, column] / matrix[row].sum())
    assert [one.count for one in found] == sorted((one.count for one in found), reverse=True)


def test_without_empty_every_class_is_a_species() -> None:
    """The first sequence is then taken for what is called empty."""
    found = confusions(top_species(MADE, CLASSES, empty=None))
    assert ("gazellegrants", "empty") in [(one.shown, one.taken_for) for one in found]
