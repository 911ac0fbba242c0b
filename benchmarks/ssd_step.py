#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Speed of SSD's training step: against a peer program in turns, and on real data against data in memory.

    python benchmarks/ssd_step.py --data_path=DIR --peer="PYTHON torch_peer.py ssd --batch 8 --steps 4"

README.md beside this file says what a peer prints and what the output means.
"""
import contextlib
import sys

import in_turns

PLAN = in_turns.Plan(warmup_steps=2, blocks=3, block_steps=3)
AHEAD_STEPS = 100  # more than a block on data takes


def measure(arguments):
    """Prints one JSON object: images/s of the median step in memory, of blocks in memory and of blocks on real data."""
    in_turns.use_folder("SSD-VGG_ID1619_for_TensorFlow")
    import train
    from common.runtime import open_runtime
    default = arguments.measure == in_turns.DEFAULT
    parsed = train.parse_args(
        ["--batch_size=%d" % arguments.batch, "--preset=" + arguments.preset,
         "--precision_mode=" + ("allow_mix_precision" if default else arguments.measure)] +
        (["--data_path=" + arguments.data_path] if arguments.data_path else ["--synthetic"]))
    data = train.load_data(parsed)
    runtime = open_runtime(parsed, large_kernels=True)
    graph = train.build_graph(runtime, parsed, data.num_classes if data else train.SYNTHETIC_CLASSES, False)
    session = runtime.tf.Session(config=runtime.session_config())
    session.run(runtime.tf.global_variables_initializer())

    def step(batch):
        session.run([graph.confidence, graph.localisation, graph.update],
                    dict(zip((graph.images, graph.class_ids, graph.offsets, graph.rate), batch + (1e-6,))))

    @contextlib.contextmanager
    def from_data(block):  # the workers live only here: what they make ahead must not slow the steps in memory
        first = block * AHEAD_STEPS
        with train.training_batches(parsed, data, runtime, first, first + AHEAD_STEPS) as batches:
            yield (arrays for _, arrays in batches)

    with from_data(0) as batches:
        in_memory = tuple(array.copy() for array in next(batches))
    in_turns.report(in_turns.time_steps(step, in_memory, arguments.batch,
                                        in_turns.QUICK_PLAN if arguments.quick else PLAN,
                                        from_data if data and default else None),
                    arguments.batch, runtime.compute_dtype, graph.confidence + graph.localisation)


def main():
    parser = in_turns.parser(__doc__, batch=8)
    parser.add_argument("--data_path", help="Pascal VOC; random images without it")
    parser.add_argument("--preset", default="vgg300")
    arguments = parser.parse_args()
    if arguments.measure:
        return measure(arguments)
    return in_turns.compare_steps(arguments, __file__, "SSD " + arguments.preset, "Pascal VOC")


if __name__ == "__main__":
    sys.exit(main())
