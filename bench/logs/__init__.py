"""Published certification logs in the result store: what an imported log is, where it lies, and how its place is found.

    ROOT/imported/COLLECTION/smoothmix.eta5/0.25-21-<key>/
        rows.tsv             index, label, prediction, radius as printed, correct: one line per image
        spec.json            ImportSpec, written last; its key is the folder's last word

An imported log has no counts: its radii are rounded, and by whom and how far is not known. What its path means is said by
a map, a TOML file of path patterns; the map of a collection also says which of its runs each published table averages.
"""

from bench.logs.intake import Report, import_logs
from bench.logs.logmap import LogMap, Placed, default_collection, default_map, load_map, network_of_table, runs_of_table
from bench.store.imports import Import, ImportSpec

__all__ = [
    "Import",
    "ImportSpec",
    "LogMap",
    "Placed",
    "Report",
    "default_collection",
    "default_map",
    "import_logs",
    "load_map",
    "network_of_table",
    "runs_of_table",
]
