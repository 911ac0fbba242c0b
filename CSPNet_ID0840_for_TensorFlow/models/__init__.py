# SPDX-License-Identifier: Apache-2.0
"""The network: cspdarknet53.py; what it is made of: layers.py."""
