# SPDX-License-Identifier: Apache-2.0
"""Moving averages of a network's weights and statistics."""
import tensorflow as tf

import model_files
from common import recipe


class Averages:
    """They begin at the network's values.

    Args:
      network: keras.Model.
      decay: a step, 0 to 1.
    Attributes:
      variables: {"layer/variable": variable}.
    """

    def __init__(self, network, decay):
        self._decay, self._values = decay, model_files.network_variables(network)
        self.variables = {name: tf.Variable(tf.convert_to_tensor(value), trainable=False, name=name + "/average")
                          for name, value in self._values.items()}
        self._move = tf.function(self._move_by)

    def follow(self, step):
        """Call it after each step, an int from 1: every fifth moves them."""
        moves, left = divmod(step, recipe.AVERAGE_EVERY_STEPS)
        if not left:  # by the number of moves the decay begins at 0.2, so that the first weights are soon forgotten
            kept = min(self._decay ** recipe.AVERAGE_EVERY_STEPS, (1 + moves) / (10 + moves))
            self._move(tf.constant(1.0 - kept, tf.float32))

    def _move_by(self, share):
        for name, average in self.variables.items():
            average.assign_sub(share * (average - self._values[name]))
