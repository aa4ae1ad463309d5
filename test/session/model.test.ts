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
}

for (const [mutation, words] of Object.entries(mutations)) {
  test(`a promise is broken without a rule: ${mutation}`, () => {
    const found = [...pairs, stalled, overtaken].map((chosen) => explore(chosen, mutation as Mutation).broken)
    assert.ok(
      found.some((broken) => broken?.includes(words)),
      `no interleaving breaks without the rule; found: ${[...new Set(found)].join('; ')}`,
    )
  })
}
