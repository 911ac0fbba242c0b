# SPDX-License-Identifier: Apache-2.0
"""Rank tables on the command line."""
import sys

from launcher.ranktable import main

if __name__ == "__main__":
    sys.exit(main())
