// Fuzzes Cookie headers in a separate thread, because a test runner tracks every promise.

import assert from 'node:assert/strict'
import { parentPort, workerData } from 'node:worker_threads'
import fc from 'fast-check'
import { runs } from './quick.ts'
import {
  guardPrototypes,
  keysIn,
  NAME,
  openedBy,
  PRE,
  pairsOf,
  rawRequest,
  realRequest,
  type Site,
  startSite,
} from './requests.ts'

const clean = guardPrototypes()

const HEADERS = 34_000
const BATCH = 20
/** Milliseconds that the fastest of `TRIES` tries may take: a try may meet a garbage collection or a busy machine. */
const LIMIT = 50
const TRIES = 50

type Fixture = {
  readonly s: Site
  readonly who: ReadonlyMap<string, string>
  readonly token: string
  readonly form: string
}

const createFixture = async (): Promise<Fixture> => {
  const s = await startSite()
  const who = new Map<string, string>()
  for (const name of ['one', 'two']) who.set(await s.createSession(name), name)
  const { response, form } = await s.send(rawRequest(undefined), 'form')
  const [cookie = ''] = response.headers.getSetCookie()
  return { s, who, token: cookie.slice(cookie.indexOf('=') + 1, cookie.indexOf(';')), form: form as string }
}

const counts = { headers: 0, sessions: 0, preSessions: 0 }

const checkHeader = async ({ s, who, token, form }: Fixture, header: string) => {
  const live = new Set(who.keys())
  const key = openedBy(header, live)
  // Of several pre-sessions, the one that this site sealed counts, at any position.
  const preToken = pairsOf(header).find(([name, value]) => name === PRE && value === token)?.[1]
  counts.headers++
  if (key !== undefined) counts.sessions++
  if (preToken === token) counts.preSessions++
  const visits: [Request | undefined, 'form' | undefined][] = [
    [rawRequest(header), undefined],
    [rawRequest(header), 'form'],
  ]
  // Some headers are sent as a real Request too. The header itself decides, so that a failure can be repeated.
  if (header.length % 4 === 1) visits.push([realRequest(header), 'form'])
  for (const [request, asks] of visits) {
    if (request === undefined) continue
    let took = Number.POSITIVE_INFINITY
    for (let tries = 0; tries < TRIES && took > LIMIT; tries++) {
      s.newEvents()
      const reads = s.total()
      const started = performance.now()
      const seen = await s.send(request, asks)
      took = performance.now() - started
      assert.equal(seen.response.status, 200)
      assert.equal(seen.who, key && who.get(key), 'the session of the only key that is unchanged')
      assert.ok(s.total() - reads <= keysIn(header).length, 'only possible keys are looked up')
      const cookies = seen.response.headers.getSetCookie()
      if (asks === undefined) assert.deepEqual(cookies, [], 'a read sets no cookie')
      else if (key !== undefined) assert.deepEqual(cookies, [], 'a form in a session sets no cookie')
      else {
        assert.equal(seen.form === form, preToken === token, 'a form secret comes only from its own token')
        assert.equal(cookies.length, preToken === token ? 0 : 1)
      }
    }
    assert.ok(took <= LIMIT, `${took} ms, the fastest of ${TRIES} tries`)
  }
}

/** Checks headers in batches, which are faster than single headers and shrink as well. */
const fuzz = (fixture: Fixture, header: fc.Arbitrary<string>) =>
  fc.assert(
    fc.asyncProperty(fc.array(header, { minLength: BATCH, maxLength: BATCH }), async (headers) => {
      for (const one of headers) await checkHeader(fixture, one)
      fixture.s.events.splice(0)
    }),
    { numRuns: runs(HEADERS / BATCH) },
  )

/** Random characters: of all Unicode, of one byte, and of the set that has a meaning in a Cookie header. */
const random = (): fc.Arbitrary<string> => {
  const size = 'max'
  return fc.oneof(
    fc.string({ unit: 'binary', maxLength: 100, size }),
    fc.uint8Array({ maxLength: 200, size }).map((bytes) => Buffer.from(bytes).toString('latin1')),
    fc.string({ unit: fc.constantFrom(...' \t;=,"%\\\r\n\0_-sidHostp'), maxLength: 100, size }),
  )
}

/** Generated cookies with names and values near the real ones. */
const grammar = ({ who, token }: Fixture): fc.Arbitrary<string> => {
  const [one, two] = [...who.keys()] as [string, string]
  const blank = fc.constantFrom('', '', '', ' ', '\t', '  \t ', '\u00a0', '\u0085', '\r', '\n', '\0')
  const name = fc.oneof(
    { weight: 6, arbitrary: fc.constantFrom(NAME, PRE) },
    fc.constantFrom(
      'sid',
      'sid-443',
      '__host-http-sid',
      '__Host-sid',
      'x__Host-Http-sid',
      '__Host-Http-sidx',
      '__proto__',
      'constructor',
      '$Version',
      '',
      '"',
    ),
    fc.string({ maxLength: 8 }),
  )
  const value = fc.oneof(
    { weight: 8, arbitrary: fc.constantFrom(one, two, token) },
    fc.base64String({ maxLength: 60 }),
    fc.stringMatching(/^[A-Za-z0-9_-]{43}$/),
    fc.constantFrom(
      '',
      '"',
      `"${one}"`,
      `${one},`,
      `,${one}`,
      '%41',
      'j:{}',
      's:a.b',
      '='.repeat(50),
      'x'.repeat(5000),
    ),
    fc.string({ maxLength: 60 }),
  )
  const pair = fc
    .tuple(blank, name, blank, fc.constantFrom('=', '=', '=', '=', '', '=='), blank, value, blank)
    .map((parts) => parts.join(''))
  const header = fc
    .array(fc.tuple(pair, fc.constantFrom(';', '; ', ';;', ',', ', ', ' ')), { minLength: 1, maxLength: 8 })
    .map((pairs) => pairs.flat().join(''))
  return header
}

/** Headers of real sessions and of a real pre-session, with up to four mutations. */
const mutated = ({ who, token }: Fixture): fc.Arbitrary<string> => {
  const [one, two] = [...who.keys()] as [string, string]
  const whole = fc.constantFrom(
    `${NAME}=${one}`,
    `a=1; ${NAME}=${one}; b=2`,
    `${PRE}=${token}`,
    `${PRE}=${token}; ${NAME}=${one}`,
    `${NAME}=${one}; ${NAME}=${two}`,
  )
  const odd = fc.constantFrom(...'; =,\t"\0\r\n\\%AZaz09_-\u00e9\u2000\ud800')
  const at = fc.nat({ max: 10_000 })
  type Mutation = (text: string) => string
  const flipped = (text: string, i: number, bit: number) => {
    const codes = Buffer.from(text, 'latin1')
    if (codes.length > 0) codes.writeUInt8(codes.readUInt8(i % codes.length) ^ (1 << bit), i % codes.length)
    return codes.toString('latin1')
  }
  const mutation: fc.Arbitrary<Mutation> = fc.oneof(
    fc.tuple(at, odd).map(
      ([i, c]): Mutation =>
        (t) =>
          t.slice(0, i % (t.length + 1)) + c + t.slice(i % (t.length + 1)),
    ),
    fc.tuple(at, odd).map(
      ([i, c]): Mutation =>
        (t) =>
          t.slice(0, i % (t.length + 1)) + c + t.slice((i % (t.length + 1)) + 1),
    ),
    at.map(
      (i): Mutation =>
        (t) =>
          t.slice(0, i % (t.length + 1)) + t.slice((i % (t.length + 1)) + 1),
    ),
    at.map(
      (i): Mutation =>
        (t) =>
          t.slice(0, i % (t.length + 1)),
    ),
    fc.tuple(at, fc.nat(7)).map(
      ([i, bit]): Mutation =>
        (t) =>
          flipped(t, i, bit),
    ),
    fc.constantFrom<Mutation>(
      (t) => `${t}; ${t}`,
      (t) => `${t}, ${t}`,
      (t) => t.replace(NAME, NAME.toLowerCase()),
      (t) => encodeURIComponent(t.toWellFormed()),
    ),
  )
  const header = fc
    .tuple(whole, fc.array(mutation, { maxLength: 4 }))
    .map(([text, mutations]) => mutations.reduce<string>((mutated, mutate) => mutate(mutated), text))
  return header
}

const generators = { random, grammar, mutated }
export type Generator = keyof typeof generators

const fixture = await createFixture()
const header = generators[workerData as Generator](fixture)
await fuzz(fixture, header)
assert.ok(clean(), 'the prototypes of this thread are unchanged')
parentPort?.postMessage(counts)
