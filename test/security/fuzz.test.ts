// A hundred thousand Cookie headers that nobody thought of: no throw, no 5xx, no wait, and no session without its key.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { keyRing } from '../../src/crypto/seal.ts'
import type { Generator } from '../support/hostile-fuzzer.ts'
import { adapted, PRE, SECRET, stage } from '../support/hostile-requests.ts'
import { runs } from '../support/quick.ts'

/** How many headers of a generator were sent, and how many of them opened a session or had a pre-session. */
type Counts = { readonly headers: number; readonly sessions: number; readonly preSessions: number }

const fuzzed = (generator: Generator) =>
  new Promise<Counts>((resolve, reject) => {
    const worker = new Worker(new URL('../support/hostile-fuzzer.ts', import.meta.url), { workerData: generator })
    worker.once('message', resolve).once('error', reject)
    worker.once('exit', (code) => reject(new Error(`ended with ${code}`)))
  })

/** That the generator reaches what it is about. */
const reached = ({ headers, sessions, preSessions }: Counts) =>
  assert.ok(
    headers >= runs(33_000) && sessions > runs(300) && preSessions > runs(100),
    `${headers} ${sessions} ${preSessions}`,
  )

suite('a hundred thousand headers', { concurrency: 2 }, () => {
  test('CP-5: random characters and bytes in the Cookie header end in a stranger', async () => {
    assert.ok((await fuzzed('random')).headers >= runs(33_000))
  })

  test('CP-5: a grammar of cookies, with names and values near ours, ends in a stranger or a session', async () => {
    reached(await fuzzed('grammar'))
  })

  test('CP-5: headers of a real session and a real pre-session, mutated, end in a stranger or a session', async () => {
    reached(await fuzzed('mutated'))
  })
})

test('ENC-2: every flipped bit of a pre-session, and every truncation, is refused', async () => {
  const s = await stage()
  const first = await s.see(adapted(undefined), 'form')
  const [cookie = ''] = first.response.headers.getSetCookie()
  const { form } = first
  const token = cookie.slice(cookie.indexOf('=') + 1, cookie.indexOf(';'))
  const opened = async (text: string) => {
    const seen = await s.see(adapted(`${PRE}=${text}`), 'form')
    assert.equal(seen.response.status, 200)
    return seen.form === form
  }
  assert.ok(await opened(token))
  const bytes = Buffer.from(token, 'base64url')
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const flipped = Buffer.from(bytes)
    flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3)
    assert.equal(await opened(flipped.toString('base64url')), false, `bit ${bit}`)
  }
  for (let length = 0; length < token.length; length++) {
    assert.equal(await opened(token.slice(0, length)), false, `${length} characters`)
    assert.equal(await opened(token.slice(length + 1)), false, `without the first ${length + 1}`)
  }
  for (let length = 0; length < bytes.length; length++) {
    assert.equal(await opened(bytes.subarray(0, length).toString('base64url')), false, `${length} bytes`)
  }
})

test('ENC-5: a token has one spelling', () => {
  const keys = keyRing([SECRET])
  const context = { purpose: 'pre-session', name: PRE }
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  // Three lengths: with two, with four and with no bits to spare in the last character.
  for (const length of [40, 41, 42]) {
    const token = keys.seal(context, Buffer.alloc(length, 'x'))
    const opening = [...alphabet].filter((last) => keys.open(context, token.slice(0, -1) + last) !== undefined)
    assert.deepEqual(opening, [token.at(-1)])
  }
})
