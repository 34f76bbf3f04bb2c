"""Features out of a store and into one: `export`, `import` and their manifests."""

from .exporting import ExportReport, export
from .importing import ImportReport, ImportRequest, import_into

__all__ = ["ExportReport", "ImportReport", "ImportRequest", "export", "import_into"]
