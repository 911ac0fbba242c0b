# SPDX-License-Identifier: Apache-2.0
"""Scores of all test images, each exactly once, and the figures made of them."""
import numpy as np

from common import progress

BATCH_SIZE = 256  # 10,000 images are 39 of these and one of 16


def make_score_function(tf, network, static):
    """The network at inference as a function of a numpy batch.

    Args:
      tf: TensorFlow.
      network: keras.Model of uint8 images.
      static: True compiles for BATCH_SIZE images alone, False for any number.
    Returns:
      uint8 [B, H, W, 3] -> float32 [B, classes] numpy.
    """
    shape = [BATCH_SIZE if static else None] + list(network.input_shape[1:])
    compiled = tf.function(lambda images: network(images, training=False),
                           input_signature=[tf.TensorSpec(shape, tf.uint8)])
    return lambda images: compiled(tf.constant(images)).numpy()


def predict(scores, images, static):
    """Scores of all images, by batches of BATCH_SIZE.

    Args:
      scores: uint8 [B, H, W, 3] -> float32 [B, classes].
      images: uint8 [N, H, W, 3].
      static: True pads the last batch to BATCH_SIZE and drops the padding's scores; False gives it as it is.
    Returns:
      float32 [N, classes].
    """
    parts = []
    for first in progress.over(range(0, len(images), BATCH_SIZE), "evaluating"):
        batch = images[first:first + BATCH_SIZE]
        count = len(batch)
        if static and count < BATCH_SIZE:
            batch = np.concatenate([batch, np.zeros((BATCH_SIZE - count,) + batch.shape[1:], batch.dtype)])
        parts.append(scores(batch)[:count])
    return np.concatenate(parts)


def metrics(scores, labels):
    """Cross-entropy and accuracy as means over examples.

    An example's guesses are its classes by score, of equal ones the lower index first; with a NaN there is no guess.

    Args:
      scores: float32 [N, classes], before the softmax.
      labels: int [N].
    Returns:
      dict of float: loss, top1, top5.
    """
    rows, classes = np.arange(len(labels)), np.arange(scores.shape[1])
    of_label = scores[rows, labels][:, None]
    earlier = ((scores > of_label) | (scores == of_label) & (classes < labels[:, None])).sum(1)  # guesses before it
    place = np.where(np.isnan(scores).any(1), np.inf, earlier)
    wide = scores.astype(np.float64)
    shifted = wide - wide.max(1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(1)) - shifted[rows, labels]
    return {"loss": float(loss.mean()), "top1": float((place < 1).mean()), "top5": float((place < 5).mean())}
