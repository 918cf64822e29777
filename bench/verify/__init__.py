"""Whether stored results can be believed: every record, every row and every radius, without torch and without a method's code.

What a forger can still do against it, and what finds that, is told in docs/notes/verification.md.
"""

from bench.verify.logs import LogFacts, verify_log
from bench.verify.report import Evidence, Failure, Report, Unfinished
from bench.verify.results import verify

__all__ = ["Evidence", "Failure", "LogFacts", "Report", "Unfinished", "verify", "verify_log"]
