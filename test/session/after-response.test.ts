// After the response: a session that was opened before stays readable, and nothing of it can be changed.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { addFlash, csrfToken, type Session, session, sessionManager } from 'keepsake'
import { code } from '../support/assert.ts'

const url = 'https://app.example/'

/** Answers a request, and returns it together with the session that its handler opened. */
const answered = async (handler: (request: Request) => Promise<unknown>): Promise<Request> => {
  const manager = sessionManager({ backend: 'memory:' })
  const request = new Request(url)
  await manager(async (request) => {
    await handler(request)
    return new Response('page')
  })(request)
  return request
}

suite('after the response', () => {
  test('a session that was opened before can be requested again, and has the fields that were saved', async () => {
    const request = await answered(async (request) => (await session(request)).set('cart', ['tea']))
    const s = await session<{ cart: string[] }>(request)
    assert.deepEqual(s.get('cart'), ['tea'])
    const refused: ((s: Session) => unknown)[] = [
      (s) => s.set('cart', []),
      (s) => s.delete('cart'),
      (s) => s.login('anna'),
      (s) => s.invalidate(),
      (s) => s.rotateKey(),
    ]
    for (const change of refused) assert.throws(() => change(s as unknown as Session), code('too_late'))
    await assert.rejects(csrfToken(request), code('too_late'))
    assert.throws(() => addFlash(request, 'info', 'x'), code('too_late'))
  })

  test('a session that was not opened before cannot be requested', async () => {
    const request = await answered(async () => {})
    await assert.rejects(session(request), code('too_late'))
  })

  test('a session whose handler threw can be read, and its changes are not saved', async () => {
    let request: Request | undefined
    const manager = sessionManager({ backend: 'memory:' })
    const handler = manager(async (arriving) => {
      request = arriving
      ;(await session(arriving)).set('a', 1)
      throw new Error('x')
    })
    await assert.rejects(async () => handler(new Request(url)), /x/)
    const s = await session(request as Request)
    assert.throws(() => s.set('a', 2), code('too_late'))
  })
})
