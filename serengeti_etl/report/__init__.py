"""Pictures and tables that people look at: one file of HTML that asks for nothing from outside.

::

    conversion.py     the report of a dataset: report.html. Read this first
    evaluation.py     the report of an evaluated run: evaluation.html
    write.py          each of them on storage, or a warning in one line
    figures.py        what the index says, counted a few row groups at a time
    samples.py        which photographs stand for a category, a site or a reason
    thumbnails.py     photographs made small, as many as the page has room for
    rejected.py       what is left of photographs that were rejected
    shuffle.py        how well the loader mixes sites
    throughput.py     what a conversion's record of its progress says
    advice.py         what a person should look at in a dataset; run_advice.py in an evaluation
    predicted.py      predictions of a run beside what the dataset says
    mistakes.py       the worst of them; confusions.py who is taken for whom
    run_charts.py     curves of an evaluation; site_map.py where its sites lie
    pages.py          templates to pages; charts.py numbers to the shapes that they draw

Charts are drawn by the templates: bars are tables, the rest is SVG in the page's own colours. They
follow dark and light, can be read at the width of a phone, and cost no library on every worker.
"""
