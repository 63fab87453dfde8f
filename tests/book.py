"""The book as files: find, run, clean and render its notebooks. pytest and the Makefile both call this.

usage: python tests/book.py run NOTEBOOK              run every cell, name the first that fails
       python tests/book.py serve [MODULE ...]        import these once, then run what is asked for in forks
       python tests/book.py execute [NOTEBOOK ...]    run in place and keep the outputs, cleaned (default: all)
       python tests/book.py clean [NOTEBOOK ...]      take away what differs from run to run (default: all)
       python tests/book.py readme                    write the chapter map of nbs/index.ipynb, and README.md from it
       python tests/book.py export                    write mow_nb/ from the notebooks
       python tests/book.py quick 24                  export; check, run and test one chapter
"""

import ast
import io
import itertools
import os
import posixpath
import re
import sys
import tempfile
import time
import tokenize
import traceback
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBS, LIB = ROOT / 'nbs', ROOT / 'mow_nb'
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
SLOW_FLAGS = {'slow', 'notest'}  # cells marked `#| slow` are for people with time

# ---- find


def notebooks():
    "Every notebook of the book, in reading order"
    return sorted(p for p in NBS.glob('*.ipynb') if not p.name.startswith(('_', '.')))


def directives(cell):
    "What the `#|` lines at the top of a cell say: {'export': '', 'eval:': 'false'}"
    found = {}
    for line in cell['source'].splitlines():
        if not line.strip():
            continue
        if not (mark := re.match(r'\s*#\s*\|\s*(\S+)\s*(.*)', line)):
            break
        found[mark[1]] = mark[2].strip()
    return found


def module_of(path):
    "The module that a notebook exports, or None for a page"
    return directives(read(path).cells[0]).get('default_exp')


def opening(path):
    "Title and question of a notebook"
    cell = next(c for c in read(path).cells if c.cell_type == 'markdown' and c.source.startswith('# '))
    title, *rest = cell.source.splitlines()
    quoted = itertools.takewhile(lambda line: line.startswith('>'), itertools.dropwhile(lambda line: not line, rest))
    return title.removeprefix('# '), ' '.join(line.lstrip('> ') for line in quoted)


def without_directives(source):
    "The code of a cell as a reader should see it"
    lines = source.splitlines()
    while lines and re.match(r'\s*(#\s*\|.*)?$', lines[0]):
        lines.pop(0)
    return '\n'.join(lines)


def comments(source):
    "Line number to comment"
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip('#').strip() for t in tokens if t.type == tokenize.COMMENT}


def is_run(cell):
    "Is this a code cell that a test should run?"
    if cell['cell_type'] != 'code':
        return False
    marks = directives(cell)
    return marks.get('eval:', '').lower() != 'false' and not SLOW_FLAGS & marks.keys()


def read(path):
    "One notebook, with sources as plain strings"
    import nbformat

    return nbformat.read(path, as_version=4)


# ---- export

CELL_MARK = re.compile(r'\n*^# %% .*\n(?=\n*(?:# %% |\Z))', re.M)


def export(root=ROOT):
    "Write the library: what nbdev exports, with every method inside its class"
    import subprocess

    code = 'from nbdev.doclinks import nbdev_export; nbdev_export()'
    subprocess.run([sys.executable, '-c', code], cwd=root, check=True)
    for path in sorted((root / 'mow_nb').rglob('[a-z]*.py')):
        if (folded := fold_methods(source := path.read_text())) != source:
            path.write_text(folded)
    style = ('--line-length', '120', '--config', 'format.quote-style="preserve"')
    subprocess.run([sys.executable, '-m', 'ruff', 'format', '-q', *style, 'mow_nb'], cwd=root, check=True)


def fold_methods(source):
    "A module in which functions marked with `@patch` have become methods of the class that their first parameter names"
    tree, lines = ast.parse(source), source.splitlines()
    ends = {node.name: node.end_lineno for node in tree.body if isinstance(node, ast.ClassDef)}
    methods, gone = {}, set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and any(ast.unparse(mark) == 'patch' for mark in node.decorator_list):
            first, last = node.decorator_list[0].lineno, node.end_lineno
            owner = node.args.args[0].annotation.id
            methods.setdefault(owner, []).append(as_method(lines[first - 1 : last], owner))
            gone.update(range(first, last + 1))
        elif isinstance(node, ast.ImportFrom) and any(a.name == 'patch' for a in node.names):
            kept = [a for a in node.names if a.name != 'patch']
            lines[node.lineno - 1] = ast.unparse(ast.ImportFrom(node.module, kept, node.level)) if kept else None
            gone.update(range(node.lineno + bool(kept), node.end_lineno + 1))
    at = {ends[owner]: bodies for owner, bodies in methods.items()}
    out = []
    for number, line in enumerate(lines, 1):
        if number not in gone:
            out.append(line)
        for body in at.get(number, ()):
            out += ['', *body]
    text = '\n'.join(out) + '\n'
    while (shorter := CELL_MARK.sub('\n', text)) != text:
        text = shorter
    return re.sub(r'\n{3,}', '\n\n', text).rstrip() + '\n'


def as_method(lines, owner):
    "The lines of one patched function, as they stand in the class"
    body = [line for line in lines if line.strip() != '@patch']
    body = [re.sub(rf'^(\s*(?:def \w+\()?self)\s*:\s*{owner}\b', r'\1', line) for line in body]
    body = [
        re.sub(rf'^(.*\)\s*->){owner}(\s*:)', rf"\1'{owner}'\2", line) for line in body
    ]  # its class is not made yet
    return [('    ' + line) if line.strip() else line for line in body]


# ---- measure


def is_exported(cell):
    return cell['cell_type'] == 'code' and bool({'export', 'exports', 'exporti'} & directives(cell).keys())


def code_lines(source):
    return [l for l in source.splitlines() if l.strip() and not l.lstrip().startswith('#|')]


def functions(tree):
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def measures(path):
    "How a notebook reads, in numbers"
    nb = read(path)
    prose = [c.source for c in nb.cells if c.cell_type == 'markdown']
    code = {c.id: len(code_lines(c.source)) for c in nb.cells if c.cell_type == 'code'}
    out = [c for c in nb.cells if is_exported(c)]
    made = [fn for c in out for fn in functions(ast.parse(c.source))]
    total = max(sum(code.values()), 1)
    return {
        'cells': len(nb.cells),
        'longest cell': max((code[c.id] for c in out), default=0),
        'longest function': max((fn.end_lineno - fn.lineno + 1 for fn in made), default=0),
        'words per line': sum(len(p.split()) for p in prose) / total,
        'exported': sum(code[c.id] for c in out) / total,
        'shapes': sum(note.startswith('(') for c in out for note in comments(c.source).values()),
        'figures': sum(
            any(k.startswith('image/') for k in o.get('data', {})) for c in nb.cells for o in c.get('outputs', [])
        ),
        'kB': path.stat().st_size / 1024,
    }


def table(seconds):
    "The measures of the notebooks that were run, one line each: {notebook: seconds}"
    yield f"{'chapter':18} cells  longest  longest  words per  exported  shapes  figures   kB  seconds"
    yield f"{'':18}        cell    function   line     of code"
    for path in notebooks():
        if path.stem not in seconds:
            continue
        m = measures(path)
        yield (
            f"{path.stem:18} {m['cells']:5}  {m['longest cell']:5}  {m['longest function']:8}  "
            f"{m['words per line']:8.1f}  {m['exported']:8.0%}  {m['shapes']:6}  "
            f"{m['figures']:7}  {m['kB']:4.0f}  {seconds[path.stem]:6.1f}"
        )


# ---- run


def run(path):
    "Run a notebook; returns None, or the story of the first cell that failed"
    cells = read(path).cells
    if not module_of(path) or any(is_long(cell) for cell in cells):
        return run_in_kernel(Path(path))
    return run_here(path)


def serve(modules):
    """Run notebooks in forks of this process, which imports only once what most of them need.

    Each line asks for one, `notebook TAB file for its story`. The answer is a line with the process, which leads a
    session of its own, and one with the status that it ended with.
    """
    for name in modules:
        import_module(name)
    for line in iter(sys.stdin.readline, ''):
        path, story = line.rstrip('\n').split('\t')
        if pid := os.fork():
            print(pid, flush=True)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        os.setsid()
        for number, file in enumerate((os.devnull, os.devnull, story)):
            os.dup2(os.open(file, os.O_RDWR), number)
        return run(path)


def is_long(cell):
    "Is this a cell that keeps its stored results wherever it is not run? (chapter 06)"
    return cell['cell_type'] == 'code' and directives(cell).get('eval:', '').lower() == 'false'


def run_in_kernel(path):
    "Run all cells as JupyterLab would, in a clone without runs; long cells must keep what they hold"
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    nb = read(path)
    for cell in nb.cells:
        if cell.cell_type == 'code' and SLOW_FLAGS & directives(cell).keys():
            cell.metadata['tags'] = ['skip-execution']
    before = {cell.id: results(cell) for cell in nb.cells if is_long(cell)}
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    with tempfile.TemporaryDirectory() as clone:
        (Path(clone) / 'nbs').mkdir()
        for there in [*NBS.iterdir(), *(p for p in ROOT.iterdir() if p.name not in ('nbs', 'runs', '.git'))]:
            (Path(clone) / there.relative_to(ROOT)).symlink_to(there)
        kernel = dict(timeout=600, kernel_name='python3', extra_arguments=['--IPKernelApp.log_level=40'])
        try:
            NotebookClient(nb, resources={'metadata': {'path': f'{clone}/nbs'}}, **kernel).execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as e:
            return f'{path.name}, in a kernel of Jupyter:\n\n' + re.sub(r'\x1b\[[0-9;]*m', '', str(e))
    lost = [cell.source for cell in nb.cells if cell.id in before and results(cell) != before[cell.id]]
    return f'{path.name}: long cells that lost their stored results:\n\n' + '\n\n'.join(lost) if lost else None


def results(cell):
    "What a cell shows, but for the sentence that it was not run: (text, pictures and tables)"
    text = ''.join(o.text for o in cell.outputs if o.output_type == 'stream')
    lines = [line for line in text.splitlines() if not line.startswith('Not run:')]
    plain = [{kind: str(part).strip() for kind, part in o.data.items()} for o in cell.outputs if 'data' in o]
    return lines, plain


def run_here(path):
    "Run a notebook in this process"
    import torch
    from execnb.shell import CaptureShell

    torch.set_num_threads(1)
    path = Path(path).resolve()
    nb = read(path)
    sys.path.insert(0, str(ROOT))
    os.chdir(path.parent)
    shell = CaptureShell(path, mpl_format='png')
    for number, cell in enumerate(nb.cells, 1):
        if not is_run(cell):
            continue
        shell.run(cell.source)
        if shell.exc:
            return failure(shell.exc, path, number, len(nb.cells), cell.source)


def failure(exc, path, number, total, source):
    "The failing cell and its error, without the frames of the machinery that ran it"
    frames = traceback.extract_tb(exc.__traceback__)
    ours = [f for f in frames if not re.search(r'IPython/core/interactiveshell\.py|execnb/shell\.py', f.filename)]
    story = traceback.StackSummary.from_list(ours).format() + traceback.format_exception_only(type(exc), exc)
    marked = '\n'.join('    ' + line for line in source.splitlines())
    return f"{path.name}, cell {number} of {total}:\n\n{marked}\n\n{''.join(story)}"


def execute(path):
    "Run a notebook in a fresh kernel and keep its outputs in the file"
    import nbformat
    from nbclient import NotebookClient

    nb = read(path)
    for cell in nb.cells:
        if cell.cell_type == 'code' and not is_run(cell):
            cell.metadata['tags'] = ['skip-execution']
    NotebookClient(
        nb,
        timeout=600,
        kernel_name='python3',
        store_widget_state=False,
        resources={'metadata': {'path': str(path.parent)}},
        extra_arguments=['--IPKernelApp.log_level=40'],
    ).execute()
    nbformat.write(clean(nb), path)


def clean(nb):
    "Take away what differs from run to run, and what JupyterLab adds where a cell is not run"
    from nbdev.clean import clean_nb

    nb.metadata = dict(kernelspec=dict(display_name='python3', language='python', name='python3'))
    clean_nb(nb)
    for cell in nb.cells:  # widgets are drawn by a kernel; a stored view without its state shows an error
        if cell.cell_type == 'code':
            cell.outputs = joined(
                o for o in cell.outputs if 'application/vnd.jupyter.widget-view+json' not in o.get('data', {})
            )
            if is_long(cell):
                cell.outputs = [o for o in map(without_sentence, cell.outputs) if o]
    return nb


def without_sentence(output):
    "An output without the sentence that a long cell was not run; None if it held nothing else"
    if output.output_type != 'stream':
        return output
    lines = [line for line in output.text.splitlines(keepends=True) if not line.startswith('Not run:')]
    output.text = ''.join(lines)
    return output if lines else None


def joined(outputs):
    "Outputs in which text that was printed in a row stands in a row, however slowly it came"
    out = []
    for o in outputs:
        if out and o.output_type == 'stream' and out[-1].get('name') == o.name:
            out[-1].text += o.text
        else:
            out.append(o)
    return out


# ---- the chapter map

FLOORS = {
    '0': 'Words of the book: `mow_nb`',
    '1': 'Environments: `mow_nb.envs`',
    '2': 'The world model: `mow_nb.model`',
    '3': 'The agent: `mow_nb.agent`',
    '4': 'What is kept: `mow_nb.store`',
    '5': 'What it is worth: `mow_nb.eval`',
    '6': 'Training: `mow_nb.training`',
    '7': 'Views: `mow_nb.view`',
    '8': 'Tools: `mow_nb.tools`',
    '9': 'Pages without a module',
}
MAP_TITLE = '## Chapters'


def chapter_map():
    "The cell of the front page that lists all chapters, as they name themselves"
    lines = [
        MAP_TITLE,
        '',
        'Each chapter asks one question, builds the answer in small pieces and exports one module. Ten numbers are a',
        'folder, and chapters use only chapters above them ([chapter 07](07_map.ipynb) draws that).',
    ]
    for tens, title in FLOORS.items():
        lines += ['', f'#### {title}', '', '| no. | chapter | the question |', '|---|---|---|']
        for path in notebooks():
            if path.name.startswith(tens):
                name, question = opening(path)
                lines.append(f'| {path.stem[:2]} | [{name}]({path.name}) | {question} |')
    return '\n'.join(lines)


def write_chapter_map():
    "Bring the chapter map of the front page up to date"
    import nbformat

    nb = read(NBS / 'index.ipynb')
    cell = next(c for c in nb.cells if c.source.startswith(MAP_TITLE))
    if cell.source != chapter_map():
        cell.source = chapter_map()
        nbformat.write(nb, NBS / 'index.ipynb')


# ---- render

LINK = re.compile(r'''(\]\(|\b(?:src|href)=["'])(?![a-z]+:|[#/])([^)\s"']+)''')


def readme():
    "What the front page of the repository holds: {path: bytes}, README.md and the pictures of its cells"
    from nbconvert import MarkdownExporter

    nb = read(NBS / 'index.ipynb')
    nb.metadata['language_info'] = {'name': 'python'}
    nb.cells = [
        front(c) for c in nb.cells if c.cell_type != 'raw' and not {'hide', 'default_exp'} & directives(c).keys()
    ]
    text, extra = MarkdownExporter().from_notebook_node(
        nb, resources=dict(unique_key='index', output_files_dir='nbs/images')
    )
    text = re.sub(r'<style.*?</style>\n?', '', text, flags=re.S)  # a table's own style: GitHub has another
    text = re.sub(r'[ \t]+$', '', text, flags=re.M)
    files = {'README.md': re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'}
    return {k: v.encode() if isinstance(v, str) else v for k, v in {**files, **extra['outputs']}.items()}


def front(cell):
    "One cell made ready for the front page: links seen from the top, code without marks, nothing but results below"
    if cell.cell_type == 'markdown':
        cell.source = LINK.sub(lambda m: m[1] + posixpath.normpath(posixpath.join('nbs', m[2])), cell.source)
        return cell
    marks = directives(cell)
    cell.source = without_directives(cell.source)
    cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
    for out in cell.outputs:
        out.get('data', {}).pop('application/vnd.jupyter.widget-view+json', None)
    if marks.get('output:', marks.get('include:')) == 'false':
        cell.outputs = []
    if 'hide_input' in marks or marks.get('echo:') == 'false':
        cell.metadata['transient'] = {'remove_source': True}  # nbconvert's own word for it
    return cell


# ---- one chapter


def quick(number):
    "Export, then look at one chapter: style, the book's rules for it and for its module, and all its cells"
    import subprocess

    import nbformat

    path = next(NBS.glob(f'{number}_*.ipynb'), None)
    if not path:
        sys.exit(f'There is no chapter {number}. (make quick CH=24)')
    module, start = module_of(path), time.time()
    subprocess.run([sys.executable, '-m', 'ruff', 'format', '-q', str(path)], check=True)
    export()
    nbformat.write(clean(read(path)), path)
    files = [path, *([LIB / f'{module.replace(".", "/")}.py'] if module else [])]
    style = subprocess.run([sys.executable, '-m', 'ruff', 'check', *map(str, files)]).returncode
    rules = [f'[{path.stem}]', 'downwards', 'explicit', 'every_chapter_has', *([f'[{module}]'] if module else [])]
    tests = [path, ROOT / 'tests/test_book.py', ROOT / 'tests/test_editor.py']
    which = ' or '.join([path.stem, *rules])
    tested = subprocess.run([sys.executable, '-m', 'pytest', '-q', *map(str, tests), '-k', which], cwd=ROOT).returncode
    print(f'{path.name}: {"mend what is said above" if style or tested else "fine"} ({time.time() - start:.0f} s)')
    sys.exit(style or tested)


# ---- from the shell


def main(verb=None, *paths):
    if verb == 'run' and len(paths) == 1:
        if story := run(paths[0]):
            sys.exit(story)
    elif verb == 'serve':
        sys.exit(serve(paths))
    elif verb == 'execute':
        for path in map(Path, paths or notebooks()):
            start = time.time()
            execute(path)
            print(f'{path.name:32} {time.time() - start:5.1f} s  {path.stat().st_size // 1024:4} kB', flush=True)
    elif verb == 'clean':
        import nbformat

        for path in map(Path, paths or notebooks()):
            if read(path) != (cleaned := clean(read(path))):
                nbformat.write(cleaned, path)
                print(f'cleaned {path.name}')
    elif verb == 'export' and not paths:
        export()
    elif verb == 'quick' and len(paths) <= 1:
        quick(*paths or ('',))
    elif verb == 'readme' and not paths:
        write_chapter_map()
        for old in (NBS / 'images').glob('index_*.png'):
            old.unlink()
        for name, data in readme().items():
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_bytes(data)
            print(f'wrote {name}')
    else:
        sys.exit(__doc__)


if __name__ == '__main__':
    main(*sys.argv[1:])
