# SPDX-License-Identifier: Apache-2.0
"""What a person runs: sample data, reports, rank tables."""
