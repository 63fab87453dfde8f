// What the halves of the widgets in the browser share; their sources follow this one.

function make(tag, attrs = {}, ...inside) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attrs)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value)
    else node.setAttribute(name, value)
  }
  node.append(...inside)
  return node
}

