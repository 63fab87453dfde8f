"""The site can be read from a stick: every link leads somewhere, all is there, and a browser shows it well."""

import ast
import html
import re
from urllib.parse import unquote, urlsplit

import pytest
from book import NBS, notebooks, read
from test_book import MODULES, dotted_name, public_functions

from conftest import DESK, PHONE

RESOURCES = {
    'script': 'src',
    'img': 'src',
    'source': 'src',
    'iframe': 'src',
    'video': 'src',
    'audio': 'src',
    'embed': 'src',
    'object': 'data',
    'link': 'href',
}
NOT_LOADED = {
    'next',
    'prev',
    'index',
    'search',
    'author',
    'canonical',
    'up',
    'top',
    'copyright',
    'help',
}  # <link> that only points


class Page:
    "The ids, links and resources of a page"

    def __init__(self, path):
        text = re.sub(r'(<(script|style)\b[^>]*>).*?</\2>', r'\1', whole := path.read_text(), flags=re.S)
        self.ids, self.links, self.loads = {''}, [], []
        self.styles = re.findall(r'<style[^>]*>(.*?)</style>|\bstyle="([^"]*)"', whole, flags=re.S)
        for tag, inside in re.findall(r'<([a-z][a-z0-9]*)\s((?:[^<>"]|"[^"]*")*)>', text):
            attrs = {k: html.unescape(v) for k, v in re.findall(r'([\w-]+)="([^"]*)"', inside)}
            self.ids.add(attrs.get('id', ''))
            if tag == 'a' and 'href' in attrs:
                self.links.append(attrs['href'])
            url = attrs.get(RESOURCES.get(tag))
            if url and not (tag == 'link' and NOT_LOADED & set(attrs.get('rel', '').split())):
                self.loads.append(url)


@pytest.fixture(scope='module')
def pages(site):
    return {p.name: Page(p) for p in sorted(site.glob('*.html'))}


def report(faults):
    if faults:
        pytest.fail('\n  '.join([f'{len(faults)} faults:', *faults[:20]]), pytrace=False)


def test_links(site, pages):
    "Each link within the site finds its page and its place on the page"
    faults = []
    for name, page in pages.items():
        for url in map(urlsplit, page.links):
            if url.scheme in ('http', 'https', 'mailto'):
                continue
            target = unquote(url.path) or name
            if url.scheme or url.netloc or not (site / target).is_file():
                faults.append(f'{name}: {url.geturl()} leads nowhere')
            elif target in pages and unquote(url.fragment) not in pages[target].ids:
                faults.append(f'{name}: {target} has no place {url.fragment}')
    report(faults)


def test_everything_is_here(site, pages):
    "Each script, style, font and picture lies in the site itself"
    loads = [(site / name, url) for name, page in pages.items() for url in page.loads]
    styles = [(site / name, text) for name, page in pages.items() for texts in page.styles for text in texts] + [
        (p, p.read_text()) for p in site.rglob('*.css')
    ]
    loads += [
        (path, url)
        for path, text in styles
        for url in re.findall(r'url\(\s*["\']?([^"\')]+)|@import\s+["\']([^"\']+)', text)
        for url in url
        if url
    ]
    faults = []
    for path, url in loads:
        parts = urlsplit(url)
        if parts.scheme == 'data' or not parts.path:
            continue
        if parts.scheme or parts.netloc or not (path.parent / unquote(parts.path)).is_file():
            faults.append(f'{path.relative_to(site)}: {url}')
    report(faults)


def test_every_chapter_is_a_page(pages):
    "Each notebook has its page, and the front page leads to all of them"
    want = {f'{p.stem}.html' for p in notebooks()}
    assert want <= pages.keys()
    assert want - {'index.html'} <= {urlsplit(u).path for u in pages['index.html'].links}
    chapters = '\n'.join(c.source for c in read(NBS / 'index.ipynb').cells if c.cell_type == 'markdown')
    report(
        [
            f'{p.stem} is not in the chapter map of nbs/index.ipynb'
            for p in notebooks()
            if p.stem != 'index' and f']({p.name})' not in chapters
        ]
    )


def test_paper_map_leads_to_each_function(pages):
    "Each row of the paper map has a link to the function's card in the right chapter, and one to the chapter"
    cell = next(c for c in read(NBS / '90_paper_map.ipynb').cells if 'ROWS = {' in c.source)
    rows = [row for group in ast.literal_eval(ast.parse(cell.source).body[0].value).values() for row in group]
    links = set(pages['90_paper_map.html'].links)
    report(
        [f'{name}: no link to its card' for *_, name, chapter in rows if f'{chapter}.html#mow_nb.{name}' not in links]
        + [f'{chapter}: no link' for *_, chapter in rows if f'{chapter}.html' not in links]
    )
    assert len(rows) > 40


def test_each_public_name_has_a_card(pages):
    "What a module promises in __all__ and can be called is explained on a page"
    ids = {i for page in pages.values() for i in page.ids}
    promised = [
        f'{dotted_name(path)}.{name}' for path in MODULES for name, _ in public_functions(ast.parse(path.read_text()))
    ]
    assert len(promised) > 400
    faults = [name for name in promised if f'mow_nb.{name}' not in ids]
    report(faults)


# ---- in a browser


CUT = """[...document.querySelectorAll('div.cell_input pre')]
    .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth).map(e => e.innerText.slice(0, 60))"""


@pytest.mark.parametrize('shape', [DESK, PHONE], ids=['desk', 'phone'])
def test_pages_in_a_browser(site, visit, shape, request):
    "The front page, the paper map and two chapters with equations and figures, from files, on a laptop and on a phone"
    v, kind = visit(shape), request.node.callspec.id
    for stem in ('index', '90_paper_map', '60_clustering', '31_actor_critic'):
        v.page.goto(f'{site.as_uri()}/{stem}.html')
        v.page.evaluate('document.fonts.ready')
        if stem != 'index':
            v.page.wait_for_function('window.MathJax?.startup?.promise')
            v.page.evaluate('MathJax.startup.promise.then(() => null)')
            formulas, drawn = v.page.evaluate(
                '[".math", "mjx-container svg"].map(s => document.querySelectorAll(s).length)'
            )
            assert drawn >= formulas > 5 and not v.page.locator('mjx-merror').count()
        if stem[:2] in ('31', '60'):
            assert v.page.locator('.cell_output img').count()
        if shape is DESK:
            assert not v.page.evaluate(CUT), f'{stem}: code wider than its column'
        v.shot(f'site-{kind}-{stem}')
        v.is_fine()


@pytest.fixture(scope='module')
def plain(site, tmp_path_factory):
    """The site without equations and icons drawn, which takes long on every page.

    Equations do not make a page wider, and the icons are the same on all pages: four pages are tested with both.
    """
    copy = tmp_path_factory.mktemp('plain')
    for folder in ('', '_static', '_static/scripts'):
        (copy / folder).mkdir(exist_ok=True)
        for path in (site / folder).iterdir():
            if path.name not in ('_static', 'scripts', 'tex-svg.js', 'fontawesome.js'):
                (copy / folder / path.name).symlink_to(path)
    for name in ('tex-svg.js', 'scripts/fontawesome.js'):
        (copy / '_static' / name).write_text('')
    return copy


def test_every_page_fits_a_phone(plain, visit):
    "No page of the book scrolls sideways on a phone, asks the network, or complains; some are looked at by axe-core"
    v = visit(PHONE)
    for path in sorted(plain.glob('*.html')):
        v.page.goto(path.as_uri())
        v.is_fine()
        if path.stem in ('index', '64_interrupt', '90_paper_map'):
            if path.stem == '90_paper_map':
                v.page.evaluate("document.documentElement.dataset.theme = 'dark'")
            v.is_accessible()


def test_search(site, visit):
    """Search works from files: a function is found and explained, its link leads to its card.

    From the card one gets to the cell that made it, though it is folded, and to the notebook.
    """
    v = visit()
    v.page.goto(f'{site.as_uri()}/index.html')
    v.page.keyboard.press('Control+k')
    v.page.keyboard.type('lambda_return')
    v.page.keyboard.press('Enter')
    found = v.page.locator('#search-results li a', has_text='lambda_return').first
    found.wait_for()
    told = v.page.locator('#search-results li', has_text='lambda_return').first.locator('p.context')
    assert 'weighted mean of all n-step returns' in told.inner_text()
    v.shot('site-search')
    found.click()
    v.page.wait_for_url('**/31_actor_critic.html*')
    card = v.page.locator('dl.py', has=v.page.locator('[id="mow_nb.agent.actor_critic.lambda_return"]')).last
    assert card.is_visible() and card.locator('table.api').is_visible()
    assert 'value\tTensor\t(..., H+1)' in card.locator('table.api').inner_text()
    notebook = card.get_by_role('link', name='notebook').get_attribute('href')
    assert (site / notebook).read_bytes() == (NBS / '31_actor_critic.ipynb').read_bytes()
    card.get_by_role('link', name='source').click()
    v.page.wait_for_url('**#cell-*')
    cell = v.page.locator(f"#{urlsplit(v.page.url).fragment}")
    assert cell.is_visible() and 'def lambda_return' in cell.inner_text()
    v.is_fine()
