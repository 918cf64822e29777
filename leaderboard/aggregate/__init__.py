"""From a store to groups of comparable rows, with what each training's evidence says: the one reading that tables, comparisons and
pictures share.

groups.py   what a group is made of
select.py   which subjects are meant
where.py    the same by any field of their specs, and what tells groups apart
reading.py  what the evidence of one training says
build.py    subjects as groups
sources.py  in what runs, published logs and checkpoints differ there
mix.py      several groups in one, when that is asked for
collect.py  all of it in one call
constant.py a row for the classifier that knows nothing
"""

from bench.store.subject import Source
from leaderboard.aggregate.collect import collect, require_one_source
from leaderboard.aggregate.constant import with_constant
from leaderboard.aggregate.groups import Group, Row, Section, Seed, Stat
from leaderboard.aggregate.select import EVERYTHING, Filters

__all__ = ["EVERYTHING", "Filters", "Group", "Row", "Section", "Seed", "Source", "Stat", "collect", "require_one_source", "with_constant"]
