"""Functions over arrays compiled to machine code, which is kept beside their files and loaded by the next process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

_F = TypeVar("_F", bound=Callable[..., Any])


def compiled(function: _F) -> _F:
    """Compile ``function`` as one of its own, to run without the GIL.

    Where neither the package's folder nor the user's cache can be written to, each process compiles it anew.
    """
    try:
        return cast("_F", njit(nogil=True, cache=True, error_model="numpy")(function))
    except RuntimeError:  # numba's way to say that it found no place to keep the code
        return cast("_F", njit(nogil=True, error_model="numpy")(function))


def inlined(function: _F) -> _F:
    """Compile ``function`` into each of its compiled callers."""
    return cast("_F", njit(nogil=True, forceinline=True, error_model="numpy")(function))


def read_only(values: NDArray[Any]) -> NDArray[Any]:
    """A view of one type, wherever the values come from: a function is compiled for each type that it meets."""
    view = np.ascontiguousarray(values).view()
    view.flags.writeable = False
    return view
