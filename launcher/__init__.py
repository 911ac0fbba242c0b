# SPDX-License-Identifier: Apache-2.0
"""Starts the ranks of a training run, on one server or several, and sees to their end."""
