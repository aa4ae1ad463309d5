// `save` in the middle of a request: the changes so far are stored, and the request continues with the stored session.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { session, sessionManager } from 'keepsake'
import { cookieBackend } from 'keepsake/cookie'
import { browser } from 'keepsake/testing'
import { code } from '../support/assert.ts'
import { clock, PATIENT } from '../support/clock.ts'
import { stores } from '../support/stores.ts'
import { setup } from '../support/visits.ts'

const secret = 'q7Jm3vX0bT9sLk2Wd5Rf8Yh1Zc4Ng6Pa_EuIoBxVtQw'
const saved = { ok: true }

for (const { name, opener } of stores) {
  test(`a saved change is stored before the handler returns, and later changes are saved too, on ${name}`, async (t) => {
    const backend = await opener(t)()
    let during: unknown
    const other = () => visit.copy()
    const handler = sessionManager({ backend, secret, storeTimeout: PATIENT })(async (request) => {
      const s = await session(request)
      if (request.url.endsWith('/read')) return Response.json(s.fields)
      if (request.url.endsWith('/long')) {
        s.set('step', 1)
        assert.deepEqual(await s.save(), saved)
        during = await (await other()('/read')).json()
        s.update('step', (step = 0) => step + 1)
        s.set('done', true)
      } else s.set('start', true)
      return new Response()
    })
    const visit = browser(handler)
    await visit('/')
    assert.equal((await visit('/long')).status, 200)
    assert.deepEqual(during, { start: true, step: 1 })
    assert.deepEqual(await (await visit('/read')).json(), { start: true, step: 2, done: true })
  })
}

/** A visitor whose session has a field of 0. */
const startWith = async (field: string) => {
  const h = await setup()
  const visit = h.visitor()
  await visit((s) => s.set(field, 0))
  return { h, visit }
}

suite('save', () => {
  test('the cookie of a session that it created leaves with the response', async () => {
    const h = await setup()
    const visit = h.visitor()
    const response = await visit.raw(async (s) => {
      s.set('a', 1)
      assert.deepEqual(await s.save(), saved)
      assert.equal(s.get('a'), 1)
    })
    assert.equal(response.headers.getSetCookie().length, 1)
    assert.equal(await visit((s) => s.get('a')), 1)
    assert.deepEqual(h.types, ['created'])
  })

  test('the key of a login leaves with the response, also if the last commit fails', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    const response = await visit.raw(async (s) => {
      s.login('anna')
      assert.deepEqual(await s.save(), saved)
      assert.equal(s.owner, 'anna')
      s.set('b', 1)
      h.fail('set', new Error('ECONNRESET'))
    })
    assert.equal(response.status, 503)
    assert.equal(response.headers.getSetCookie().length, 1)
    assert.equal(await visit((s) => s.owner), 'anna')
  })

  test('a change of another request in the meantime is kept, and the handler sees it', async () => {
    const { visit } = await startWith('mine')
    await visit(async (s) => {
      s.set('mine', 1)
      await visit.withSameCookies().otherProcess()((o) => o.set('theirs', 1))
      assert.deepEqual(await s.save(), saved)
      assert.deepEqual(s.fields, { mine: 1, theirs: 1 })
      s.set('mine', 2)
    })
    assert.deepEqual(await visit((s) => ({ ...s.fields })), { mine: 2, theirs: 1 })
  })

  test('a change during the save is part of the next one', async () => {
    const { h, visit } = await startWith('a')
    const held = h.hold('set')
    await visit(async (s) => {
      s.set('a', 1)
      const saving = s.save()
      await held.arrived
      s.set('b', 1)
      held.go()
      assert.deepEqual(await saving, saved)
      assert.deepEqual(s.fields, { a: 1, b: 1 })
    })
    assert.deepEqual(await visit((s) => ({ ...s.fields })), { a: 1, b: 1 })
  })

  test('two saves at once run one after the other', async () => {
    const { visit } = await startWith('n')
    await visit(async (s) => {
      s.set('n', 1)
      const first = s.save()
      s.set('n', 2)
      assert.deepEqual(await Promise.all([first, s.save()]), [saved, saved])
    })
    assert.equal(await visit((s) => s.get('n')), 2)
  })

  test('without a change it asks nothing of the backend', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.set('a', 1))
    await visit(async (s) => {
      const before = { ...h.calls }
      assert.deepEqual(await s.save(), saved)
      assert.deepEqual({ ...h.calls }, before)
    })
  })

  test('if another request ended the session, it returns ended, nothing more is saved, and the response is 409', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    let result: unknown
    const response = await visit.raw(async (s) => {
      await visit.withSameCookies()((o) => o.invalidate())
      s.set('a', 1)
      result = await s.save()
      s.set('b', 1)
    })
    assert.deepEqual(result, { ok: false, error: 'ended' })
    assert.equal(response.status, 409)
  })

  test('an invalidate is saved at once, and the cookie is cleared with the response', async () => {
    const h = await setup()
    const visit = h.visitor()
    await visit((s) => s.login('anna'))
    const response = await visit.raw(async (s) => {
      s.invalidate()
      assert.deepEqual(await s.save(), saved)
      assert.equal(await visit.withSameCookies()((o) => o.owner), undefined)
    })
    assert.match(response.headers.getSetCookie().join(), /Max-Age=0/)
  })

  test('a session that it created and that the handler then ends leaves no key with the browser', async () => {
    const h = await setup()
    const response = await h.visitor().raw(async (s) => {
      s.set('a', 1)
      await s.save()
      s.invalidate()
    })
    assert.match(response.headers.getSetCookie().join(), /^[^;]*=; Max-Age=0/)
    assert.equal(await h.visitor()((s) => s.get('a')), undefined)
  })

  test('if the store fails it throws, nothing is lost, and it can be called again', async () => {
    const { h, visit } = await startWith('a')
    await visit(async (s) => {
      s.set('a', 1)
      h.fail('set', new Error('ECONNREFUSED'))
      await assert.rejects(s.save(), code('unknown_outcome'))
      assert.deepEqual(await s.save(), saved)
    })
    assert.equal(await visit((s) => s.get('a')), 1)
  })

  test('if the handler throws afterwards, the saved changes stay and the later ones are dropped', async () => {
    const { visit } = await startWith('a')
    await assert.rejects(
      async () =>
        visit(async (s) => {
          s.set('a', 1)
          await s.save()
          s.set('a', 2)
          throw new Error('broken')
        }),
      /broken/,
    )
    assert.equal(await visit((s) => s.get('a')), 1)
  })

  test('the time for the store begins again after each save', async () => {
    const memory = (await setup()).backend
    const slow = {
      ...memory,
      set: async (...args: Parameters<typeof memory.set>) => {
        await new Promise((resolve) => setTimeout(resolve, 60))
        return memory.set(...args)
      },
    }
    const h = await setup({ backend: slow, storeTimeout: 1 })
    const visit = h.visitor()
    await visit((s) => s.set('n', 0))
    await visit(async (s) => {
      for (let n = 1; n <= 20; n++) {
        s.set('n', n)
        assert.deepEqual(await s.save(), saved)
      }
    })
    assert.equal(await visit((s) => s.get('n')), 20)
  })

  test('in a cookie, the cookie of the last save leaves with the response', async () => {
    const h = await setup({ backend: cookieBackend({ secret }), secret })
    const visit = h.visitor()
    await visit((s) => s.set('n', 0))
    const response = await visit.raw(async (s) => {
      s.set('n', 1)
      assert.deepEqual(await s.save(), saved)
      s.set('n', 2)
      assert.deepEqual(await s.save(), saved)
    })
    assert.equal(response.headers.getSetCookie().length, 1)
    assert.equal(await visit((s) => s.get('n')), 2)
  })

  test('after the response it is too late', async () => {
    const now = clock()
    let late: (() => Promise<unknown>) | undefined
    const handler = sessionManager({ backend: 'memory:', now })(async (request) => {
      const s = await session(request)
      late = () => s.save()
      return new Response()
    })
    await handler(new Request('https://app.test/'))
    await assert.rejects(async () => late?.(), code('too_late'))
  })

  test('with manager.open, commit gives the cookies of earlier saves', async () => {
    const manager = sessionManager({ backend: 'memory:' })
    const s = await manager.open({ headers: new Headers() })
    s.login('anna')
    assert.deepEqual(await s.save(), saved)
    s.set('a', 1)
    const done = await s.commit()
    assert.ok(done.ok)
    assert.equal(done.headers.getSetCookie().length, 1)
    const cookie = done.headers.getSetCookie()[0]?.split(';')[0] as string
    assert.deepEqual((await manager.open({ headers: new Headers({ cookie }) })).fields, { a: 1 })
    await manager.close()
  })
})
