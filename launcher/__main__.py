# SPDX-License-Identifier: Apache-2.0
"""python -m launcher: see launch.py."""
import sys

from launcher.launch import main

if __name__ == "__main__":
    sys.exit(main())
