# SPDX-License-Identifier: Apache-2.0
"""Averaging and loss scaling of the eager mode, one step of a weight beside the stand-ins."""
import json
import os
import sys

import folders
import pytest

tensorflow = pytest.importorskip('tensorflow')
pytestmark = [pytest.mark.smoke, pytest.mark.skipif(not tensorflow.__version__.startswith('2.6'), reason=(
    'needs TensorFlow 2.6 with its adapter: run_tests.sh runs this where it finds a python3.9'))]
OVERFLOWS = {'nowhere': {}, 'here': {'SLOPE': '3e38'}, 'elsewhere': {'FAKE_ASCEND_OVERFLOW_ELSEWHERE': '1'}}
# One process: it opens the device once, then does a step from weight 0 in each mode for each place of an overflow.
SCRIPT = '''
import json, os, sys
sys.path[:0] = [%r, %r]
import folders
from common.runtime import open_runtime
parsed = folders.parse(folders.CUTMIX, ["--precision_mode=force_fp16"], %r)
os.makedirs(parsed.output_path)
runtime = open_runtime(parsed, keras=True)
tf = runtime.tf
steps = {}
for inf_nan in ("", "1"):
    for place, changed in %r.items():
        os.environ.update(dict(SLOPE="2", FAKE_ASCEND_OVERFLOW_ELSEWHERE=""), FAKE_ASCEND_INF_NAN=inf_nan, **changed)
        weight, slope = tf.Variable(0.0), float(os.environ["SLOPE"])
        optimizer = runtime.keras_optimizer(tf.keras.optimizers.SGD(0.5), [weight])
        @tf.function
        def step():
            with tf.GradientTape() as tape:
                loss = runtime.scale_loss(slope * weight, optimizer)
            gradients = runtime.mean_gradients(runtime.unscale(tape.gradient(loss, [weight]), optimizer))
            optimizer.apply_gradients(zip(gradients, [weight]))
        step()
        steps[inf_nan + place] = [float(weight.numpy()), float(optimizer.loss_scale.numpy()),
                                  int(optimizer.iterations.numpy())]
print("steps " + json.dumps(steps))
'''


@pytest.mark.parametrize('ranks', [1, 8])
def test_an_overflow_anywhere_skips_the_step_everywhere(ranks, tmp_path):
    environment = dict.fromkeys(['RANK_SIZE', 'ASCEND_DEVICE_ID', 'CM_CHIEF_IP', 'CM_WORKER_SIZE'], '')  # as not set
    if ranks == 8:
        environment.update(RANK_SIZE='8', RANK_ID='3', RANK_TABLE_FILE=os.path.join(
            folders.ROOT, folders.SHUFFLENET, 'test', '8p.json'))
    code, said, events = folders.run([sys.executable, '-c', SCRIPT % (
        os.path.dirname(os.path.abspath(__file__)), folders.ROOT, str(tmp_path),
        OVERFLOWS if ranks == 8 else {place: OVERFLOWS[place] for place in ('nowhere', 'here')})],
        folders.CUTMIX, tmp_path, **environment)
    assert code == 0, said  # on a condition the stand-ins refuse to reduce where that condition may be this rank's own
    steps = json.loads(said.split('steps ')[1])
    assert len(steps) == (6 if ranks == 8 else 4)
    for name, step in steps.items():
        assert step == ([-1.0, 4096.0, 1] if 'nowhere' in name else [0.0, 2048.0, 1]), name
    assert len(folders.of(events, 'reduced')) == (len(steps) if ranks == 8 else 0)
