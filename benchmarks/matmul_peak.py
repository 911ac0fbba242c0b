#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Largest speed that TensorFlow reaches on this CPU: products of two square matrices, in float32 and, where the CPU has
it, bfloat16.

    python benchmarks/matmul_peak.py

Prints one JSON object: the TensorFlow version and GFLOP/s of the fastest product by precision.
"""
import argparse
import json
import sys
import time

import in_turns

SIDE = 4096


def gflops(tf, dtype, products):
    """GFLOP/s of the fastest of so many products of two SIDE x SIDE matrices."""
    with tf.Graph().as_default():
        factors = [tf.get_variable(name, initializer=tf.cast(tf.random_uniform([SIDE, SIDE]), dtype), use_resource=True)
                   for name in "ab"]
        product = tf.matmul(*factors).op  # of an operation nothing is copied to the host
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            session.run(product)
            seconds = []
            for _ in range(products):
                before = time.perf_counter()
                session.run(product)
                seconds.append(time.perf_counter() - before)
    return 2 * SIDE ** 3 / min(seconds) / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two products each")
    arguments = parser.parse_args()
    in_turns.use_folder("common")
    from common import flags
    from common.runtime import open_runtime
    names = flags.Parser()
    flags.add_device_group(names, "allow_mix_precision")
    runtime = open_runtime(names.parse_args([]))
    dtypes = {runtime.tf.float32, runtime.compute_dtype}
    print(json.dumps({"tensorflow": runtime.tf.__version__, "peak_gflops": {
        dtype.name: gflops(runtime.tf, dtype, 2 if arguments.quick else 10) for dtype in dtypes}}))


if __name__ == "__main__":
    sys.exit(main())
