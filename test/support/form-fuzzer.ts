// Sends generated forms in a process of its own: a crash or an unhandled rejection fails the run.
// It prints its seed first and its results as JSON last. Run with --expose-gc. FUZZ_SEED repeats a run, FUZZ_SECONDS sets its length.

import assert from 'node:assert/strict'
import fc from 'fast-check'
import {
  crossOriginProtection,
  csrfToken,
  type FormOptions,
  readForm,
  type StandardSchema,
  sessionManager,
  type UploadedFile,
} from 'keepsake'
import { browser } from 'keepsake/testing'
import { findField } from '../../src/forms/body.ts'
import { MULTIPART, posting, URLENCODED } from './bodies.ts'

const SHORT_RUN = 1_500
const seconds = Number(process.env.FUZZ_SECONDS ?? 0)
const seed = Number(process.env.FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31))
console.log(`seed ${seed}${seconds > 0 ? `, ${seconds} seconds` : ''}`)

/* The application: each path reads forms in a different way. */

const statuses: Record<string, number> = {
  ok: 200,
  expired: 403,
  wrong_session: 403,
  invalid_token: 403,
  missing_token: 403,
  many_tokens: 403,
  wrong_content_type: 415,
  too_large: 413,
  invalid_fields: 422,
}

const schema: StandardSchema = {
  '~standard': {
    version: 1,
    vendor: 'test',
    validate: (value) => ('a' in (value as object) ? { value } : { issues: [{ message: 'a is missing' }] }),
  },
}

const whole = async ({ stream }: UploadedFile) => void (await new Response(stream).arrayBuffer())
const first = async ({ stream }: UploadedFile) => {
  for await (const bytes of stream) return void bytes.fill(0)
}
const ways: Record<string, { readonly options: FormOptions; readonly schema?: StandardSchema }> = {
  '/form': { options: {} },
  '/schema': { options: { csrf: false }, schema },
  '/large': { options: { csrf: false, maxBytes: 2 ** 21, maxFields: 1e6 }, schema },
  '/small': { options: { csrf: false, maxBytes: 300, maxFields: 3 } },
  '/upload': { options: { upload: whole } },
  '/glance': { options: { csrf: false, upload: first, maxFileBytes: 500 } },
  '/ignored': { options: { csrf: false, upload: () => {}, maxBytes: 300 } },
}

const page = sessionManager({ backend: 'memory:' })(
  crossOriginProtection(async (request) => {
    if (request.method === 'GET') return new Response(await csrfToken(request, { validFor: 86_400 }))
    const way = ways[new URL(request.url).pathname]
    if (way === undefined) return new Response('', { headers: { outcome: 'not read' } })
    const form = await readForm(request, way.schema as undefined, way.options)
    const outcome = form.ok ? 'ok' : form.error
    return new Response('', { status: form.ok ? 200 : form.status, headers: { outcome } })
  }),
)
const visit = browser(page)
const token = await (await visit('/')).text()

/* The requests. */

const disposition = 'Content-Disposition: form-data; name='
const boundaries = [
  'b',
  '',
  'x'.repeat(70),
  'aaaaaaaa',
  '--',
  '----WebKitFormBoundary7MA4YWxkTrZu0gW',
  '\r',
  'y'.repeat(300),
]
const lines = [
  `${disposition}"_csrf"`,
  `${disposition}"a"`,
  `${disposition}"a"; filename="f"`,
  `${disposition}"a"; filename=""`,
  `${disposition}a`,
  `${disposition}`,
  'Content-Disposition: form-data',
  'Content-Disposition: form-data; filename="f"',
  'Content-Disposition: form-data; name',
  "Content-Disposition: form-data; name*=utf-8''%e2%82%ac",
  "Content-Disposition: form-data; name*=utf-16le'x'%00; filename*=x'%",
  'Content-Disposition: form-data; name="\\"; name="b',
  'Content-Disposition: attachment',
  'Content-Disposition:',
  'Content-Type: application/octet-stream',
  'Content-Type: text/plain; charset=utf-16le',
  'Content-Type: ;;charset',
  'Content-Transfer-Encoding: base64',
  ' folded',
  ':',
  '__proto__: x',
  `X: ${'y'.repeat(17_000)}`,
  '',
  '\0',
]
const fragments = [
  '\r\n',
  '\r',
  '--',
  '\r\n--b',
  '--b--',
  '"',
  ';',
  '=',
  '&',
  '%',
  '%f',
  '+',
  '\0',
  '\xff',
  '_csrf',
  token,
]

const words = (units: readonly string[], maxLength: number) =>
  fc.array(fc.constantFrom(...units), { maxLength }).map((parts) => parts.join(''))
const text = fc.oneof(fc.string({ unit: 'binary', maxLength: 80 }), words([...'ab&=+%4fF;?\r\n-', token], 40))
const repeated = fc.tuple(text, fc.integer({ min: 1, max: 300 })).map(([what, times]) => what.repeat(times))
const values = fc.oneof(text, repeated, fc.constantFrom(token, '', ...fragments))

const part = fc
  .tuple(fc.array(fc.constantFrom(...lines), { maxLength: 4 }), values)
  .map(([headers, value]) => `${headers.map((line) => `${line}\r\n`).join('')}\r\n${value}`)
const multipart = (boundary: string) =>
  fc
    .tuple(values, fc.array(part, { maxLength: 6 }), fc.constantFrom('--\r\n', '--', '\r\n', '', '--x', '--\r\n--'))
    .map(([before, parts, end]) => `${[before, ...parts].join(`\r\n--${boundary}\r\n`)}\r\n--${boundary}${end}`)

const good = {
  bare: 'a=1&b=2',
  twice: `_csrf=${token}&a=1&_csrf=${token}`,
  urlencoded: `_csrf=${token}&a=1&b=%C3%A4+x&a=2`,
  multipart: `--b\r\n${disposition}"_csrf"\r\n\r\n${token}\r\n--b\r\n${disposition}"a"\r\n\r\n1\r\n--b\r\n${disposition}"f"; filename="x.txt"\r\nContent-Type: text/plain\r\n\r\n${'words '.repeat(200)}\r\n--b--\r\n`,
}
type Edit = { readonly at: number; readonly length: number; readonly insert: string; readonly again: boolean }
const edit: fc.Arbitrary<Edit> = fc.record({
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  length: fc.constantFrom(0, 0, 1, 2, 40, 5_000),
  insert: fc.oneof(fc.constant(''), fc.constantFrom(...fragments, ...lines)),
  again: fc.boolean(),
})
/** Removes or doubles a part of a body, and inserts another text. */
const edited = (body: string, edits: readonly Edit[]): string =>
  edits.reduce((now, { at, length, insert, again }) => {
    const from = Math.floor(at * now.length)
    return (
      now.slice(0, from) +
      (again ? now.slice(from, from + length) : '') +
      insert +
      now.slice(again ? from : from + length)
    )
  }, body)

const types = [
  URLENCODED,
  `${URLENCODED};charset=utf-16`,
  MULTIPART,
  'multipart/form-data; boundary="b"',
  'MULTIPART/FORM-DATA; x=y;boundary=b; boundary=c',
  'multipart/form-data',
  'multipart/form-data; boundary',
  'multipart/form-data; boundary=',
  "multipart/form-data; boundary*=utf-8''b",
  'multipart/mixed; boundary=b',
  'application/json',
  '',
]
const edits = fc.array(edit, { maxLength: 3 })
const anyBody = fc.oneof(
  { weight: 1, arbitrary: edits.map((some) => [URLENCODED, edited(good.bare, some)] as const) },
  { weight: 2, arbitrary: edits.map((some) => [URLENCODED, edited(good.twice, some)] as const) },
  {
    weight: 3,
    arbitrary: edits.map((some) => [URLENCODED, edited(good.urlencoded, some)] as const),
  },
  {
    weight: 6,
    arbitrary: edits.map((some) => [MULTIPART, edited(good.multipart, some)] as const),
  },
  { weight: 2, arbitrary: values.map((body) => [URLENCODED, body] as const) },
  {
    weight: 6,
    arbitrary: fc
      .constantFrom(...boundaries)
      .chain((b) =>
        multipart(b).map((body) => [`multipart/form-data; boundary="${b.replace('\r', '')}"`, body] as const),
      ),
  },
  { weight: 2, arbitrary: fc.tuple(fc.constantFrom(...types), fc.oneof(values, multipart('b'))) },
  { weight: 1, arbitrary: fc.tuple(fc.constantFrom(...types), fc.json()) },
)

const aCase = fc.record({
  path: fc.constantFrom(...Object.keys(ways), '/other'),
  body: anyBody,
  sizes: fc.oneof(
    fc.constantFrom([1], [100_000], [1_023, 1], [16_384], [0, 5]),
    fc.array(fc.integer({ min: 1, max: 3_000 }), { minLength: 1, maxLength: 4 }),
  ),
  /** The number of pieces after which the connection breaks off. */
  lost: fc.option(fc.nat({ max: 20 }), { freq: 8 }),
  headers: fc.record(
    {
      'sec-fetch-site': fc.constantFrom('same-origin', 'same-origin', 'same-origin', 'none', 'cross-site', '?'),
      origin: fc.constantFrom('https://app.test', 'https://app.test', 'null', 'https://evil.test', ''),
      'x-csrf-token': fc.constantFrom(token, 'x', ''),
      'content-length': fc.constantFrom('0', '5', '2000000', '-1', 'x', '9e99'),
    },
    { requiredKeys: [] },
  ),
})
type Case = typeof aCase extends fc.Arbitrary<infer C> ? C : never

/* Large bodies, each with `n` bytes of one kind of work. */

const filled = (n: number, make: (i: number) => string): string => {
  const made: string[] = []
  for (let i = 0, length = 0; length < n; i++) {
    const next = make(i)
    made.push(next)
    length += next.length
  }
  return made.join('').slice(0, n)
}
const inParts = (n: number, headers: (i: number) => string, value = ''): string =>
  `${filled(n, (i) => `--b\r\n${headers(i)}\r\n\r\n${value}\r\n`)}\r\n--b--`
const inField = (n: number, value: string) => `--b\r\n${disposition}"a"\r\n\r\n${filled(n, () => value)}\r\n--b--`
const shapes: Record<string, (n: number) => readonly [type: string, body: string]> = {
  'pairs without =': (n) => [URLENCODED, filled(n, () => 'a&')],
  'pairs of one name': (n) => [URLENCODED, filled(n, () => 'a=1&')],
  'pairs of other names': (n) => [URLENCODED, filled(n, (i) => `${i}=&`)],
  'names with a long beginning': (n) => [URLENCODED, filled(n, (i) => `${'a'.repeat(900)}${i}&`)],
  'nothing between &': (n) => [URLENCODED, filled(n, () => '&')],
  escapes: (n) => [URLENCODED, filled(n, () => '%41')],
  'escapes of no digits': (n) => [URLENCODED, filled(n, () => '%')],
  'one long value': (n) => [URLENCODED, filled(n, () => '=+é')],
  'fields of other names': (n) => [MULTIPART, inParts(n, (i) => `${disposition}"${i}"`)],
  'fields of one name': (n) => [MULTIPART, inParts(n, () => `${disposition}"a"`)],
  'empty files': (n) => [MULTIPART, inParts(n, () => `${disposition}"a"; filename="f"`)],
  'parts that are no fields': (n) => [MULTIPART, inParts(n, () => 'X: y', 'x'.repeat(20))],
  'parts of nothing': (n) => [MULTIPART, filled(n, () => '\r\n--b')],
  'almost boundaries': (n) => [MULTIPART, inField(n, '\r\n--')],
  'almost a long boundary': (n) => [
    `multipart/form-data; boundary=${'a'.repeat(69)}b`,
    `--${'a'.repeat(69)}b\r\n${disposition}"a"\r\n\r\n${filled(n, () => `\r\n--${'a'.repeat(69)}`)}`,
  ],
  'line ends': (n) => [MULTIPART, inField(n, '\r\n')],
  'headers of parameters': (n) => [MULTIPART, inParts(n, () => `${disposition}"a"${'; x=y'.repeat(3_000)}`)],
  'headers of escapes': (n) => [MULTIPART, inParts(n, () => `${disposition}"a"${"; x*=utf-8'y'%41".repeat(900)}`)],
  'headers of quotes': (n) => [MULTIPART, inParts(n, () => `${disposition}"${'\\"'.repeat(8_000)}"`)],
  'headers of lines': (n) => [MULTIPART, inParts(n, () => `${disposition}"a"${'\r\nx:y'.repeat(3_000)}`)],
  'headers that are folded': (n) => [MULTIPART, inParts(n, () => `${disposition}"a"${'\r\n x'.repeat(3_000)}`)],
  'headers without an end': (n) => [MULTIPART, filled(n, () => `--b\r\n${'x'.repeat(10_000)}\r\n`)],
}

/* Sends requests and measures them. */

const turn = () => new Promise<void>((resolve) => setImmediate(resolve))
const cpu = (): number => {
  const { user, system } = process.threadCpuUsage?.() ?? process.cpuUsage()
  return (user + system) / 1_000
}

/** More rounds of the event loop than any request needs. Work that is not done by then never ends. */
const ENOUGH = 50_000
/** The result, and the most milliseconds of work between two rounds of the event loop. */
const watched = async <T>(what: string, work: () => Promise<T>): Promise<{ result: T; stall: number }> => {
  let over = false
  let stall = 0
  let last = cpu()
  const settle = () => {
    over = true
  }
  const going = work()
  going.then(settle, settle)
  for (let turns = 0; !over; turns++) {
    await turn()
    const now = cpu()
    stall = Math.max(stall, now - last)
    last = now
    assert.ok(turns < ENOUGH, `${what} is not over after ${ENOUGH} turns of the event loop`)
  }
  return { result: await going, stall }
}

const bodyOf = ({ body: [, text_], sizes, lost }: Case) => {
  const bytes = Buffer.from(text_, 'latin1')
  const { promise: over, resolve: end } = Promise.withResolvers<void>()
  let at = 0
  let piece = 0
  const stream = new ReadableStream<Uint8Array>({
    pull: (controller) => {
      if (piece === lost) {
        end()
        return controller.error(new Error('connection reset'))
      }
      if (at >= bytes.length) {
        end()
        return controller.close()
      }
      const size = sizes[piece++ % sizes.length] as number
      controller.enqueue(new Uint8Array(bytes.subarray(at, at + size)))
      at += size
    },
    cancel: end,
  })
  return { stream, over }
}

const outcomes: Record<string, number> = {}
const one = async (sent: Case): Promise<number> => {
  const { stream, over } = bodyOf(sent)
  const headers = { ...sent.headers, 'content-type': sent.body[0] }
  const send = async () => {
    const response = await visit(sent.path, { method: 'POST', body: stream, headers, duplex: 'half' } as RequestInit)
    // The body of a request that is passed on and not read belongs to its handler.
    if (response.headers.get('outcome') !== 'not read') await over
    return response
  }
  const { result: response, stall } = await watched('a request', send)
  const outcome = response.headers.get('outcome') ?? 'cross_origin'
  outcomes[outcome] = (outcomes[outcome] ?? 0) + 1
  const status = outcome === 'not read' ? 200 : outcome === 'cross_origin' ? 403 : statuses[outcome]
  assert.ok(status !== undefined, `no such outcome: ${outcome}`)
  assert.equal(response.status, status, outcome)
  const free = ways[sent.path]?.options.csrf === false
  const shown = sent.body[1].includes(token) || sent.headers['x-csrf-token'] === token
  if (outcome === 'ok' && !free) assert.ok(shown, 'a form without its token was accepted')
  await watched('a search for a field', () => findField(posting(bodyOf(sent).stream, sent.body[0]), 'a'))
  return stall
}

const collect = globalThis.gc as () => void
/** Megabytes in use after garbage collection, also after finalizers. */
const held = async (): Promise<number> => {
  for (let time = 0; time < 4; time++) {
    collect()
    await turn()
  }
  const { heapUsed, external } = process.memoryUsage()
  return (heapUsed + external) / 1e6
}

const started = performance.now()
const sofar = () => (performance.now() - started) / 1_000
let cases = 0
let longest = { stall: 0, what: '' }
const note = (stall: number, what: string) => {
  // The first request of a kind compiles and loads code, so it does not count.
  if (cases > 1_000 && stall > longest.stall) longest = { stall, what }
}
const heap: number[] = []
const wanted = () => (seconds > 0 ? sofar() < seconds : cases < SHORT_RUN)

/** Reads a large body with the limits of a path. */
const large = async (name: string, bytes: number, path: string): Promise<{ stall: number; work: number }> => {
  const [type, text_] = (shapes[name] as (n: number) => readonly [string, string])(bytes)
  const body = Buffer.from(text_)
  const headers = { 'content-type': type, 'sec-fetch-site': 'same-origin' }
  const before = cpu()
  const { result, stall } = await watched(name, () => visit(path, { method: 'POST', body, headers }))
  assert.ok(result.status < 500)
  return { stall, work: cpu() - before }
}

let batch = 0
while (wanted()) {
  const batchSeed = (seed + batch++) | 0
  for (const sent of fc.sample(aCase, { numRuns: 100, seed: batchSeed })) {
    try {
      note(await one(sent), JSON.stringify(sent.body).slice(0, 200))
    } catch (error) {
      console.log(`FUZZ_SEED=${batchSeed} fails: ${JSON.stringify(sent)}`)
      throw error
    }
    cases++
  }
  const name = Object.keys(shapes)[batch % Object.keys(shapes).length] as string
  note((await large(name, 2 ** 20 - 500, '/schema')).stall, name)
  if (batch % 100 === 0) {
    heap.push(await held())
    if (seconds > 0 && batch % 500 === 0) {
      console.log(
        `${sofar().toFixed(0)} s: ${cases} cases, ${heap.at(-1)?.toFixed(1)} MB, ${longest.stall.toFixed(1)} ms`,
      )
    }
  }
}

/* The same bytes need about the same work in bodies of 1 MiB as in bodies of an eighth of that. */
const ratios: Record<string, number> = {}
for (const name of Object.keys(shapes)) {
  await large(name, 2 ** 17, '/large')
  // Times below the resolution of the clock count as nothing.
  let [small, great] = [20, 20]
  for (let time = 0; time < 8; time++) small += (await large(name, 2 ** 17, '/large')).work
  great += (await large(name, 2 ** 20, '/large')).work
  ratios[name] = great / small
}

console.log(JSON.stringify({ cases, outcomes, longest, heap, ratios }))
