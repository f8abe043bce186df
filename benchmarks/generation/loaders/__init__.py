"""Loaders: the public file of a data set in, `Dataset` out.

A loader raises BadRequest for a file of another form; the message names the place and the field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.generation.dataset import Dataset
from benchmarks.generation.loaders import locomo, longmemeval, personamem, prefeval

LOADERS: Mapping[str, Callable[[Path], Dataset]] = {
    "locomo": locomo.load,
    "longmemeval": longmemeval.load,
    "prefeval": prefeval.load,
    "personamem": personamem.load,
}
