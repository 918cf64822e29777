"""The evidence table: what a results folder holds as one pandas DataFrame, and what is made of it. It is the Python API's reading side.

schema.py   what stands in the table
load.py     from a store to the table
memory.py   from the table back to runs, logs and checkpoints, so that tables are made of it by the code that the commands use
use.py      summaries, tables, comparisons and curves of it
arguments.py  what is passed to it
numbers.py  radii, ACR and certified accuracy of arrays
"""

from leaderboard.frame.load import load_results
from leaderboard.frame.numbers import acr, certified_accuracy, certified_radius
from leaderboard.frame.use import compare, plot_curves, summary, table

__all__ = ["acr", "certified_accuracy", "certified_radius", "compare", "load_results", "plot_curves", "summary", "table"]
