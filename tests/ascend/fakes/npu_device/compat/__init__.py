# SPDX-License-Identifier: Apache-2.0
"""Session mode on TensorFlow 2.6."""
from ascend_contract import record


def enable_v1():
    """Loads the passes of the session mode."""
    import tensorflow as tf
    tf.compat.v1.disable_v2_behavior()
    record('enable_v1')
