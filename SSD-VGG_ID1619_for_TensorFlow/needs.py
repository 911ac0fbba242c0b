# SPDX-License-Identifier: Apache-2.0
"""What every program here stands on; the first import, so that what is missing is told in a sentence.

common/ lies beside this folder, also where the folder was copied to; TensorFlow is asked for when it is needed.
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [path for path in (HERE, os.path.dirname(HERE)) if path not in sys.path]

try:
    from common.files import DataError, check_installed
except ImportError:
    sys.exit("%s: expected the folders common, launcher and tools beside this one; found no common; copy them there "
             "from where this folder comes from." % HERE)
try:
    check_installed("numpy", "cv2", "PIL", "defusedxml", "tqdm")
except DataError as error:
    sys.exit(str(error))
