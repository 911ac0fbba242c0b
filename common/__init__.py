# SPDX-License-Identifier: Apache-2.0
"""What the training folders share: everything that is not in a paper. Imports no model."""
