# SPDX-License-Identifier: Apache-2.0
"""What all lives share: the tree, the data, the undisturbed runs; and the figures, shown at the end."""
import collections
import json
import os
import sys
import time

import pytest

pytest.register_assert_rewrite('lives')
import lives  # noqa: E402

# It stops processes by audit hooks, which are newer than the oldest Python here.
collect_ignore_glob = ['test_*.py'] if sys.version_info < (3, 8) else []
Undisturbed = collections.namedtuple('Undisturbed', 'result start_sec evaluation_sec end_sec')


def pytest_configure(config):
    config.lives = []


def pytest_exception_interact(node, report):
    """Says at once what was found; pytest does when all is over, which may be after half an hour."""
    _say(node.config, '%s: %s' % (node.name, report.longreprtext[-3000:]))


def _say(config, line):
    with config.pluginmanager.getplugin('capturemanager').global_and_fixture_disabled():
        reporter = config.pluginmanager.getplugin('terminalreporter')
        reporter.write_line(line)
        reporter.flush()


def pytest_terminal_summary(terminalreporter, config):
    if not config.lives:
        return
    terminalreporter.section('kills and full disks')
    for line in table(config.lives):
        terminalreporter.write_line(line)
    if 'FIGURES' in os.environ:
        with open(os.environ['FIGURES'], 'w') as file:
            json.dump(config.lives, file, indent=1)


def table(noted):
    """Lines of a markdown table: how many of what, by model."""
    columns = sorted({note['model'] for note in noted})
    yield '| | %s | all |' % ' | '.join(columns)
    yield '| --- |%s' % (' --- |' * (len(columns) + 1))
    rows = sorted({(note['what'], kind, note[kind]) for note in noted for kind in ('moment', 'victim', 'ranks', 'end')
                   if kind in note}, key=str)
    for what, kind, value in rows:
        counts = [sum(note['what'] == what and note.get(kind) == value and note['model'] in model for note in noted)
                  for model in [[name] for name in columns] + [columns]]
        yield '| %s, %s %s | %s |' % (what, kind, value, ' | '.join(map(str, counts)))


@pytest.fixture(scope='session')
def note(request):
    """Notes what happened as a line of progress and for the figures; (what="kill", model=..., ...)."""
    began = time.monotonic()

    def write(**fields):
        request.config.lives.append(fields)
        _say(request.config, '%5.0f s  %s' % (time.monotonic() - began, ' '.join(
            '%s=%s' % pair for pair in fields.items())))
    return write


@pytest.fixture(scope='session')
def new_life(tmp_path_factory):
    """(model, ranks, by_script, folder=None) -> Life; what is left of them in the end is killed."""
    from tools import sampledata
    (tree, drawn, places), made = (str(tmp_path_factory.mktemp(name)) for name in ('tree', 'drawn', 'lives')), []
    lives.copy_tree(tree)
    sampledata.draw_cifar10(os.path.join(drawn, 'cifar10'), train=lives.IMAGES, test=51)
    sampledata.draw_imagenet(os.path.join(drawn, 'imagenet'), train=lives.IMAGES, test=30)
    sampledata.draw_voc(os.path.join(drawn, 'voc'), train=lives.IMAGES, test=11)

    def make(model, ranks, by_script, folder=None):
        made.append(lives.Life(tree, drawn, model, ranks, os.path.join(places, str(len(made))), by_script, folder))
        return made[-1]
    yield make
    for life in made:
        life.kill()


@pytest.fixture(scope='session')
def undisturbed(new_life):
    """(model, ranks) -> Undisturbed, run when first asked for."""
    known = {}

    def of(model, ranks):
        if (model, ranks) not in known:
            life = new_life(model, ranks, True)
            life.start()
            assert life.wait_for_end() == 0, life.told()
            ended, events = time.time(), life.events()
            life.check_whole(True)
            times = {(event['event'], event.get('step')): event['time'] for event in events}
            evaluations = [at - times['train', step] for (event, step), at in times.items() if event == 'eval']
            known[model, ranks] = Undisturbed(
                life.result(), times['train', 1] - (ended - time.monotonic() + life.began),
                max(evaluations), ended - times['done', lives.STEPS])
        return known[model, ranks]
    return of
