# SPDX-License-Identifier: Apache-2.0
"""The session mode's names."""
