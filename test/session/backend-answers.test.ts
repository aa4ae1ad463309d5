// keepsake checks the answers of a backend: one outside the contract is an error, and never becomes a session key.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import type { Backend } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { setup } from '../support/visits.ts'

const wrongAnswers: Readonly<Record<string, unknown>> = {
  "the string 'ok'": 'ok',
  'an empty string': '',
  true: true,
  null: null,
  'the key of another session': 'A'.repeat(43),
  'a held value, which only a stateless backend may give': { held: 'x' },
}

/** A memory backend with one operation whose answer is outside the contract. */
const withAnswer = (operation: 'generate' | 'set' | 'touch', answer: unknown): Backend => {
  const backend = memoryBackend()
  const call = backend[operation] as (...args: unknown[]) => unknown
  const wrong = (...args: unknown[]) => {
    call(...args)
    return answer
  }
  return { ...backend, [operation]: wrong } as Backend
}

const codeOf = (event: unknown) => (event as { error?: { code?: string } }).error?.code

suite('a backend whose answer is outside the contract', () => {
  for (const [name, answer] of Object.entries(wrongAnswers)) {
    test(`generate answers ${name}: 500, no cookie, and the error names the backend`, async () => {
      const h = await setup({ backend: withAnswer('generate', answer) })
      const response = await h.visitor().raw((s) => s.set('a', 1))
      assert.equal(response.status, 500)
      assert.deepEqual(response.headers.getSetCookie(), [])
      assert.ok(h.events.some((event) => codeOf(event) === 'invalid_backend'))
    })

    test(`set answers ${name}: 500, no cookie`, async () => {
      const h = await setup({ backend: withAnswer('set', answer) })
      const visit = h.visitor()
      await visit((s) => s.set('a', 1))
      const response = await visit.raw((s) => s.set('a', 2))
      assert.equal(response.status, 500)
      assert.deepEqual(response.headers.getSetCookie(), [])
    })

    test(`touch answers ${name}: an event, and the session continues`, async () => {
      const h = await setup({ backend: withAnswer('touch', answer) })
      const visit = h.visitor()
      await visit((s) => s.set('a', 1))
      h.now.tick(10 * 86_400_000)
      const response = await visit.raw((s) => s.get('a'))
      assert.equal(response.status, 200)
      assert.deepEqual(response.headers.getSetCookie(), [])
      assert.ok(h.events.some((event) => codeOf(event) === 'invalid_backend'))
    })
  }
})
