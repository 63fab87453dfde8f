// The page's side of the game: pictures, curves, buttons and keys. The kernel's side is `Play` in mow_nb/view/explorer.py.
// At any time at most one request is under way: the next step is asked for when the answer to the last one is here.

const CURVES_MS = 200 // time between two drawings of the curves
const REPEAT_MS = 300 // a key that is held this long repeats, while the clock is stopped
const TOOL_KEYS = { p: 'run', P: 'run', Enter: 'step', Backspace: 'undo', Home: 'reset' }
const KEY_NAMES = {
  ArrowUp: '↑', ArrowDown: '↓', ArrowLeft: '←', ArrowRight: '→', ' ': 'Space', Enter: 'Enter', Backspace: '⌫',
}

function legend(keys) {
  return keys.map((key) => make('kbd', {}, KEY_NAMES[key] ?? (key.length === 1 ? key.toUpperCase() : key)))
}

function menu(label, options, change) {
  const select = make('select', { onchange: () => change(select.value) })
  select.append(...options.map(([value, words]) => make('option', { value }, words)))
  return [make('label', {}, label + ' ', select), select]
}

// ---- pictures and curves

function paint(canvas, bytes, size) {
  const rgb = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const image = new ImageData(size, size)
  for (let i = 0, j = 0; i < rgb.length; i += 3, j += 4) {
    image.data.set([rgb[i], rgb[i + 1], rgb[i + 2], 255], j)
  }
  canvas.width = canvas.height = size
  canvas.getContext('2d').putImageData(image, 0, 0)
}

function panel(pen, box, title, lines, span) {
  const [x0, y0, width, height] = box
  const known = lines.flatMap((line) => line.values).filter((v) => v !== null)
  let [low, high] = span ?? [Math.min(0, ...known), Math.max(0, ...known)]
  if (high - low < 1e-6) high = low + 1
  const steps = Math.max(lines[0].values.length, 12)
  const x = (i) => x0 + 44 + ((width - 52) * i) / (steps - 1)
  const y = (v) => y0 + 24 + (height - 32) * (1 - (v - low) / (high - low))
  pen.fillStyle = pen.ink
  pen.font = 'bold 12px sans-serif'
  pen.textAlign = 'left'
  pen.fillText(title, x0, y0 + 12)
  pen.font = '11px sans-serif'
  pen.textAlign = 'right'
  for (const v of [low, high]) {
    pen.fillText(v.toPrecision(Math.abs(v) < 1 && v ? 2 : 3).replace(/\.?0+$/, ''), x0 + 38, y(v) + 4)
    pen.fillRect(x0 + 42, y(v), width - 48, 0.3)
  }
  for (const { values, color, dots } of lines) {
    pen.strokeStyle = pen.fillStyle = color
    pen.lineWidth = 2
    pen.beginPath()
    values.forEach((v, i) => {
      if (v === null) return
      if (dots) pen.fillRect(x(i) - 1.5, y(v) - 1.5, 3, 3)
      else pen.lineTo(x(i), y(v))
    })
    pen.stroke()
  }
}

function plot(canvas, told, color) {
  const { clientWidth: width, clientHeight: height } = canvas
  if (!width) return
  const scale = window.devicePixelRatio || 1
  canvas.width = width * scale
  canvas.height = height * scale
  const pen = canvas.getContext('2d')
  pen.scale(scale, scale)
  pen.ink = getComputedStyle(canvas).color
  const sum = (name) => {
    let total = 0
    return told.map((m) => (m[name] === null ? null : (total += m[name])))
  }
  const pays = [{ values: sum('rew_hat'), color }, { values: sum('rew'), color: pen.ink, dots: true }]
  const goes = [{ values: told.map((m) => m.cont_hat), color }]
  panel(pen, [0, 0, width, height / 2 - 6], 'Reward so far: dream —, real ■', pays)
  panel(pen, [0, height / 2 + 6, width, height / 2 - 6], 'The dream believes that it goes on', goes, [0, 1])
}

// ---- the pad for motors: a stick that springs back, and a slider for each motor beyond the second

function pad(motors, onmove) {
  const values = new Array(motors).fill(0)
  const knob = make('div', { class: 'mow-knob' })
  const plate = make('div', { class: 'mow-pad', 'aria-hidden': 'true' }, knob)
  let down = false
  const put = (x, y) => {
    ;[values[0], values[1]] = [x, y]
    knob.style.left = `${50 + 40 * x}%`
    knob.style.top = `${50 - 40 * (y ?? 0)}%`
  }
  const follow = (event) => {
    if (!down) return
    const box = plate.getBoundingClientRect()
    const clip = (v) => Math.max(-1, Math.min(1, Math.round(20 * v) / 20))
    put(clip((2 * (event.clientX - box.left)) / box.width - 1), clip(1 - (2 * (event.clientY - box.top)) / box.height))
  }
  plate.addEventListener('pointerdown', (event) => {
    event.preventDefault()
    plate.setPointerCapture(event.pointerId)
    down = true
    follow(event)
    onmove()
  })
  plate.addEventListener('pointermove', follow)
  const release = () => {
    down = false
    put(0, 0)
  }
  plate.addEventListener('pointerup', release)
  plate.addEventListener('pointercancel', release)
  const sliders = values.slice(2).map((_, i) => {
    const slider = make('input', { type: 'range', min: -1, max: 1, step: 0.05, value: 0 })
    slider.addEventListener('input', () => (values[i + 2] = +slider.value))
    return make('label', {}, `Motor ${i + 3} `, slider)
  })
  const node = make('div', { class: 'mow-row' }, plate, make('div', {}, ...sliders))
  return { node, held: () => down, values: () => values.slice(0, motors) }
}

// ---- the game

function render({ model, el }) {
  const dream = make('canvas', { role: 'img', 'aria-label': 'The dream' })
  const real = make('canvas', { role: 'img', 'aria-label': 'The real game' })
  const curves = make('canvas', { class: 'mow-curves', role: 'img', 'aria-label': 'Rewards, and whether it goes on' })
  const hint = make('p', { class: 'mow-hint' })
  const words = make('p', { class: 'mow-words' })
  const moves = make('div', { class: 'mow-row mow-moves' })
  const titleReal = make('figcaption', {}, 'Real game')
  const stage = make(
    'div',
    { class: 'mow-stage', tabindex: 0, role: 'application', 'aria-label': 'The game: play with the keys shown below' },
    make('figure', {}, make('figcaption', {}, 'Dream'), dream),
    make('figure', {}, titleReal, real),
  )
  let game = { moves: [], motors: 0 } // what is being played, as the kernel says
  let told = [] // numbers of each step
  let stick = null
  let running = false // does the clock go by itself?
  let waiting = false // for an answer
  let due = 0 // when the next step of the clock, or of a key that is held, is to be asked for
  let timer = null
  let drawn = 0 // when the curves were drawn last
  let later = null
  const held = new Map() // key -> since when
  const tapped = new Set() // keys that went down since the last step
  const queue = [] // what is to be asked for next, one for each press

  const period = () => 1000 / +rate.value
  const playable = (key) =>
    game.moves.some((m) => m.keys.includes(key)) || game.motorKeys?.some((pair) => pair.includes(key))

  function move() {
    const down = new Set([...held.keys(), ...tapped])
    tapped.clear()
    if (game.motors) {
      const values = stick.values()
      game.motorKeys.forEach(([less, more], i) => {
        if (down.has(less) || down.has(more)) values[i] = down.has(more) - down.has(less)
      })
      return { motors: values }
    }
    // the move of which all keys are down and which has the most of them
    let best = null
    game.moves.forEach((m, i) => {
      if (m.keys.every((key) => down.has(key)) && (best === null || m.keys.length > game.moves[best].keys.length)) best = i
    })
    return { move: best ?? 0 }
  }

  function ask(message) {
    if (queue.length < 60) queue.push(message)
    next()
  }
  const step = (what) => ask({ do: 'press', agent: agent.value, ...what })

  function tick() {
    // a step that comes late does not make the later ones late
    due = Math.max(due, performance.now() - period()) + period()
    step(move())
  }

  function next() {
    // what comes after an answer: a press that waits, the clock, a key or the pad that is still held
    if (waiting) return
    clearTimeout(timer)
    if (queue.length) {
      waiting = true
      return model.send(queue.shift())
    }
    if (running && !stage.offsetParent) toggle(false)
    const now = performance.now()
    const since = Math.min(...held.values())
    const repeats = running || stick?.held() || now - since >= REPEAT_MS
    if (repeats) timer = setTimeout(tick, Math.max(0, due - now))
    else if (held.size) timer = setTimeout(next, since + REPEAT_MS - now)
  }

  function toggle(on) {
    running = on
    tools.run.textContent = on ? 'Pause' : 'Run'
    tools.run.append(' ', ...legend(['p']))
    tools.run.setAttribute('aria-pressed', on)
    next()
  }

  const acts = {
    run: () => toggle(!running),
    step: () => step(move()),
    undo: () => back('undo'),
    reset: () => back('reset'),
  }
  function back(what) {
    toggle(false)
    queue.length = 0
    ask({ do: what })
  }

  function button(text, keys, go, attrs = {}) {
    const node = make('button', { type: 'button', onclick: go, ...attrs }, text)
    if (keys.length) node.append(' ', ...legend(keys))
    return node
  }

  const [taskBox, task] = menu('Task to play', [], () => begin())
  const [startBox, start] = menu('Start of play', [], () => begin())
  const players = [['nobody', 'nothing'], ['dream', 'the dream'], ['real', 'the real game'], ['both', 'both']]
  const [agentBox, agent] = menu('The agent plays', players, () => stage.focus())
  const rates = [5, 10, 15, 30].map((n) => [n, `${n}`])
  const [rateBox, rate] = menu('Steps per second', rates, () => stage.focus())
  rate.value = 15
  const tools = {
    run: button('Run', ['p'], acts.run, { 'aria-pressed': false }),
    step: button('Step', ['Enter'], acts.step),
    undo: button('Undo', ['Backspace'], acts.undo),
    reset: button('Reset', ['Home'], acts.reset),
    film: button('Save as GIF', [], () => ask({ do: 'film' })),
  }
  function begin() {
    toggle(false)
    queue.length = 0
    ask({ do: 'begin', task: task.value, start: +start.value })
    words.textContent = 'The agent plays up to the start ...'
    stage.focus()
  }

  // keys are the game's only while it has the focus; none of them reaches the notebook then
  const root = make('div', { class: 'mow-game', 'data-lm-suppress-shortcuts': 'true' })
  root.addEventListener('keydown', (event) => {
    event.stopPropagation()
    const inside = event.target === stage
    if (!inside || event.ctrlKey || event.metaKey || event.altKey || event.key === 'Tab') return
    event.preventDefault()
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key
    if (playable(key)) {
      if (event.repeat || held.has(key)) return
      held.set(key, performance.now())
      tapped.add(key)
      if (!running) acts.step()
    } else if (event.key in TOOL_KEYS) {
      acts[TOOL_KEYS[event.key]]()
    } else if (event.key === 'Escape') stage.blur()
  })
  root.addEventListener('keyup', (event) => {
    event.stopPropagation()
    held.delete(event.key.length === 1 ? event.key.toLowerCase() : event.key)
  })
  // a mouse on a button leaves the keys with the game
  root.addEventListener('mousedown', (event) => {
    if (event.target.closest('button')) {
      event.preventDefault()
      stage.focus({ preventScroll: true })
    }
  })
  const say = () => {
    const mine = document.activeElement === stage
    hint.textContent = mine ? 'The keys play. Esc or a click elsewhere gives them back.' : 'Click on a picture to play with the keys.'
  }
  stage.addEventListener('focus', say)
  stage.addEventListener('blur', () => {
    held.clear()
    say()
  })

  function setUp() {
    game = model.get('game')
    const options = (select, values, chosen) => {
      select.replaceChildren(...values.map(([value, text]) => make('option', { value }, text)))
      select.value = chosen
    }
    root.style.display = game.tasks ? '' : 'none'
    if (!game.tasks) return
    root.style.setProperty('--mow-task', game.color)
    options(task, game.tasks.map((name) => [name, name]), game.task)
    options(start, [...Array(game.starts).keys()].map((i) => [i, i + 1]), game.start)
    stick = game.motors ? pad(game.motors, () => step(move())) : null
    const named = (pair, i) => make('span', {}, ...legend(pair), ` motor ${i + 1}`)
    moves.replaceChildren(
      ...(stick ? [stick.node, make('div', { class: 'mow-motors' }, ...game.motorKeys.map(named))] : []),
      ...game.moves.map((m, i) => button(m.name, m.keys, () => step({ move: i }), { class: 'mow-move' })),
    )
  }

  function answer(message, buffers) {
    waiting = false
    if (message.is === 'film') {
      const address = URL.createObjectURL(new Blob([buffers[0]], { type: 'image/gif' }))
      make('a', { href: address, download: message.name }).click()
      setTimeout(() => URL.revokeObjectURL(address), 10000)
    } else if (message.is === 'wrong') {
      toggle(false)
      words.textContent = message.words
    } else {
      paint(dream, buffers[0], message.size)
      paint(real, buffers[1], message.size)
      told = message.told ?? [...told, message.last]
      words.textContent = message.words
      root.dataset.steps = told.length
      titleReal.textContent = message.over ? 'Real game, over' : 'Real game'
      clearTimeout(later)
      const draw = () => {
        drawn = performance.now()
        plot(curves, told, game.color)
      }
      later = setTimeout(draw, Math.max(0, drawn + CURVES_MS - performance.now()))
    }
    next()
  }

  root.append(
    make('div', { class: 'mow-row' }, taskBox, startBox, agentBox, rateBox),
    make('div', { class: 'mow-row mow-tools' }, ...Object.values(tools), hint),
    make('div', { class: 'mow-row mow-worlds' }, stage, curves),
    words,
    moves,
  )
  el.append(root)
  const arrive = () => {
    setUp()
    if (game.tasks && !waiting) ask({ do: 'look' })
  }
  say()
  // curves are drawn in the colour of the text and at the size of their canvas, which is none while the page hides it:
  // another theme, another size, another drawing
  const redraw = () => plot(curves, told, game.color)
  const theme = new MutationObserver(() => requestAnimationFrame(redraw))
  theme.observe(document.body, { attributeFilter: ['data-jp-theme-light'] })
  const size = new ResizeObserver(redraw)
  size.observe(curves)
  model.on('change:game', arrive)
  model.on('msg:custom', answer)
  arrive()
  return () => {
    clearTimeout(timer)
    clearTimeout(later)
    theme.disconnect()
    size.disconnect()
    model.off('change:game', arrive)
    model.off('msg:custom', answer)
  }
}

export default { render }
