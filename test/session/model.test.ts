// The order of writes keeps its promises in every interleaving, and every rule of it is needed.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { explore, type Mutation, type Script } from '../model/protocol.ts'
import { runs } from '../support/quick.ts'

const scripts: readonly Script[] = [
  {},
  { set: 'a' },
  { add: true },
  { rotate: true },
  { rotate: true, set: 'a' },
  { transition: 'login' },
  { transition: 'login', set: 'a', after: 'z' },
  { transition: 'reauthenticate' },
  { transition: 'reauthenticate', add: true },
  { transition: 'invalidate' },
  { clock: 'ahead', set: 'a' },
  { clock: 'ahead', transition: 'invalidate' },
  { clock: 'behind', set: 'a' },
  { clock: 'behind', transition: 'login' },
  { clock: 'behind', transition: 'invalidate' },
  { transition: 'invalidate', after: 'z' },
]

/** Gives the fields of each request their own names, so that the test can name a lost one. */
const withOwnFields = (chosen: readonly Script[]): Script[] =>
  chosen.map((script, i) => ({
    ...script,
    ...(script.set && { set: script.set + i }),
    ...(script.after && { after: script.after + i }),
  }))

const pairs = scripts.flatMap((first, i) => scripts.slice(i).map((second) => withOwnFields([first, second])))

/** A request that stalls while other requests rotate the key twice. */
const stalled: Script[] = [{ rotate: true }, {}, { follows: 0 }, { rotate: true, follows: 2 }, { follows: 3 }]
/** A request in progress while its key is rotated and another request uses the new one. */
const overtaken: Script[] = [{ rotate: true }, {}, { follows: 0 }]

const short = { idle: 1, absolute: 2 }
const long = { idle: 3, absolute: 3 }
const briefLogin: Script = { transition: 'login', timeouts: short }
const briefReauthentication: Script = { transition: 'reauthenticate', timeouts: short }
const longLogin: Script = { transition: 'login', timeouts: long }
/** Logins that give timeouts, with requests of the session that they end, and then of the session that they create. */
const timeoutScripts: readonly Script[][] = [
  [briefLogin, {}],
  [briefLogin, { set: 'a' }],
  [briefLogin, { rotate: true }],
  [briefReauthentication, { add: true }],
  [briefReauthentication, { transition: 'invalidate' }],
  [longLogin, { rotate: true, set: 'a' }],
  [briefLogin, { follows: 0 }],
  [briefLogin, { set: 'a', follows: 0 }],
  [briefLogin, { transition: 'login', follows: 0 }],
  [briefReauthentication, { follows: 0 }],
  [longLogin, { set: 'a', follows: 0 }],
]

const holds = (chosen: readonly Script[]) => {
  const { broken } = explore(chosen)
  assert.equal(broken, undefined, `${JSON.stringify(chosen)}: ${broken}`)
}

test('two requests: the promises hold in every interleaving, with one crash and lost or late replies', () => {
  for (const pair of pairs) holds(pair)
})

test('three requests: the promises hold in every interleaving of random scripts', () => {
  const script = fc.constantFrom(...scripts)
  fc.assert(
    fc.property(fc.tuple(script, script, script), (triple) => holds(withOwnFields(triple))),
    { numRuns: runs(24) },
  )
})

test('successive rotations: a stalled request and a late reply do not log the visitor out', () => {
  holds(stalled)
  holds(overtaken)
})

test('timeouts of a login: no request prolongs its session over them, also one that is late', () => {
  for (const chosen of timeoutScripts) holds(chosen)
})

const mutations: Record<Mutation, string> = {
  upsert: 'ended and is back',
  blind: 'was acknowledged and is not in',
  'no grace': 'a request in progress was refused',
  'fresh offer': 'the browser lost it',
  'late offer': 'the browser lost it',
  'send first': 'was sent while',
  forget: 'the login lost it',
  'same survives': 'outlived it',
  'no mark': 'replaced a newer one',
  'blind logout': 'replaced a newer one',
  'sweeping clock': 'destroyed L',
  'ends nothing': 'L is there',
  'manager timeouts': 'lives longer than its login allowed',
  'older timeouts': 'lives longer than its login allowed',
}

for (const [mutation, words] of Object.entries(mutations)) {
  test(`a promise is broken without a rule: ${mutation}`, () => {
    const tried = mutation.endsWith('timeouts') ? timeoutScripts : [...pairs, stalled, overtaken]
    const found = new Set<string | undefined>()
    const isBroken = tried.some((chosen) => {
      const { broken } = explore(chosen, mutation as Mutation)
      found.add(broken)
      return broken?.includes(words)
    })
    assert.ok(isBroken, `no interleaving breaks without the rule; found: ${[...found].join('; ')}`)
  })
}
