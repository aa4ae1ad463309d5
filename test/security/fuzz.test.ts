// A hundred thousand random Cookie headers: none throws, gives a 5xx, takes long, or opens a session without its key.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { keyRing } from '../../src/crypto/seal.ts'
import type { Generator } from '../support/cookie-fuzzer.ts'
import { runs } from '../support/quick.ts'
import { PRE, rawRequest, SECRET, startSite } from '../support/requests.ts'

/** The number of headers that a generator sent, and of those that opened a session or had a pre-session. */
type Counts = { readonly headers: number; readonly sessions: number; readonly preSessions: number }

const fuzz = (generator: Generator) =>
  new Promise<Counts>((resolve, reject) => {
    const worker = new Worker(new URL('../support/cookie-fuzzer.ts', import.meta.url), { workerData: generator })
    worker.once('message', resolve).once('error', reject)
    worker.once('exit', (code) => reject(new Error(`ended with ${code}`)))
  })

/** Checks that a generator made enough headers with sessions and pre-sessions. */
const assertEnough = ({ headers, sessions, preSessions }: Counts) =>
  assert.ok(
    headers >= runs(33_000) && sessions > runs(300) && preSessions > runs(100),
    `${headers} ${sessions} ${preSessions}`,
  )

suite('a hundred thousand headers', { concurrency: 2 }, () => {
  test('CP-5: random characters and bytes in the Cookie header give an anonymous request', async () => {
    assert.ok((await fuzz('random')).headers >= runs(33_000))
  })

  test('CP-5: generated cookies with names and values near the real ones give an anonymous request or a session', async () => {
    assertEnough(await fuzz('grammar'))
  })

  test('CP-5: mutated headers of a real session and a real pre-session give an anonymous request or a session', async () => {
    assertEnough(await fuzz('mutated'))
  })
})

test('ENC-2: every flipped bit and every truncation of a pre-session is refused', async () => {
  const s = await startSite()
  const first = await s.send(rawRequest(undefined), 'form')
  const [cookie = ''] = first.response.headers.getSetCookie()
  const { form } = first
  const token = cookie.slice(cookie.indexOf('=') + 1, cookie.indexOf(';'))
  const opens = async (text: string) => {
    const seen = await s.send(rawRequest(`${PRE}=${text}`), 'form')
    assert.equal(seen.response.status, 200)
    return seen.form === form
  }
  assert.ok(await opens(token))
  const bytes = Buffer.from(token, 'base64url')
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const flipped = Buffer.from(bytes)
    flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
    assert.equal(await opens(flipped.toString('base64url')), false, `bit ${bit}`)
  }
  for (let length = 0; length < token.length; length++) {
    assert.equal(await opens(token.slice(0, length)), false, `${length} characters`)
    assert.equal(await opens(token.slice(length + 1)), false, `without the first ${length + 1}`)
  }
  for (let length = 0; length < bytes.length; length++) {
    assert.equal(await opens(bytes.subarray(0, length).toString('base64url')), false, `${length} bytes`)
  }
})

test('ENC-5: a token has one valid spelling', () => {
  const keys = keyRing([SECRET])
  const context = { purpose: 'pre-session', name: PRE }
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  // Three lengths: the last character has two, four and no unused bits.
  for (const length of [40, 41, 42]) {
    const token = keys.seal(context, Buffer.alloc(length, 'x'))
    const opening = [...alphabet].filter((last) => keys.open(context, token.slice(0, -1) + last) !== undefined)
    assert.deepEqual(opening, [token.at(-1)])
  }
})
