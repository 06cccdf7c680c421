"""The seed of what tests do at random: in each such test's name, another one in each run.

Set ``TEST_SEED`` to the number in a failed test's name to meet the same faults, sizes and kills
again, but for the timing. It is left to processes that tests start, and to those of pytest-xdist,
so that all of a run have one.
"""

import os
import secrets

SEED = int(os.environ.setdefault("TEST_SEED", str(secrets.randbelow(10**6))))
