"""What must hold for the whole book: which chapter may use which, that every public name is explained, where chance
comes from, that the library is what the notebooks export, and that the notebooks are clean."""

import ast
import re
import shutil
from graphlib import TopologicalSorter

import pytest
from book import (
    LIB,
    MAP_TITLE,
    NBS,
    ROOT,
    chapter_map,
    clean,
    code_lines,
    comments,
    directives,
    export,
    functions,
    is_exported,
    measures,
    module_of,
    notebooks,
    read,
    readme,
)

# ---- the chapters: a notebook with a module names it in its first cell; the others are pages

CHAPTERS = {p.stem: module_of(p) for p in notebooks() if module_of(p)}
STRANGERS = ('model.world_model', 'training.clustering', 'agent.actor_critic')  # they know nothing of each other

ONLY_FOR_WRITING = {
    'nbdev',
    'fastcore',
    'execnb',
    'ghapi',
    'IPython',
    'ipykernel',
    'nbformat',
    'nbclient',
    'nbconvert',
    'pytest',
}
# a module in lines of code, a cell and a function in all lines
MAX_MODULE, MAX_CELL, MAX_FUNCTION, MAX_KB = 250, 60, 40, 300
MIN_WORDS, MIN_EXPORTED, MAX_SILENT = 1.4, 0.2, 3


def dotted_name(path):
    "mow_nb/model/vae.py as `model.vae`"
    return '.'.join(path.relative_to(LIB).with_suffix('').parts)


MODULES = sorted(p for p in LIB.rglob('*.py') if not p.name.startswith('_'))
with_module = pytest.mark.parametrize('path', MODULES, ids=dotted_name)
with_notebook = pytest.mark.parametrize('path', notebooks(), ids=lambda p: p.stem)


def none(problems, rule):
    "Fail with one line per problem, below the rule they break"
    problems = list(problems)
    if problems:
        pytest.fail('\n  '.join([rule + ':', *problems]), pytrace=False)


def parse(path):
    return ast.parse(path.read_text(), str(path))


def dotted(node):
    "`torch.nn.init.normal_` as a string; what is not a plain name becomes `?`"
    if isinstance(node, ast.Attribute):
        return f'{dotted(node.value)}.{node.attr}'
    return node.id if isinstance(node, ast.Name) else '?'


# ---- who uses whom


def imports(path):
    "(modules of ours, top-level names of others) that a module imports, wherever in the file"
    package = ('mow_nb', *path.relative_to(LIB).parts[:-1])
    ours, others = set(), set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = '.'.join(filter(None, [*start, node.module]))
            # `from mow_nb.model import losses` names a module, `from mow_nb.model.losses import mse` does not
            names = [f'{base}.{a.name}' if is_folder(base) else base for a in node.names]
        else:
            continue
        for top, _, rest in (name.partition('.') for name in names):
            if top != 'mow_nb':
                others.add(top)
            elif rest and not rest.startswith('__'):
                ours.add(rest)
    return ours, others


def is_folder(name):
    "Is `mow_nb.model` a package, so that its names are modules?"
    return name.partition('.')[0] == 'mow_nb' and (ROOT / name.replace('.', '/')).is_dir()


def graph():
    "What each module imports, as it is in the exported files"
    return {dotted_name(p): imports(p)[0] for p in MODULES}


def room(module):
    "The folder of a module; a module without a folder is a room of its own"
    return module.partition('.')[0]


def test_every_chapter_has_its_module():
    "The notebooks and the exported files name the same modules, and a decade of numbers is a folder"
    have = {dotted_name(p) for p in MODULES}
    names = [p.stem for p in notebooks() if p.stem != 'index']
    folders = {}
    for notebook, module in CHAPTERS.items():
        folders.setdefault(notebook[0], set()).add(room(module) if '.' in module else '')
    none(
        [f'{n}: no notebook exports it' for n in sorted(have - set(CHAPTERS.values()))]
        + [f'{n}: never exported' for n in sorted(set(CHAPTERS.values()) - have)]
        + [f'{n}: should be two digits and a name' for n in names if not re.fullmatch(r'[0-9]{2}_[a-z_]+', n)]
        + [f'{n}: its number is taken' for a, n in zip(names, names[1:]) if a[:2] == n[:2]]
        + [f'{d}0 to {d}9 are chapters of {sorted(f)}' for d, f in folders.items() if len(f) > 1]
        + [f'{n}: should be called {m}' for n, m in CHAPTERS.items() if n[3:] != m.rpartition('.')[2]],
        'Chapters and modules disagree',
    )


def test_imports_go_only_downwards():
    "A module imports only chapters before its own, so neither modules nor folders go round in a circle"
    number = {module: notebook for notebook, module in CHAPTERS.items()}
    edges = graph()
    none(
        [
            f'{m} imports {other}, which comes later'
            for m in edges
            for other in sorted(edges[m])
            if other not in number or number[other] >= number[m]
        ],
        'Imports that go upwards',
    )
    rooms = {}
    for m, others in edges.items():
        rooms.setdefault(room(m), set()).update({room(o) for o in others} - {room(m)})
    tuple(TopologicalSorter(rooms).static_order())  # raises CycleError
    none(
        [f'{a} imports {b}' for a in STRANGERS for b in STRANGERS if b in edges.get(a, ())],
        'They should meet only in the learner',
    )


def test_imports_explicit():
    "`import *` hides where a name is from"
    none(
        [
            f'{p.name}:{n.lineno}'
            for p in MODULES
            for n in ast.walk(parse(p))
            if isinstance(n, ast.ImportFrom) and n.names[0].name == '*'
        ],
        'import *',
    )


def test_runtime_needs_no_authoring_tools():
    "Using the library takes none of what wrote it"
    files = [*MODULES, LIB / '__init__.py']
    none(
        [f'{p.name} imports {name}' for p in files for name in sorted(imports(p)[1] & ONLY_FOR_WRITING)],
        'Authoring tools imported at runtime',
    )


# ---- every public name is explained


def gives_back(fn):
    "Does this function itself return or yield something?"
    todo = list(fn.body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, (ast.Return, ast.Yield)) and node.value and getattr(node.value, 'value', 1) is not None:
            return True
        todo += ast.iter_child_nodes(node)
    return False


def public_parts(tree):
    "(where, line, annotation) of each public parameter, result and field; line None = cannot carry a docment"

    def of_function(fn, owner):
        name = f'{owner}{fn.name}'
        a = fn.args
        args = [*a.posonlyargs, *a.args, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
        marks = {dotted(d) for d in fn.decorator_list}
        bound = owner and 'staticmethod' not in marks or 'patch' in marks
        args = args[1:] if bound else args
        lines = [x.lineno for x in args]
        for x in args:
            yield f'{name}({x.arg})', x.lineno if lines.count(x.lineno) == 1 else None, x.annotation
        none_back = isinstance(fn.returns, ast.Constant) and fn.returns.value is None
        if fn.returns and not none_back:
            yield f'{name} returns', fn.returns.lineno if fn.returns.lineno not in lines else None, fn.returns
        elif not fn.returns and gives_back(fn):
            yield f'{name} returns', after_signature(fn), None

    def after_signature(fn):
        "The line of `):`, where the docment of a result without annotation stands"
        return fn.body[0].lineno - 1 if fn.body[0].lineno > fn.lineno else None

    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'):
            continue
        if isinstance(node, ast.FunctionDef):
            yield from of_function(node, '')
            continue
        record = any('dataclass' in dotted(getattr(d, 'func', d)) for d in node.decorator_list)
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and (part.name == '__init__' or not part.name.startswith('_')):
                yield from of_function(part, node.name + '.')
            elif record and isinstance(part, ast.AnnAssign) and not part.target.id.startswith('_'):
                yield f'{node.name}.{part.target.id}', part.lineno, part.annotation


def public_functions(tree):
    "(name, node) of public classes, functions and methods"
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'):
            continue
        yield node.name, node
        for part in getattr(node, 'body', []) if isinstance(node, ast.ClassDef) else []:
            if isinstance(part, ast.FunctionDef) and not part.name.startswith('_'):
                yield f'{node.name}.{part.name}', part


def is_tensor(annotation):
    "Is this exactly a tensor, or a tensor that may be missing?"
    return annotation is not None and re.fullmatch(
        r"'?(Optional\[)?(torch\.)?Tensor\]?( \| None)?'?", ast.unparse(annotation)
    )


def shape_fault(docment):
    "What is wrong with the shape at the start of a tensor's docment"
    from mow_nb.core import ALPHABET

    shape = re.match(r'\(([^()]*(?:\([^()]*\)[^()]*)*)\)', docment)
    if not shape:
        return 'does not start with a shape'
    strange = set(re.findall(r'\b[A-Za-z]\b', shape[1])) - set(ALPHABET)
    if strange:
        return f"uses {', '.join(sorted(strange))}, not in core.ALPHABET"


@with_module
def test_docments(path):
    "Each public parameter, result and field has a docment; a tensor's starts with its shape in the alphabet's letters"
    source = path.read_text()
    notes, faults = comments(source), []
    for where, line, annotation in public_parts(ast.parse(source)):
        note = notes.get(line) if line else None
        if not note:
            faults.append(f'{where}: no docment of its own')
        elif is_tensor(annotation) and (fault := shape_fault(note)):
            faults.append(f'{where}: {fault}: # {note}')
    none(faults, f'Docments of {path.name}')


@with_module
def test_docstrings(path):
    "Each public class, function and method but `forward` says its purpose in one line"
    faults = []
    for name, node in public_functions(parse(path)):
        doc = ast.get_docstring(node)
        if not doc and not name.endswith('.forward'):
            faults.append(f'{name}: none')
        elif doc and '\n' in doc:
            faults.append(f'{name}: more than one line; the rest is prose for the notebook')
    none(faults, f'Docstrings of {path.name}')


# ---- chance, and files that could run code

DRAWS = {
    'rand',
    'randn',
    'randint',
    'randperm',
    'multinomial',
    'bernoulli',
    'normal',
    'poisson',
    'normal_',
    'uniform_',
    'bernoulli_',
    'exponential_',
    'random_',
    'geometric_',
    'cauchy_',
    'log_normal_',
}
NEVER = {
    'rand_like',
    'randn_like',
    'randint_like',
    'gumbel_softmax',
    'dropout',
    'Dropout',
    'Dropout1d',
    'Dropout2d',
    'AlphaDropout',
    'rsample',
}
GENERATORS = {'Generator', 'Philox', 'PCG64', 'SeedSequence', 'default_rng'}
NO_GENERATOR = 'draws without generator='
PICKLES = {'pickle', 'cPickle', 'dill', 'cloudpickle', 'joblib', 'shelve', 'marshal'}


def call_fault(call, module):
    "Why this call may not stand in the library, or None"
    name = dotted(call.func)
    last, keys = name.rpartition('.')[2], {k.arg: k.value for k in call.keywords}
    true = lambda key: isinstance(keys.get(key), ast.Constant) and keys[key].value is True
    is_none = lambda value: value is None or isinstance(value, ast.Constant) and value.value is None
    if name in (
        'torch.manual_seed',
        'torch.random.manual_seed',
        'torch.seed',
        'torch.cuda.manual_seed',
        'torch.cuda.manual_seed_all',
    ):
        return None if module == 'core' else 'seeds the global generator (core.seeded does that)'
    if re.match(r'(np|numpy)\.random\.', name):
        if last not in GENERATORS:
            return "uses numpy's global generator"
        return 'is not seeded' if not call.args and not keys else None
    if re.search(r'\binit\.', name):
        return None  # weights again
    if last in NEVER and (name != last or last.istitle()):
        return 'draws without a generator'
    if last in DRAWS and (last.endswith('_') or name.startswith('torch.')) and is_none(keys.get('generator')):
        return NO_GENERATOR
    if last == 'sample' and name != 'self.sample' and not call.args and not keys:
        return 'draws without a generator'
    if name == 'torch.load' and not true('weights_only'):
        return 'loads without weights_only=True'
    if name == 'torch.save':
        return 'writes a pickle (use safetensors)'
    if 'allow_pickle' in keys and not (
        isinstance(keys['allow_pickle'], ast.Constant) and keys['allow_pickle'].value is False
    ):
        return 'allows pickles'
    if name in ('np.load', 'numpy.load') and len(call.args) > 2:
        return 'may allow pickles'


@with_module
def test_chance_and_pickles(path):
    "Every draw names its generator, and nothing that is read from disk can run code"
    faults, tree = [], parse(path)
    weights = {
        id(n)
        for p in ast.walk(tree)
        if isinstance(p, ast.Call) and dotted(p.func).endswith('Parameter')
        for n in ast.walk(p)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not (fault := call_fault(node, path.stem)):
            continue
        if id(node) in weights and fault == NO_GENERATOR:
            continue  # weights are made under core.seeded
        faults.append(f'line {node.lineno}: {ast.unparse(node.func)} {fault}')
    faults += [f'imports {name}' for name in sorted(imports(path)[1] & (PICKLES | {'random', 'secrets'}))]
    none(faults, f'In {path.name}')


@pytest.mark.parametrize(
    'code',
    [
        'torch.rand(3)',
        'torch.randn(3, device=d)',
        'x.normal_()',
        'torch.multinomial(p, 1)',
        'np.random.rand(3)',
        'np.random.default_rng()',
        'torch.manual_seed(0)',
        'nn.Dropout(.1)',
        'F.dropout(x)',
        'torch.randn_like(x)',
        'dist.sample()',
        'torch.load(f)',
        'torch.load(f, weights_only=False)',
        'np.load(f, allow_pickle=True)',
        'np.load(f, allow_pickle=flag)',
        'np.load(f, None, True)',
        'torch.rand(3, generator=None)',
        'torch.save(x, f)',
    ],
)
def test_the_rule_sees(code):
    "The check above is not blind"
    assert call_fault(ast.parse(code).body[0].value, 'agent')


@pytest.mark.parametrize(
    'code',
    [
        'torch.rand(3, generator=g)',
        'x.normal_(generator=g)',
        'nn.init.normal_(w)',
        'rng.normal(3)',
        'np.random.default_rng(s)',
        'np.random.Generator(bits)',
        'replay.sample(rng)',
        'torch.load(f, weights_only=True)',
        'np.load(f, allow_pickle=False)',
    ],
)
def test_the_rule_lets_pass(code):
    assert not call_fault(ast.parse(code).body[0].value, 'agent')


# ---- the library is what the notebooks export


def python_files(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob('*.py'))}


def test_export_changes_nothing(tmp_path):
    "mow_nb/ is exactly what `make export` writes"
    for name in ('nbs', 'mow_nb'):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns('__pycache__', '.*'))
    shutil.copy(ROOT / 'settings.ini', tmp_path)
    export(tmp_path)
    here, there = python_files(LIB), python_files(tmp_path / 'mow_nb')
    none(
        [f'mow_nb/{n}' for n in sorted(here.keys() | there.keys()) if here.get(n) != there.get(n)],
        'Not what the notebooks export; run `make export`',
    )


FUNCTION = ast.FunctionDef, ast.AsyncFunctionDef


def code_of_module(path):
    "Numbers of the lines that do something: no blank line, comment, docstring, import or signature"
    lines, left_out = path.read_text().splitlines(), set()
    for node in ast.walk(parse(path)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            left_out |= {*range(node.lineno, node.end_lineno + 1)}
        if isinstance(node, FUNCTION):
            left_out |= {*range(node.lineno + 1, node.body[0].lineno)}
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTION)) and ast.get_docstring(node):
            left_out |= {*range(node.body[0].lineno, node.body[0].end_lineno + 1)}
    return [i for i, s in enumerate(lines, 1) if s.strip() and not s.strip().startswith('#') and i not in left_out]


def test_code_of_module(tmp_path):
    "What is counted, on a module where it is known"
    path = tmp_path / 'small.py'
    path.write_text(
        '"A module"\n\nimport os\nfrom sys import (\n    path,\n)\n\nx = 1  # counts\n# does not\n\n\n'
        'def f(  # counts\n    a,  # does not\n) -> int:  # nor this\n    "Nor this"\n    return a  # counts\n'
    )
    assert code_of_module(path) == [8, 12, 16]


@with_module
def test_sizes(path):
    """A module has less than 250 lines of code, a function at most 40 lines.

    A public function gives each parameter a line with its comment, so a third of all lines are words: a limit on all
    lines would be met by explaining less. So blank lines, comments, docstrings, imports and the lines of a signature
    after its first are not counted.
    """
    lines = len(code_of_module(path))
    faults = [f'{lines} lines of code, the limit is {MAX_MODULE}: split the chapter'] if lines >= MAX_MODULE else []
    for fn in functions(parse(path)):
        n = fn.end_lineno - fn.lineno + 1
        if n > MAX_FUNCTION:
            faults.append(f'{fn.name}: {n} lines, the limit is {MAX_FUNCTION}')
    none(faults, path.name)


# ---- the notebooks are clean and keep the form


def outputs_text(nb):
    "All the text that the outputs of a notebook show"
    for cell in nb.cells:
        for out in cell.get('outputs', []):
            yield out.get('text', '')
            yield '\n'.join(out.get('traceback', []))
            yield from (
                v if isinstance(v, str) else str(v)
                for k, v in out.get('data', {}).items()
                if not k.startswith('image/')
            )


LOCAL = re.compile(r'''(?<![\w.:/])/(?:root|home|Users|work|tmp|mnt|opt|usr/lib|private)/[^\s'"<>]+''')


@with_notebook
def test_notebook_is_clean(path):
    "No execution counts, addresses of objects, local paths, progress bars, errors, marks of a conflict or long lines"
    before, after = read(path), clean(read(path))
    faults = [] if before == after else ['not clean; run `make export`']
    faults += [f'shows the local path {m[0]}' for text in outputs_text(before) for m in LOCAL.finditer(text)]
    faults += [
        f'shows the address of an object: {m[0]}'
        for text in outputs_text(before)
        for m in re.finditer(r'0x[0-9a-f]{8,}', text)
    ]
    faults += ['holds the rest of a progress bar' for text in outputs_text(before) if '\r' in text or 'it/s]' in text]
    faults += [
        f'cell {i} shows an error'
        for i, c in enumerate(before.cells, 1)
        for o in c.get('outputs', [])
        if o.output_type == 'error'
    ]
    faults += [
        f'cell {i} holds the marks of a merge conflict'
        for i, c in enumerate(before.cells, 1)
        if re.search(r'^(<{7}|>{7}) ', c.source, re.M)
    ]
    faults += [
        f'cell {i} has a line of {len(line)} columns: {line[:40]} ...'
        for i, c in enumerate(before.cells, 1)
        for line in c.source.splitlines()
        if len(line) > 120 and not line.startswith('|') and ' ' in line.strip()
    ]
    if (kb := path.stat().st_size / 1024) >= MAX_KB:
        faults.append(f'{kb:.0f} kB, the limit is {MAX_KB}')
    none(faults, path.name)


@with_notebook
def test_notebook_form(path):
    "The ritual of opening and closing, one title, and exported cells that fit a screen"
    nb, faults = read(path), []
    titles = [
        line
        for c in nb.cells
        if c.cell_type == 'markdown'
        for line in re.sub(r'```.*?```', '', c.source, flags=re.S).splitlines()
    ]
    if sum(line.startswith('# ') for line in titles) != 1:
        faults.append('needs exactly one title')
    faults += [f'{line!r} is a heading too deep' for line in titles if re.match(r'#{5,} ', line)]
    for i, cell in enumerate(nb.cells, 1):
        if is_exported(cell) and (n := len(code_lines(cell.source))) > MAX_CELL:
            faults.append(f'cell {i} exports {n} lines, the limit is {MAX_CELL}')
    if path.stem in CHAPTERS:
        faults += ritual_faults(nb, CHAPTERS[path.stem])
    none(faults, path.name)


def ritual_faults(nb, module):
    "How a chapter with a module fails to open and close as every chapter does"
    first, second = nb.cells[:2]
    if directives(first).get('default_exp') != module:
        yield f'the first cell should be `#| default_exp {module}`'
    if not re.match(r'# .+\n\s*> .+\?', second.source):
        yield 'the second cell should be the title and `> the question?`'
    heads = [
        line for c in nb.cells if c.cell_type == 'markdown' for line in c.source.splitlines() if line.startswith('## ')
    ]
    if heads[-2:] != ['## What we have', '## Where we differ from the paper']:
        yield 'should close with `## What we have`, then `## Where we differ from the paper`'


@pytest.mark.parametrize('notebook', CHAPTERS)
def test_chapter_explains(notebook):
    "Enough prose for the code, spread over the chapter (the table after `make test` shows all measures)"
    m, nb, faults = measures(NBS / f'{notebook}.ipynb'), read(NBS / f'{notebook}.ipynb'), []
    if m['words per line'] < MIN_WORDS:
        faults.append(f"{m['words per line']:.2f} words per line of code, the floor is {MIN_WORDS}")
    if m['exported'] < MIN_EXPORTED:
        faults.append(f"{m['exported']:.0%} of the code is exported, the floor is {MIN_EXPORTED:.0%}")
    silent, longest = 0, 0
    for cell in nb.cells:
        silent = 0 if cell.cell_type == 'markdown' else silent + is_exported(cell)
        longest = max(longest, silent)
    if longest > MAX_SILENT:
        faults.append(f'{longest} exported cells without a word between them, the limit is {MAX_SILENT}')
    none(faults, notebook)


# ---- the front page


def test_front_page_lists_the_chapters():
    "Its map has the numbers, titles and questions that the chapters have"
    cells = [c.source for c in read(NBS / 'index.ipynb').cells if c.source.startswith(MAP_TITLE)]
    assert cells == [chapter_map()], 'not the chapters as they are; run `make readme`'


def test_readme_is_the_index():
    "README.md and its pictures are what `make readme` writes"
    want = readme()
    here = {
        n: (ROOT / n).read_bytes()
        for n in {*want, *(p.relative_to(ROOT).as_posix() for p in (NBS / 'images').glob('index_*.png'))}
        if (ROOT / n).exists()
    }
    none(
        [n for n in sorted(want.keys() | here.keys()) if want.get(n) != here.get(n)],
        'Not what nbs/index.ipynb shows; run `make readme`',
    )


def test_readme_leads_somewhere():
    "Each link and picture of the README that points into the repository finds a file"
    text = re.sub(r'```.*?```', '', (ROOT / 'README.md').read_text(), flags=re.S)
    targets = re.findall(r'''(?:\]\(|\b(?:src|href)=["'])(?![a-z]+:|#)([^)\s"'#]+)''', text)
    none([t for t in targets if not (ROOT / t).exists()], 'Links of README.md that lead nowhere')
