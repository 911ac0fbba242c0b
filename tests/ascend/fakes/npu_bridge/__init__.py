# SPDX-License-Identifier: Apache-2.0
"""A stand-in of Ascend's adapter for TensorFlow 1.15."""
