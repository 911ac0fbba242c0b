# SPDX-License-Identifier: Apache-2.0
"""Two styles of TensorFlow behind the same three calls: a graph that a session runs, and eager variables."""
from typing import Any


class Sessions:
    """A graph; `session` is the one that training has opened."""

    def __init__(self, tf):
        self._tf = tf
        self.session: Any = None

    def compiled(self, function, length):
        """A function of float32 [length] tensors as one of numpy arrays."""
        session = self.session
        with session.graph.as_default():
            values = self._tf.placeholder(self._tf.float32, [length])
            result = function(values)
        return lambda array: session.run(result, {values: array})

    def assignment(self, variables, function):
        """A call that gives variables the values, tensors, that function() has then."""
        session = self.session
        with session.graph.as_default():
            assigned = [variable.assign(value, read_value=False) for variable, value in zip(variables, function())]
        return lambda: session.run(assigned)

    def values(self, variables):
        """List of numpy arrays."""
        return self.session.run(variables)


class Eager:
    """Eager variables. `wrap` is put around every compiled call."""

    def __init__(self, tf, wrap):
        self._tf, self._wrap = tf, wrap

    def compiled(self, function, _length):
        """A function of float32 tensors as one of numpy arrays."""
        traced = self._tf.function(function)
        return self._wrap(lambda array: traced(self._tf.constant(array)).numpy())

    def assignment(self, variables, function):
        """A call that gives variables the values, tensors, that function() has then."""
        traced = self._wrap(self._tf.function(function))

        def assign():
            for variable, value in zip(variables, traced()):
                variable.assign(value)
        return assign

    def values(self, variables):
        """List of numpy arrays."""
        return [variable.numpy() for variable in variables]


def read(variable):
    """A new tensor of a variable's value: the one that a graph keeps may drag control dependencies along."""
    return variable.read_value() if hasattr(variable, "read_value") else variable.value  # Keras 3
