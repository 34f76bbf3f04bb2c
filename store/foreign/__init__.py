"""Files that other programs wrote: NumPy arrays and pickles, read with bounds, running nothing in them."""

from .npy import npy_bytes, npz_names, read_npy, read_npz
from .pickles import read_pickle

__all__ = ["npy_bytes", "npz_names", "read_npy", "read_npz", "read_pickle"]
