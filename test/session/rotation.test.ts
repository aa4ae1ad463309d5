// Secrets are rotated while visitors use the application: nobody is logged out, and an old secret works until it is removed.

import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import { addFlash, csrfToken, getCookie, readForm, session, sessionManager, setCookie, takeFlash } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { browser } from 'keepsake/testing'
import { newSecret } from '../../src/crypto/seal.ts'

const [a, b] = [newSecret(), newSecret()]
const kinds = ['memory', 'cookie'] as const

for (const kind of kinds) {
  suite(`secrets [a] → [b, a] → [b], sessions ${kind === 'cookie' ? 'in cookies' : 'in a store'}`, () => {
    const deployment = () => {
      const store = memoryBackend()
      return (secret: readonly string[]) =>
        sessionManager({ backend: kind === 'cookie' ? 'cookie:' : store, secret })(async (request) => {
          const { pathname } = new URL(request.url)
          const s = pathname === '/form' && request.method === 'POST' ? undefined : await session(request)
          if (pathname === '/login') s?.login('anna')
          if (pathname === '/touch') s?.update('n', (n = 0) => n + 1)
          if (pathname === '/flash') addFlash(request, 'info', 'hello')
          if (pathname === '/take') return Response.json((await takeFlash(request)).length)
          if (pathname === '/form' && s) return new Response(await csrfToken(request, { validFor: 86_400 }))
          if (pathname === '/form') {
            const form = await readForm(request)
            return Response.json(form.ok ? 'ok' : form.error)
          }
          if (pathname === '/set') return setCookie(new Response(), request, 'theme', 'dark')
          if (pathname === '/theme') return Response.json((await getCookie(request, 'theme')) ?? null)
          return Response.json(s?.owner ?? null)
        })
    }
    const json = async (response: Promise<Response>) => (await response).json()
    const post = (token: string) => ({ method: 'POST', body: new URLSearchParams({ _csrf: token }) })

    test('Dream’s issue #432: sessions, forms, flash messages and cookies of secret a work under [b, a], for a logged-in and for an anonymous visitor', async () => {
      const under = deployment()
      for (const loggedIn of [true, false]) {
        const before = browser(under([a]))
        if (loggedIn) await before('/login')
        const token = await (await before('/form')).text()
        await before('/flash')
        await before('/set')
        const middle = before.copy(under([b, a]))
        assert.equal(await json(middle('/')), loggedIn ? 'anna' : null)
        assert.equal(await json(middle('/form', post(token))), 'ok')
        assert.equal(await json(middle('/theme')), 'dark')
        assert.equal(await json(middle('/take')), 1)
      }
    })

    test('sessions and cookies that were used under [b, a] work under [b]; sealed ones that were not used do not open there', async () => {
      const under = deployment()
      const first = under([a])
      const [used, unused, anonymous] = [browser(first), browser(first), browser(first)]
      for (const one of [used, unused]) await one('/login')
      for (const one of [used, unused, anonymous]) await one('/set')
      const anonymousToken = await (await anonymous('/form')).text()
      const usedToken = await (await used('/form')).text()
      const middle = used.copy(under([b, a]))
      await middle('/touch')
      await middle('/set')
      const middleToken = await (await middle('/form')).text()
      const last = under([b])
      const end = middle.copy(last)
      assert.equal(await json(end('/')), 'anna')
      assert.equal(await json(end('/theme')), 'dark')
      assert.equal(await json(end('/form', post(middleToken))), 'ok')
      assert.equal(await json(end('/form', post(usedToken))), 'invalid_token', 'a token of the removed secret')
      const left = unused.copy(last)
      assert.equal(
        await json(left('/')),
        kind === 'cookie' ? null : 'anna',
        'stored sessions do not depend on the secret',
      )
      assert.equal(await json(left('/theme')), null)
      assert.notEqual(await json(anonymous.copy(last)('/form', post(anonymousToken))), 'ok')
    })

    test('ENC-7: nodes that roll from [a] by [a, b] and [b, a] to [b] accept each other’s sessions and forms on the way', async () => {
      const under = deployment()
      const steps = [[a], [a, b], [b, a], [b]]
      for (let i = 0; i + 1 < steps.length; i++) {
        const [old, next] = [under(steps[i] as string[]), under(steps[i + 1] as string[])]
        const visitor = browser(i === 0 ? old : next)
        await visitor('/login')
        const token = await (await visitor('/form')).text()
        const other = visitor.copy(i === 0 ? next : under(steps[i] as string[]))
        assert.equal(await json(other('/')), 'anna', `step ${i}`)
        assert.equal(await json(other('/form', post(token))), 'ok', `step ${i}`)
      }
    })
  })
}
