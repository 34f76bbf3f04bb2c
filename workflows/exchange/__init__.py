"""Features out of a store and into one: `export`, `import` and their manifests."""

from .exporting import ExportReport, export
from .importing import ImportReport, ImportRequest, import_into
from .lengths import ALLOWED_SECONDS

__all__ = ["ALLOWED_SECONDS", "ExportReport", "ImportReport", "ImportRequest", "export", "import_into"]
