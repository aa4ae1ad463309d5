// Adapter cases about forms and flash messages.

import assert from 'node:assert/strict'
import { addFlash, takeFlash } from '../../flash.ts'
import { csrfField, verifyCsrfToken } from '../../forms/csrf.ts'
import { readForm } from '../../forms/form.ts'
import { session } from '../../request.ts'
import type { Browser } from '../browser.ts'
import { type CaseHandler, empty, json, text } from './application.ts'
import { type AdapterCase, onBothStores } from './stage.ts'

const handlers: Record<string, CaseHandler> = {
  '/form': async (x) => json(await csrfField(x)),
  '/send': async (x) => {
    const form = await readForm(x, undefined, { maxBytes: 20_000 })
    if (!form.ok) return text(form.error, form.status)
    const files = await Promise.all(form.files.map(async ([name, file]) => [name, file.name, await file.text()]))
    return json({ fields: [...form.fields], files })
  },
  '/unread': () => text('not read'),
  '/script': async (x) => json(await verifyCsrfToken(x)),
  '/login': async (x) => {
    ;(await session(x)).login('anna')
    return text('welcome')
  },
  '/flash': (x) => {
    addFlash(x, 'info', 'Saved.')
    return empty(303, [['location', '/take']])
  },
  '/take': async (x) => json(await takeFlash(x)),
  '/take-304': async (x) => {
    await takeFlash(x)
    return empty(304)
  },
}

const bodyOf = async (response: Response): Promise<unknown> => JSON.parse(await response.text())
const tokenOf = async (visit: Browser): Promise<string> =>
  ((await bodyOf(await visit('/form'))) as { value: string }).value
const post = (visit: Browser, body: URLSearchParams | FormData, headers: Record<string, string> = {}) =>
  visit('/send', { method: 'POST', body, headers })
const urlencoded = (fields: Record<string, string>) => new URLSearchParams(fields)
const multipart = (fields: Record<string, string | File>) => {
  const form = new FormData()
  for (const [name, value] of Object.entries(fields)) form.append(name, value)
  return form
}
const message = [{ category: 'info', text: 'Saved.' }]

export const formCases: readonly AdapterCase[] = [
  ...onBothStores('an anonymous visitor sends a urlencoded form with its token', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      const response = await post(visit, urlencoded({ _csrf: await tokenOf(visit), name: 'Zoë', text: 'a=b&c d' }))
      assert.deepEqual(await bodyOf(response), {
        fields: [
          ['name', 'Zoë'],
          ['text', 'a=b&c d'],
        ],
        files: [],
      })
    },
  }),
  ...onBothStores('a visitor with a session sends a multipart form with a file', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/login')
      const file = new File(['content'], 'notes.txt', { type: 'text/plain' })
      const response = await post(visit, multipart({ _csrf: await tokenOf(visit), a: '1', notes: file }))
      assert.deepEqual(await bodyOf(response), { fields: [['a', '1']], files: [['notes', 'notes.txt', 'content']] })
    },
  }),
  ...onBothStores('a form without a token is refused', {
    handlers,
    async run({ visitor, events }) {
      const response = await post(visitor(), urlencoded({ a: '1' }))
      assert.deepEqual([response.status, await response.text()], [403, 'missing_token'])
      assert.ok(events.includes('form_rejected'))
    },
  }),
  ...onBothStores('the token of another visitor is refused', {
    handlers,
    async run({ visitor }) {
      const response = await post(visitor(), urlencoded({ _csrf: await tokenOf(visitor()), a: '1' }))
      assert.deepEqual([response.status, await response.text()], [403, 'wrong_session'])
    },
  }),
  ...onBothStores('a token from before the login is refused', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      const token = await tokenOf(visit)
      await visit('/login')
      assert.equal((await post(visit, urlencoded({ _csrf: token }))).status, 403)
    },
  }),
  ...onBothStores('a form that is too large is refused, and the server answers the next request', {
    handlers,
    async run({ visitor, assertAlive }) {
      const visit = visitor()
      const body = urlencoded({ _csrf: await tokenOf(visit), text: 'x'.repeat(30_000) })
      const response = await post(visit, body)
      assert.deepEqual([response.status, await response.text()], [413, 'too_large'])
      await assertAlive()
    },
  }),
  ...onBothStores('a body that is no form is refused', {
    handlers,
    async run({ visitor }) {
      const response = await visitor()('/send', {
        method: 'POST',
        body: '{"_csrf":"x"}',
        headers: { 'content-type': 'text/plain' },
      })
      assert.deepEqual([response.status, await response.text()], [415, 'wrong_content_type'])
    },
  }),
  ...onBothStores('a multipart form that breaks off is refused', {
    handlers,
    async run({ visitor, assertAlive }) {
      const response = await visitor()('/send', {
        method: 'POST',
        body: '--x\r\ncontent-disposition: form-data; name="a"\r\n\r\n1',
        headers: { 'content-type': 'multipart/form-data; boundary=x' },
      })
      assert.deepEqual([response.status, await response.text()], [415, 'wrong_content_type'])
      await assertAlive()
    },
  }),
  ...onBothStores('a handler that does not read the form answers, and its connection takes the next request', {
    handlers,
    async run({ visitor, send }) {
      const response = await visitor()('/unread', { method: 'POST', body: urlencoded({ a: 'x'.repeat(5_000) }) })
      assert.equal(await response.text(), 'not read')
      const body = 'a=1'
      const received = await send(
        `POST /unread HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: ${body.length}\r\n\r\n${body}GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`,
      )
      assert.match(received, /not read[\s\S]*pong/)
    },
  }),
  ...onBothStores('a form that arrives in chunks without a length is read', {
    handlers,
    async run({ visitor, send, url }) {
      const visit = visitor()
      const body = urlencoded({ _csrf: await tokenOf(visit), a: '1' }).toString()
      const cookie = [...visit.cookies].map((pair) => pair.join('=')).join('; ')
      const pieces = [body.slice(0, 10), body.slice(10)].map((piece) => `${piece.length.toString(16)}\r\n${piece}\r\n`)
      const received = await send(
        `POST /send HTTP/1.1\r\nHost: ${new URL(url).host}\r\nCookie: ${cookie}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n${pieces.join('')}0\r\n\r\n`,
      )
      assert.match(received, /\[\["a","1"\]\]/)
    },
  }),
  ...onBothStores('a form whose body waits for 100 Continue is read', {
    handlers,
    async run({ visitor, send, url }) {
      const visit = visitor()
      const body = urlencoded({ _csrf: await tokenOf(visit), a: '1' }).toString()
      const cookie = [...visit.cookies].map((pair) => pair.join('=')).join('; ')
      const received = await send(
        `POST /send HTTP/1.1\r\nHost: ${new URL(url).host}\r\nCookie: ${cookie}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nExpect: 100-continue\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      )
      assert.match(received, /\[\["a","1"\]\]/)
    },
  }),
  ...onBothStores('a script sends the token in a header', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      const token = await tokenOf(visit)
      const good = await visit('/script', { method: 'POST', headers: { 'x-csrf-token': token } })
      assert.deepEqual(await bodyOf(good), { ok: true })
      const bad = (await bodyOf(await visit('/script', { method: 'POST' }))) as { ok: boolean }
      assert.equal(bad.ok, false)
    },
  }),
  ...onBothStores('a flash message of an anonymous visitor is on the next page, once', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      assert.equal((await visit('/flash', { method: 'POST' })).status, 303)
      assert.deepEqual(await bodyOf(await visit('/take')), message)
      assert.deepEqual(await bodyOf(await visit('/take')), [])
    },
  }),
  ...onBothStores('a flash message of a visitor with a session is on the next page, once', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/login')
      await visit('/flash')
      assert.deepEqual(await bodyOf(await visit('/take')), message)
      assert.deepEqual(await bodyOf(await visit('/take')), [])
    },
  }),
  ...onBothStores('HEAD, a prefetch and an answer 304 take no flash message', {
    handlers,
    async run({ visitor }) {
      const visit = visitor()
      await visit('/login')
      await visit('/flash')
      await visit('/take', { method: 'HEAD' })
      assert.deepEqual(await bodyOf(await visit('/take', { headers: { 'sec-purpose': 'prefetch' } })), [])
      await visit('/take-304')
      assert.deepEqual(await bodyOf(await visit('/take')), message)
    },
  }),
]
