"""TODO door of store/foreign."""

from .npy import npy_bytes, npz_names, read_npy, read_npy_stream, read_npz
from .pickles import read_pickle

__all__ = ["npy_bytes", "npz_names", "read_npy", "read_npy_stream", "read_npz", "read_pickle"]
