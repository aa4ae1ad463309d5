// The owner marks of the file backend keep their promises in every interleaving, and every rule is needed.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { explore, type Mutation } from '../model/owners.ts'

const casts: readonly Parameters<typeof explore>[0][] = [
  ['generate', 'clear'],
  ['generate', 'clear', 'tidy'],
  ['generate', 'clear', 'clear', 'tidy'],
  ['generate', 'clear', 'tidy', 'tidy', 'logout'],
  ['generate', 'clear', 'clear', 'tidy', 'logout'],
]

test('a clear ends every session that was marked before it, and every live session can be found, after any crash', (t) => {
  for (const cast of casts) {
    const { broken, worlds } = explore(cast)
    assert.equal(broken, undefined, `${cast.join(', ')}: ${broken}`)
    t.diagnostic(`${worlds} worlds: ${cast.join(', ')}`)
  }
})

const mutations: Record<Mutation, RegExp> = {
  'mark late': /outlived|no clear will find/,
  'no look': /outlived|no clear will find/,
  'no undo': /undone, but the session is there/,
  'no strike': /outlived|no clear will find/,
  'strike by removing': /no clear will find/,
  'one look': /outlived/,
  'tidy at once': /no clear will find/,
}

for (const [without, broken] of Object.entries(mutations)) {
  test(`a promise is broken without a rule: ${without}`, () => {
    const found = casts.map((cast) => explore(cast, without as Mutation).broken ?? '')
    assert.ok(
      found.some((one) => broken.test(one)),
      JSON.stringify(found),
    )
  })
}
