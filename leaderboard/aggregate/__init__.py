"""From a store to groups of comparable rows, with what each training's evidence says: the one reading that tables, comparisons and
pictures share.

groups.py    what a group is made of
select.py    which runs and logs are meant
runs.py      own runs as groups
imported.py  imported logs as groups
mix.py       several groups in one, when that is asked for
collect.py   all of it in one call
"""

from leaderboard.aggregate.collect import collect
from leaderboard.aggregate.groups import Group, Row, Section, Seed, Source, Stat
from leaderboard.aggregate.select import EVERYTHING, Filters

__all__ = ["EVERYTHING", "Filters", "Group", "Row", "Section", "Seed", "Source", "Stat", "collect"]
