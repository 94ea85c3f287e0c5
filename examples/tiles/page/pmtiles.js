// Reads tiles out of a PMTiles archive (version 3) by HTTP ranges.
// https://github.com/protomaps/PMTiles/blob/main/spec/v3/spec.md

const START = 16384   // bytes: the root directory ends within them
const GZIP = 2

export class Archive {
  /** Open the archive at this URL: one request. `requests` and `bytes` count what has come. */
  static async open(url) {
    const archive = new Archive()
    Object.assign(archive, {url, requests: 0, bytes: 0, leaves: new Map()})
    const start = await archive.part(0, START)
    const view = new DataView(start.buffer)
    const name = new TextDecoder().decode(start.subarray(0, 7))
    if (name !== "PMTiles" || start[7] !== 3) throw new Error("no PMTiles archive, version 3")
    const places = [8, 16, 40, 56].map(at => Number(view.getBigUint64(at, true)))
    const [root, length, leaves, tiles] = places
    Object.assign(archive, {leavesAt: leaves, tilesAt: tiles, compression: start[97]})
    Object.assign(archive, {minZoom: start[100], maxZoom: start[101]})
    archive.root = await archive.directory(start.slice(root, root + length))
    return archive
  }

  /** The bytes of a tile, or undefined where there is none. */
  async tile(zoom, x, y) {
    const id = tileId(zoom, x, y)
    let entries = this.root
    for (let depth = 0; depth < 4; depth++) {
      const entry = find(entries, id)
      if (!entry) return undefined
      if (entry.run) return this.part(this.tilesAt + entry.offset, entry.length)
      if (!this.leaves.has(entry.offset)) this.leaves.set(entry.offset, this.leaf(entry))
      entries = await this.leaves.get(entry.offset)
    }
    throw new Error("directories that are too deep")
  }

  async leaf({offset, length}) {
    return this.directory(await this.part(this.leavesAt + offset, length))
  }

  /** A part of the file; of the same one as before, or an error: the archive may be replaced. */
  async part(offset, length) {
    const headers = {Range: `bytes=${offset}-${offset + length - 1}`}
    if (this.tag && !this.tag.startsWith("W/")) headers["If-Match"] = this.tag
    const answer = await fetch(this.url, {headers})
    if (answer.status !== 206) throw new Error(`${this.url}: ${answer.status}, and no part of it`)
    this.tag ??= answer.headers.get("ETag")
    this.size = Number(answer.headers.get("Content-Range").split("/")[1])
    const data = new Uint8Array(await answer.arrayBuffer())
    this.requests += 1
    this.bytes += data.length
    return data
  }

  /** The entries of a directory: their columns, one after the other. */
  async directory(data) {
    const next = varints(this.compression === GZIP ? await gunzip(data) : data)
    const entries = Array.from({length: next()}, () => ({}))
    let id = 0, end = 0
    for (const each of entries) each.id = id += next()
    for (const each of entries) each.run = next()
    for (const each of entries) each.length = next()
    for (const each of entries) {
      const offset = next()
      each.offset = offset ? offset - 1 : end   // 0: right after the one before
      end = each.offset + each.length
    }
    return entries
  }
}

/** The number of a tile: all of the zooms below, then along Hilbert's curve. */
export function tileId(zoom, x, y) {
  let id = (4 ** zoom - 1) / 3
  const side = 2 ** zoom
  for (let half = side / 2; half >= 1; half /= 2) {
    const right = x & half ? 1 : 0, low = y & half ? 1 : 0
    id += half * half * ((3 * right) ^ low)
    if (!low) {
      if (right) [x, y] = [side - 1 - x, side - 1 - y];
      [x, y] = [y, x]
    }
  }
  return id
}

/** The entry that this tile is in: itself, one of a run, or a leaf directory that may have it. */
function find(entries, id) {
  let low = 0, high = entries.length
  while (low < high) {
    const middle = (low + high) >> 1
    if (entries[middle].id <= id) low = middle + 1
    else high = middle
  }
  const entry = entries[low - 1]
  return entry && (!entry.run || id < entry.id + entry.run) ? entry : undefined
}

/** A function that reads one number after the other: seven bits in each byte, the lowest first. */
function varints(data) {
  let at = 0
  return () => {
    let value = 0, scale = 1, byte
    do {
      byte = data[at++]
      value += (byte & 127) * scale   // not by shifts: a number may have more than 32 bits
      scale *= 128
    } while (byte & 128)
    return value
  }
}

async function gunzip(data) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"))
  return new Uint8Array(await new Response(stream).arrayBuffer())
}
