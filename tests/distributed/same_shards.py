# SPDX-License-Identifier: Apache-2.0
"""Trains a model folder's network for three steps on the same batch on every rank, and then on rank 0 alone.

    python same_shards.py FOLDER OUTPUT      rank 0 writes the variables, OUTPUT/together.npz and OUTPUT/alone.npz
"""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BATCH_SIZE, STEPS, RATE = 8, 3, 0.01


def train_some_steps(train):
    """The variables' values of a model in the end, on rank 0; None on others."""
    import numpy as np

    from common.runtime import open_runtime
    keras = hasattr(train, 'build_training')
    parsed = train.parse_args(['--synthetic', '--batch_size=%d' % BATCH_SIZE, '--precision_mode=force_fp32',
                               '--device=cpu'])
    runtime = open_runtime(parsed, keras=keras)
    random = np.random.RandomState(0)
    image_px = 224 if hasattr(train, 'whole_loops') else 32
    images = random.randint(0, 256, [BATCH_SIZE, image_px, image_px, 3]).astype(np.uint8)
    labels = random.randint(0, 10, BATCH_SIZE).astype(np.int32)
    if keras:
        training = train.build_training(runtime, parsed)
        variables = training.network.variables
        runtime.broadcast(variables)
        for _ in range(STEPS):
            training.step(images, np.eye(10, dtype=np.float32)[labels], runtime.tf.constant(RATE))
        runtime.share_statistics(variables)
        values = [variable.numpy() for variable in variables]
    else:
        data = [train.load_data(parsed), 0, STEPS] if hasattr(train, 'whole_loops') else []
        runtime.tf.set_random_seed(0)
        graph = train.build_graph(runtime, parsed, *data)
        session = runtime.open_session()
        session.run(runtime.tf.global_variables_initializer())
        runtime.broadcast(runtime.tf.global_variables())
        for _ in range(STEPS):
            session.run(graph.update, {graph.images: images, graph.labels: labels, graph.rate: RATE})
        variables = runtime.tf.global_variables()
        runtime.share_statistics(variables)
        values = session.run(variables)
    runtime.all_sum([0])  # all are here: nobody's peer is gone before it has its sums
    return values if runtime.rank == 0 else None


def main(folder, output):
    sys.path[:0] = [os.path.join(ROOT, folder), ROOT]
    import numpy as np

    import train
    values = train_some_steps(train)
    if values:
        np.savez(os.path.join(output, 'together.npz'), *values)
        os.environ['RANK_SIZE'] = '1'
        del os.environ['TF_CONFIG']
        np.savez(os.path.join(output, 'alone.npz'), *train_some_steps(train))


if __name__ == '__main__':
    main(*sys.argv[1:])
