"""The stages put to work: configuration, collection, Dask, sync, query, the command line."""

from ._evaluate import Evaluation
from ._index import Index, open_index
from ._report import FileReport, Report
from ._search import Result
from ._sync import Plan

__all__ = ["Evaluation", "FileReport", "Index", "Plan", "Report", "Result", "open_index"]
