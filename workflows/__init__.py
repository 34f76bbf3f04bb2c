"""The stages put to work: configuration, collection, Dask, sync, query, the command line."""

from .experiments import Evaluation
from .index import Index, open_index
from .search import Result
from .sync import FileReport, Plan, Report

__all__ = ["Evaluation", "FileReport", "Index", "Plan", "Report", "Result", "open_index"]
