#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""../explore_imagenet.py, where published instructions look for it."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from explore_imagenet import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
