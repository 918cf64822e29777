"""Published certification logs in the result store: what an imported log is, where it lies, and how it gets there.

    ROOT/imported/COLLECTION/smoothmix.eta5/0.25-21-<key>/
        rows.tsv             index, label, prediction, radius as printed, correct: one line per image
        spec.json            ImportSpec, written last; its key is the folder's last word

An imported log has no counts: its radii are rounded, and by whom and how far is not known. What each log is, and which
published tables average it, is said by a manifest, a CSV file.
"""

from bench.logs.draft import Draft, write_draft
from bench.logs.importer import Report, import_logs
from bench.logs.manifest import Manifest, load_manifest, network_of_table, parse_manifest, printed_collection, runs_of_table, shipped
from bench.store.imports import Import, ImportSpec

__all__ = [
    "Draft",
    "Import",
    "ImportSpec",
    "Manifest",
    "Report",
    "import_logs",
    "load_manifest",
    "network_of_table",
    "parse_manifest",
    "printed_collection",
    "runs_of_table",
    "shipped",
    "write_draft",
]
