"""A finished run judged by sequences: the competition's score and what an ecologist wants.

::

    run.py            evaluate_run(): predict, judge, write. Read this first
    settings.py       what may be chosen; files.py names of what is written
    captures.py       site, hour and season of each image, from the index
    judge.py          all figures of one split: evaluation.json
    tuning.py         aggregation, temperatures and thresholds fitted on val
    curves.py         precision over recall: average precision, best F1
    classes.py        a row per category
    blanks.py         empty sequences found, and animals lost with them
    confusion.py      which species are taken for which, and known look-alikes
    groups.py         day and night, sites seen and unseen, seasons, each site; bootstrap by site
    reliability.py    whether a probability of 0.8 is right 8 times in 10
"""
