"""The types of arrays, once."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
"""Offsets, indices, counts or epoch milliseconds."""
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
CountVector = NDArray[np.int64]
"""One exact count a slot, laid out by a layout. Two of the same layout merge by addition."""
