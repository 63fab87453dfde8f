"""The book as a site: the notebooks, with the outputs they hold, become pages that need no network and no server.

usage: python tests/site/build.py [FOLDER]    (default: _docs)
"""

import ast
import html
import io
import json
import re
import shutil
import sys
import tempfile
import time
from configparser import ConfigParser
from importlib.metadata import files
from pathlib import Path

import nbformat
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from book import ROOT, comments, directives, notebooks, read, without_directives  # noqa: E402

SETTINGS = ConfigParser(delimiters=['='], interpolation=None)
SETTINGS.read(ROOT / 'settings.ini', encoding='utf-8')
SETTINGS = SETTINGS['DEFAULT']
LIBRARY = SETTINGS['lib_name']

# ---- what a cell exports


def name_of(decorator):
    return ast.unparse(getattr(decorator, 'func', decorator)).rpartition('.')[2]


def arguments(fn, bound):
    "(name as called, annotation, default, line) of each argument, without self"
    a = fn.args
    plain = [*a.posonlyargs, *a.args]
    defaults = [None] * (len(plain) - len(a.defaults)) + a.defaults + [None] * bool(a.vararg) + a.kw_defaults + [None]
    stars = {id(a.vararg): '*', id(a.kwarg): '**'}
    found = [*plain, *filter(None, [a.vararg]), *a.kwonlyargs, *filter(None, [a.kwarg])]
    rows = [(stars.get(id(x), '') + x.arg, x.annotation, d, x.lineno) for x, d in zip(found, defaults)]
    return rows[1:] if bound else rows


def entry(kind, name, fn, notes, bound=False):
    "What the card of a function says"
    rows = arguments(fn, bound)
    lines = [line for *_, line in rows]
    own = lambda line: notes.get(line, '') if lines.count(line) < 2 else ''
    end = fn.returns.lineno if fn.returns else fn.body[0].lineno - 1
    back = notes.get(end, '') if end not in lines else ''
    card = dict(
        kind=kind,
        name=name,
        doc=ast.get_docstring(fn) or '',
        parts=[],
        rows=[(arg, what, default, own(line)) for arg, what, default, line in rows],
    )
    none = isinstance(fn.returns, ast.Constant) and fn.returns.value is None
    if fn.returns and not none or back:
        card['rows'].append(('returns', fn.returns, None, back))
    return card


def class_entry(node, notes):
    "What the card of a class says: how it is made, and its methods inside"
    card = dict(kind='class', name=node.name, doc=ast.get_docstring(node) or '', rows=[], parts=[])
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == '__init__':
            card['rows'] = entry('', '', part, notes, bound=True)['rows']
        elif isinstance(part, ast.FunctionDef) and not part.name.startswith('_'):
            marks = {name_of(d) for d in part.decorator_list}
            kind = next((k for k in ('property', 'staticmethod', 'classmethod') if k in marks), 'method')
            card['parts'].append(entry(kind, part.name, part, notes, bound=kind != 'staticmethod'))
        elif isinstance(part, ast.AnnAssign) and any('dataclass' in name_of(d) for d in node.decorator_list):
            card['rows'].append((part.target.id, part.annotation, part.value, notes.get(part.lineno, '')))
    return card


def exported(cell):
    "A card for each public name that this cell puts into the library"
    marks = directives(cell)
    if cell.cell_type != 'code' or not {'export', 'exports'} & marks.keys():
        return []
    tree, notes, cards = ast.parse(cell.source), comments(cell.source), []
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'):
            continue
        if isinstance(node, ast.ClassDef):
            cards.append(class_entry(node, notes))
            continue
        marks = {name_of(d) for d in node.decorator_list}
        owner = ast.unparse(node.args.args[0].annotation) + '.' if 'patch' in marks else ''
        kind = 'property' if 'property' in marks else 'method' if owner else 'function'
        cards.append(entry(kind, owner + node.name, node, notes, bound=bool(owner)))
    return cards


def names(cards, before=''):
    "All dotted names that the cards explain"
    return [
        name for card in cards for name in (before + card['name'], *names(card['parts'], before + card['name'] + '.'))
    ]


# ---- a card


def ticks(text):
    return re.sub(r'`([^`]+)`', r'<code>\1</code>', html.escape(text, quote=False))


def row(arg, what, default, note):
    kind = html.escape(ast.unparse(what)) if what else ''
    kind += f' = {html.escape(ast.unparse(default))}' if default else ''
    label = f'<i>{arg}</i>' if arg == 'returns' else f'<code>{arg}</code>'
    return f'<tr><th scope="row">{label}</th><td>{kind and f"<code>{kind}</code>"}</td><td>{ticks(note)}</td></tr>'


def shown(card, origin='', depth=6):
    "One card in the language of Sphinx, so that its name can be searched; `origin` leads to where it was made"
    fence = ':' * depth
    called = (
        '' if card['kind'] == 'property' else '(' + ', '.join(arg for arg, *_ in card['rows'] if arg != 'returns') + ')'
    )
    lines = [
        f"{fence}{{py:{card['kind']}}} {card['name']}{called}",
        '',
        card['doc'].replace('*', r'\*').replace('_', r'\_'),
        '',
    ]
    rows = ['<table class="api">', *(row(*r) for r in card['rows']), '</table>'] if card['rows'] else []
    if origin or rows:
        lines += ['```{raw} html', origin, *rows, '```', '']
    return '\n'.join([*lines, *(shown(part, depth=depth - 1) for part in card['parts']), fence, ''])


def origin_of(stem, number):
    "Links to the cell of that number, on this page, and to the notebook itself"
    return (
        f'<p class="origin"><a href="#cell-{number}">source</a> '
        f'<a href="_sources/{stem}.ipynb" download>notebook</a></p>'
    )


# ---- a notebook becomes a page


def page(nb, module, stem=''):
    "The cells that a reader sees, cards below the exported ones"
    heading, cells = '', []
    for cell in nb.cells:
        marks = directives(cell)
        if cell.cell_type == 'raw' or {'hide', 'default_exp'} & marks.keys() or marks.get('include:') == 'false':
            continue
        if cell.cell_type == 'markdown':
            heading = (re.findall(r'^#+ (.+)', cell.source, re.M) or [heading])[-1]
            if module:
                cell.source, module = cell.source + f'\n\n```{{py:module}} {LIBRARY}.{module}\n```', None
            cells.append(cell)
            continue
        cards = exported(cell)
        cell = code(cell, marks, cards, heading)
        if cells and all(imports(c) for c in (cells[-1], cell)):
            cells[-1].source += f'\n\n{cell.source}'
            continue
        cells.append(as_text(cell))
        if cards:
            origin = origin_of(stem, len(cells) - 1)
            cells.append(nbformat.v4.new_markdown_cell('\n'.join(shown(card, origin) for card in cards)))
    for i, cell in enumerate(cells):
        cell['id'] = f'c{i:03d}'
    nb.cells = cells
    return nb


def imports(cell):
    "Is this a folded cell of imports?"
    return (
        cell.cell_type == 'code'
        and cell.metadata.get('mystnb', {}).get('code_prompt_show') == 'Imports'
        and not cell.outputs
    )


def code(cell, marks, cards, heading):
    "A code cell without its marks; plumbing is folded"
    tags = ['hide-input'] if 'export' in marks else []
    if 'hide_input' in marks or marks.get('echo:') == 'false':
        tags = ['remove-input']
    if marks.get('output:') == 'false':
        tags.append('remove-output')
    what = (
        'Code of ' + ', '.join(c['name'] for c in cards)
        if cards
        else 'Imports'
        if re.match(r'(from|import) ', without_directives(cell.source))
        else 'Code'
    )
    cell.metadata = dict(
        tags=tags,
        mystnb=dict(code_prompt_show=what, code_prompt_hide=what, image=dict(alt=f'Figure: {plain(heading)}')),
    )
    cell.source = ('#| eval: false\n' if marks.get('eval:') == 'false' else '') + without_directives(cell.source)
    # a widget needs a kernel: the page shows what stands beside it
    cell.outputs = [o for o in cell.outputs if 'application/vnd.jupyter.widget-view+json' not in o.get('data', {})]
    return cell


def as_text(cell):
    "The text that a cell shows, in place of a cell whose code is hidden, if it has sections: then they can be linked"
    texts = [o.data.get('text/markdown', '') for o in cell.outputs if 'data' in o]
    if 'remove-input' not in cell.metadata['tags'] or len(texts) != 1 or not re.search('^##', texts[0], re.M):
        return cell
    text = re.sub(r'^(?=\|.*\n\|---)', '{.stacked}\n', texts[0], flags=re.M)
    return nbformat.v4.new_markdown_cell('```{contents} Sections\n:local:\n:backlinks: none\n```\n\n' + text)


def plain(text):
    return re.sub(r'[`$*]', '', text)


# ---- the table of contents is the chapter map of the front page


def contents(index, stems):
    "The front page's chapter map as Sphinx wants it; what the map forgot comes last"
    groups, title = {}, ''
    for line in '\n'.join(c.source for c in index.cells if c.cell_type == 'markdown').splitlines():
        if found := re.match(r'#+ (.+)', line):
            title = plain(found[1])
        elif found := re.match(r'\|\s*(\w+)\s*\|\s*\[(.+?)\]\((\w+)\.ipynb\)\s*\|', line):
            if found[3] in stems:
                groups.setdefault(title, {})[found[3]] = f'{found[1]} · {plain(found[2])} <{found[3]}>'
    known = {stem for group in groups.values() for stem in group}
    if rest := [stem for stem in stems if stem not in known | {'index'}]:
        groups['More'] = dict(zip(rest, rest))
    return '\n\n'.join(
        '\n'.join(['```{toctree}', ':hidden:', ':titlesonly:', f':caption: {title}', '', *group.values(), '```'])
        for title, group in groups.items()
    )


# ---- names in the text lead to their cards


class Links:
    "`model.vae.Encoder`, `vae.Encoder`, `Encoder` and `Encoder()` in prose become links to the card of Encoder"

    def __init__(self, places):
        self.places = places  # 'model.vae.Encoder' -> (module, page)
        self.short = {}  # 'Encoder' -> all whose name in their module this is; 'vae.Encoder' is as good
        for full, (module, _) in places.items():
            name = full.removeprefix(module + '.')
            for called in {name, f'{module.rpartition(".")[2]}.{name}'}:
                self.short.setdefault(called, []).append(full)

    def find(self, text, here):
        name = text.removesuffix('()').removeprefix(LIBRARY + '.')
        if name in self.places:
            return name
        same = self.short.get(name, [])
        own = [n for n in same if self.places[n][1] == here]
        telling = text.endswith('()') or re.search(r'[A-Z_.]', name)  # `state` alone may be anything
        return own[0] if own else same[0] if len(same) == 1 and telling else None

    def __call__(self, app, doctree):
        here = app.env.current_document.docname
        for node in list(doctree.findall(nodes.literal)):
            if isinstance(node.parent, (nodes.reference, nodes.title)) or not (name := self.find(node.astext(), here)):
                continue
            page = self.places[name][1]
            uri = '' if page == here else page + '.html'
            node.replace_self(
                nodes.reference(
                    '', '', node.deepcopy(), refuri=f'{uri}#{LIBRARY}.{name}', internal=True, classes=['name']
                )
            )


# ---- what can be reached from elsewhere


def anchors(app, doctree):
    "Each code cell can be linked to as `#cell-NUMBER`"
    for node in doctree.findall(nodes.container):
        if node.get('nb_element') == 'cell_code':
            inside = [n for n in node.children if n.get('nb_element') == 'cell_code_source'] or [node]
            inside[0]['ids'].append(f"cell-{node['cell_index']}")


TEXT = (nodes.paragraph, nodes.block_quote, nodes.bullet_list, nodes.enumerated_list, nodes.table)


def excerpts(doctree):
    "[place, text] of each section and card of a page: what a reader finds there, without code"
    found = []
    for node in doctree.findall(lambda n: isinstance(n, (nodes.section, addnodes.desc))):
        own = [n for n in node.children if isinstance(n, TEXT)]
        if isinstance(node, addnodes.desc):
            own = [n for n in node[-1].children if isinstance(n, nodes.paragraph)]
        ids = node[0]['ids'] if isinstance(node, addnodes.desc) else node['ids']
        text = ' '.join(' '.join(n.astext() for n in own).split())
        found += [[ids[0], text]] if ids and text else []
    return found


# ---- Sphinx

CONF = dict(
    project=LIBRARY,
    author=SETTINGS['author'],
    copyright=SETTINGS['copyright'],
    html_title=LIBRARY,
    language='en',
    extensions=['myst_nb', 'sphinx.ext.mathjax', 'sphinx_copybutton'],
    myst_enable_extensions=['dollarmath', 'amsmath', 'colon_fence', 'attrs_block'],
    myst_heading_anchors=4,
    suppress_warnings=['myst.header'],
    nb_execution_mode='off',
    nb_merge_streams=True,
    nb_render_markdown_format='myst',
    nb_ipywidgets_js={},
    add_module_names=False,
    toc_object_entries_show_parents='hide',
    python_maximum_signature_line_length=100,
    mathjax_path='tex-svg.js',
    mathjax3_config=dict(options=dict(enableMenu=False), svg=dict(fontCache='global')),
    html_theme='sphinx_book_theme',
    html_context=dict(default_mode='auto'),
    html_static_path=[str(HERE / 'static')],
    html_css_files=['book.css'],
    html_js_files=['book.js'],
    html_sourcelink_suffix='',
    html_show_search_summary=False,
    html_theme_options=dict(
        repository_url=SETTINGS['git_url'],
        use_repository_button=True,
        use_download_button=True,
        use_fullscreen_button=False,
        show_navbar_depth=1,
        show_toc_level=2,
        navigation_with_keys=False,
        navbar_persistent=[],
        navbar_start=[],
        navbar_center=[],
        navbar_end=[],
    ),
    html_copy_source=True,
    html_show_sphinx=False,
    html_use_index=True,
    copybutton_selector='div.cell div.highlight pre, div.highlight-bash pre',
)


def search_page(app, name, *_):
    "Results of a search are shown with the sentences around what was found"
    if name == 'search':
        app.add_js_file('excerpts.js', loading_method='defer')
        app.add_js_file('search.js', loading_method='defer')


def mathjax():
    "The one file that draws equations (MathJax 3.2, Apache-2.0), out of the package that carries it"
    return next(f.locate() for f in files('sphinx-mathjax-offline') if f.name == 'tex-svg.js')


def build(out, paths=None):
    "Make the site; returns how many warnings there were, after showing them"
    paths = paths or notebooks()
    books = {p.stem: read(p) for p in paths}
    modules = {
        stem: next((m['default_exp'] for c in nb.cells if 'default_exp' in (m := directives(c))), None)
        for stem, nb in books.items()
    }
    places = {
        f'{modules[stem]}.{n}': (modules[stem], stem)
        for stem, nb in books.items()
        if modules[stem]
        for c in nb.cells
        for n in names(exported(c))
    }
    toc = contents(books['index'], list(books))
    with tempfile.TemporaryDirectory() as tmp:
        src, site = Path(tmp) / 'src', Path(tmp) / 'site'
        shutil.copytree(paths[0].parent / 'images', src / 'images') if (
            paths[0].parent / 'images'
        ).exists() else src.mkdir()
        for stem, nb in books.items():
            nb = page(nb, modules[stem], stem)
            if stem == 'index':
                nb.cells.append(nbformat.v4.new_markdown_cell(toc, id='toc'))
            nbformat.write(nb, src / f'{stem}.ipynb')
        warnings = io.StringIO()
        app = Sphinx(
            src,
            None,
            site,
            Path(tmp) / 'trees',
            'html',
            CONF,
            status=None,
            warning=warnings,
            warningiserror=True,
            parallel=2,
        )
        app.connect('doctree-read', Links(places))
        app.connect('doctree-read', anchors)
        app.connect('html-page-context', search_page)
        app.build()
        shutil.copy(mathjax(), site / '_static')
        found = {stem: excerpts(app.env.get_doctree(stem)) for stem in books}
        (site / '_static' / 'excerpts.js').write_text(f'const EXCERPTS = {json.dumps(found, ensure_ascii=False)};\n')
        for path in paths:
            shutil.copy(path, site / '_sources')
        for path in (site / '.buildinfo', *site.rglob('*.map')):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(site, out)
    told = warnings.getvalue().replace(f'{src}/', '')
    sys.stderr.write(re.sub(r'\x1b\[[0-9;]*m', '', told))
    return told.count('WARNING') + told.count('ERROR')


def main(folder='_docs'):
    start, out = time.time(), Path(folder).resolve()
    if wrong := build(out):
        sys.exit(f'{wrong} warnings: the site is in {folder}/, and not as it should be.')
    print(f'{len(list(out.glob("*.html")))} pages in {time.time() - start:.0f} s: open {folder}/index.html')


if __name__ == '__main__':
    main(*sys.argv[1:])
