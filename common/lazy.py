# SPDX-License-Identifier: Apache-2.0
"""Packages that are imported when something of them is first used: --help and a refused flag do not wait for them.

    from common.lazy import np

For a module that a program imports before its flags are read. What makes something of the package at import, a constant
array or a subclass, gains nothing by it.
"""
import importlib
from typing import TYPE_CHECKING


class _Lazy:
    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        value = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value


if TYPE_CHECKING:
    import cv2
    import numpy as np
else:
    cv2, np = _Lazy("cv2"), _Lazy("numpy")
