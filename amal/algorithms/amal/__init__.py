"""AMAL and its parts."""

from amal.algorithms.amal.algorithm import AMAL

__all__ = ["AMAL"]
