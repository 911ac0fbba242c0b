# SPDX-License-Identifier: Apache-2.0
"""What a training process computes on, and how it adds up with others: one of these, chosen by common/runtime.py."""
