// Asks for parts of a file, and shows what came.

const FILE = "../downloads/primes.txt", LENGTH = 64
const where = document.querySelector("#where"), shown = document.querySelector("#answer")
let asking = new AbortController(), size

/** Ask for the part that the slider is at, and for no earlier one any more. */
async function look() {
  asking.abort()
  asking = new AbortController()
  try {
    size ??= Number((await fetch(FILE, {method: "HEAD"})).headers.get("Content-Length"))
    const first = Math.round(where.value / where.max * (size - LENGTH))
    const headers = {Range: `bytes=${first}-${first + LENGTH - 1}`}
    const answer = await fetch(FILE, {headers, signal: asking.signal})
    const text = await answer.text()
    const lines = [`Range: ${headers.Range}`, "", `${answer.status} ${answer.statusText}`]
    lines.push(`Content-Range: ${answer.headers.get("Content-Range")}`, "", text.replace(/\n/g, " "))
    shown.textContent = lines.join("\n")
  } catch (error) {
    if (error.name !== "AbortError") shown.textContent = String(error)
  }
}

/** One line for each file of this page that came in another form. */
async function tell(name) {
  const url = new URL(name, location).href
  const coding = (await fetch(url, {method: "HEAD"})).headers.get("Content-Encoding") ?? "as it is"
  const [{encodedBodySize: came, decodedBodySize: has}] = performance.getEntriesByName(url)
  const term = document.createElement("dt"), text = document.createElement("dd")
  term.textContent = name.replace(/.*\//, "")
  text.textContent = `${coding}: ${came.toLocaleString("en")} bytes for ${has.toLocaleString("en")}`
  document.querySelector("#packed").append(term, text)
}

where.addEventListener("input", look)
await look()
await tell("../style.css")
await tell("ranges.js")
