// A map to drag and to zoom: it draws the tiles of an archive on a canvas, as they come.
import {Archive} from "./pmtiles.js"

const TILE = 256, FARTHEST = 7
const canvas = document.querySelector("canvas"), brush = canvas.getContext("2d")
const counts = document.querySelector("#counts"), under = document.querySelector("#under")
const archive = await Archive.open("primes.pmtiles")
const side = TILE * 2 ** archive.maxZoom   // dots of the whole map
const view = {zoom: 0, x: 0, y: 0}         // x to the right and y up, in dots from the middle
const images = new Map()

/** Pixels of the screen for each dot. */
const scale = () => 2 ** (view.zoom - archive.maxZoom)

/** The image of a tile, if it is here; it is asked for otherwise, and drawn when it comes. */
function image(zoom, x, y) {
  const name = `${zoom}/${x}/${y}`
  if (!images.has(name)) {
    images.set(name, null)
    archive.tile(zoom, x, y).then(async data => {
      images.set(name, await createImageBitmap(new Blob([data], {type: "image/png"})))
      draw()
    }).catch(error => { counts.textContent = error.message })
  }
  return images.get(name)
}

function draw() {
  const ratio = devicePixelRatio, width = innerWidth, height = innerHeight
  canvas.width = width * ratio
  canvas.height = height * ratio
  brush.setTransform(ratio, 0, 0, ratio, 0, 0)
  brush.imageSmoothingEnabled = view.zoom < archive.maxZoom
  const zoom = Math.min(Math.max(Math.round(view.zoom), archive.minZoom), archive.maxZoom)
  const size = TILE * 2 ** (view.zoom - zoom), last = 2 ** zoom - 1
  const left = width / 2 - (side / 2 + view.x) * scale()
  const top = height / 2 - (side / 2 - view.y) * scale()
  const limit = index => Math.min(Math.max(Math.floor(index), 0), last)
  let missing = 0
  for (let y = limit(-top / size); y <= limit((height - top) / size); y++) {
    for (let x = limit(-left / size); x <= limit((width - left) / size); x++) {
      const place = [left + x * size, top + y * size, size, size], found = image(zoom, x, y)
      if (found) { brush.drawImage(found, ...place); continue }
      missing += 1
      for (let up = 1; up <= zoom; up++) {   // a part of a larger one, until then
        const larger = images.get(`${zoom - up}/${x >> up}/${y >> up}`)
        if (!larger) continue
        const parts = 2 ** up, part = TILE / parts
        brush.drawImage(larger, x % parts * part, y % parts * part, part, part, ...place)
        break
      }
    }
  }
  const kib = bytes => Math.round(bytes / 1024).toLocaleString("en")
  const parts = archive.requests === 1 ? "1 part" : `${archive.requests} parts`
  counts.textContent = `${parts}, ${kib(archive.bytes)} of ${kib(archive.size)} KiB`
  document.body.dataset.missing = missing
  const {zoom: level, x, y} = view
  history.replaceState(null, "", `#${level.toFixed(2)}/${x.toFixed(1)}/${y.toFixed(1)}`)
}

/** Zoom by so much; what is at this place of the screen stays there. */
function zoom(by, x = innerWidth / 2, y = innerHeight / 2) {
  const before = scale()
  view.zoom = Math.min(Math.max(view.zoom + by, archive.minZoom), FARTHEST)
  const dots = 1 / before - 1 / scale()
  move((x - innerWidth / 2) * dots, (innerHeight / 2 - y) * dots)
}

function move(x, y) {
  view.x = Math.min(Math.max(view.x + x, -side / 2), side / 2)
  view.y = Math.min(Math.max(view.y + y, -side / 2), side / 2)
  draw()
}

/** The number at a dot of Ulam's spiral: ring after ring, right, up, left, down. */
function numberAt(x, y) {
  const ring = Math.max(Math.abs(x), Math.abs(y)), before = (2 * ring - 1) ** 2
  if (!ring) return 1
  if (x === ring && y > -ring) return before + y + ring
  if (y === ring) return before + 3 * ring - x
  if (x === -ring) return before + 5 * ring - y
  return before + 7 * ring + x
}

function isPrime(number) {
  for (let factor = 2; factor * factor <= number; factor++) if (number % factor === 0) return false
  return number > 1
}

/** Say which number this place of the screen is. The 1 is left of the middle: the side is even. */
function tell(x, y) {
  const column = Math.floor(view.x + (x - innerWidth / 2) / scale()) + 1
  const row = Math.ceil(view.y + (innerHeight / 2 - y) / scale())
  const number = numberAt(column, row), is = isPrime(number) ? "is a prime" : "is no prime"
  under.textContent = number > side * side ? "" : `${number.toLocaleString("en")} ${is}`
}

const fingers = new Map()
canvas.addEventListener("pointerdown", event => {
  canvas.setPointerCapture(event.pointerId)
  fingers.set(event.pointerId, event)
})
canvas.addEventListener("pointermove", event => {
  tell(event.clientX, event.clientY)
  const before = fingers.get(event.pointerId)
  if (!before) return
  const other = [...fingers.values()].find(each => each.pointerId !== event.pointerId)
  fingers.set(event.pointerId, event)
  if (other) {
    const {clientX: x, clientY: y} = other
    const distance = each => Math.hypot(each.clientX - x, each.clientY - y) || 1
    zoom(Math.log2(distance(event) / distance(before)), x, y)
  } else {
    const x = before.clientX - event.clientX, y = event.clientY - before.clientY
    move(x / scale(), y / scale())
  }
})
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, event => fingers.delete(event.pointerId))
}
canvas.addEventListener("wheel", event => {
  event.preventDefault()
  zoom(-event.deltaY / 200, event.clientX, event.clientY)
}, {passive: false})
document.querySelector("#in").onclick = () => zoom(1)
document.querySelector("#out").onclick = () => zoom(-1)
addEventListener("keydown", ({key}) => {
  const step = 100 / scale()
  if (key === "ArrowLeft") move(-step, 0)
  if (key === "ArrowRight") move(step, 0)
  if (key === "ArrowUp") move(0, step)
  if (key === "ArrowDown") move(0, -step)
  if (key === "+") zoom(1)
  if (key === "-") zoom(-1)
})
addEventListener("resize", draw)

const asked = location.hash.slice(1).split("/").map(Number)
if (asked.length === 3 && asked.every(Number.isFinite)) [view.zoom, view.x, view.y] = asked
else view.zoom = Math.log2(Math.max(innerWidth, innerHeight) / TILE)
move(0, 0)
