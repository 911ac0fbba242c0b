# SPDX-License-Identifier: Apache-2.0
"""The tree of options: each assignment is checked at once, and reaches the device as text."""
from ascend_contract import MIXED, PRECISION_MODES, PRECISION_MODES_V2, Lost

ANY = None  # no check of the contract's


class Tree:
    """Options by name: (default, allowed values or ANY)."""

    def __init__(self, known, **trees):
        self.__dict__.update(_known=known, _values={}, _trees=trees)

    def __getattr__(self, name):
        if name in self._trees:
            return self._trees[name]
        return self._values.get(name, self._known[name][0])

    def __setattr__(self, name, value):
        if name in self._trees:
            raise Lost('a whole subtree')  # the adapter does not check it
        if name not in self._known:
            raise ValueError('no option ' + name)
        default, allowed = self._known[name]
        if default is not None and not isinstance(value, (bool, int) if isinstance(default, bool) else type(default)):
            raise TypeError('%s is a %s' % (name, type(value).__name__))
        if allowed is not ANY and value not in allowed:
            raise ValueError('%s=%r' % (name, value))
        self._values[name] = value

    def as_dict(self, prefix=''):
        """{dotted name: text} of what was set."""
        found = {prefix + name: str(int(value) if isinstance(value, bool) else value)
                 for name, value in self._values.items()}
        for name, tree in self._trees.items():
            found.update(tree.as_dict(prefix + name + '.'))
        if 'modify_mixlist' in self._values and self._values.get('precision_mode') not in MIXED:
            raise Lost('modify_mixlist')
        return found


def new():
    """A tree with nothing set."""
    dump = Tree({
        'enable_dump': (False, ANY), 'dump_path': (None, ANY), 'dump_step': (None, ANY),
        'dump_mode': ('output', ('input', 'output', 'all')), 'enable_dump_debug': (False, ANY),
        'dump_debug_mode': ('all', ('aicore_overflow', 'atomic_overflow', 'all')),
        'dump_data': ('tensor', ('tensor', 'stats')), 'dump_layer': (None, ANY)})
    profiling = Tree({'enable_profiling': (False, ANY), 'profiling_options': (None, ANY)})
    return Tree({
        'precision_mode': (None, PRECISION_MODES), 'precision_mode_v2': (None, PRECISION_MODES_V2),
        'modify_mixlist': (None, ANY), 'fusion_switch_file': (None, ANY), 'op_precision_mode': (None, ANY),
        'graph_run_mode': (1, (0, 1)), 'hcom_parallel': (True, ANY),
        'op_compiler_cache_mode': ('enable', ('enable', 'disable', 'force')), 'op_compiler_cache_dir': (None, ANY),
        'enable_exception_dump': (2, (0, 1, 2)), 'deterministic': (0, (0, 1)),
        'jit_compile': ('auto', ('true', 'false', 'auto')),
    }, dump_config=dump, profiling_config=profiling)


_options = []


def global_options():
    """The one tree of the process."""
    if not _options:
        _options.append(new())
    return _options[0]
