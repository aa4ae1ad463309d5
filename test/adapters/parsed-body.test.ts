// Forms that a body parser of the framework has read before readForm: the same outcomes, the same limits, one meaning.

import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { suite, type TestContext, test } from 'node:test'
import express, { type RequestHandler } from 'express'
import { csrfField, type FormOptions, readForm, session, sessionManager, takeFlash } from 'keepsake'
import { forExpress } from 'keepsake/express'
import { browser } from 'keepsake/testing'
import { listening } from '../support/listening.ts'

const urlencoded = { 'content-type': 'application/x-www-form-urlencoded' }

/** An application whose form is read by a parser first. The answer is the outcome as JSON. */
const formApp = async (t: TestContext, parser: RequestHandler, options: FormOptions = {}) => {
  const app = express()
  const sessions = forExpress(sessionManager({ backend: 'memory:' }))
  app.use(parser, sessions)
  app.get('/', async (request, response) => {
    response.json((await csrfField(request)).value)
  })
  app.post('/', async (request, response) => {
    try {
      const form = await readForm(request, undefined, options)
      response.json(form.ok ? [...form.fields] : form.error)
    } catch (error) {
      response.json((error as { code: string }).code)
    }
  })
  const { url, close } = await listening(createServer(app))
  t.after(close)
  const visit = browser((request) => fetch(request), { origin: url })
  const token: string = await (await visit('/')).json()
  const post = async (body: string, headers: Record<string, string> = urlencoded): Promise<unknown> =>
    (await visit('/', { method: 'POST', body, headers })).json()
  return { token, post }
}

suite('after express.urlencoded', () => {
  test('readForm has the fields that the parser read, sorted by name, without the token', async (t) => {
    const { token, post } = await formApp(t, express.urlencoded({ extended: false }))
    const fields = [
      ['a', '1'],
      ['a', '2'],
      ['b', 'Zoë & co'],
    ]
    assert.deepEqual(await post(`b=Zo%C3%AB+%26+co&_csrf=${token}&a=1&a=2`), fields)
    assert.deepEqual(await post(`__proto__=x&_csrf=${token}`), [])
  })

  test('a form without its token, with another, or with two is refused', async (t) => {
    const { token, post } = await formApp(t, express.urlencoded({ extended: false }))
    assert.equal(await post('a=1'), 'missing_token')
    assert.equal(await post('a=1&_csrf=x'), 'invalid_token')
    assert.equal(await post(`_csrf=${token}&_csrf=${token}`), 'many_tokens')
  })

  test('a name that the parser made an object of makes the form wrong_content_type', async (t) => {
    const { token, post } = await formApp(t, express.urlencoded({ extended: true }))
    assert.equal(await post(`_csrf=${token}&a[b]=1`), 'wrong_content_type')
    assert.equal(await post(`_csrf[x]=${token}&a=1`), 'wrong_content_type')
    assert.deepEqual(await post(`_csrf=${token}&a[]=1&a[]=2`), [
      ['a', '1'],
      ['a', '2'],
    ])
  })

  test('the limits are those of readForm', async (t) => {
    const { token, post } = await formApp(t, express.urlencoded({ extended: false, limit: '10mb' }), {
      maxBytes: 1_000,
      maxFields: 3,
    })
    assert.deepEqual(await post(`_csrf=${token}&a=1&b=2&c=3`), [
      ['a', '1'],
      ['b', '2'],
      ['c', '3'],
    ])
    assert.equal(await post(`_csrf=${token}&a=1&b=2&c=3&d=4`), 'too_large')
    assert.equal(await post(`_csrf=${token}&a=${'x'.repeat(1_000)}`), 'too_large')
  })

  test('uploads cannot be streamed any more: invalid_option', async (t) => {
    const { token, post } = await formApp(t, express.urlencoded({ extended: false }), { upload: () => {} })
    assert.equal(await post(`_csrf=${token}`), 'invalid_option')
  })
})

test('a JSON body that a parser read is no form', async (t) => {
  const { token, post } = await formApp(t, express.json({ type: () => true }))
  const body = JSON.stringify({ _csrf: token, a: '1' })
  assert.equal(await post(body, { 'content-type': 'application/json' }), 'wrong_content_type')
  assert.equal(await post(body, { 'content-type': 'text/plain' }), 'wrong_content_type')
})

test('a parser of other types leaves the form to readForm', async (t) => {
  const { token, post } = await formApp(t, express.json())
  assert.deepEqual(await post(`_csrf=${token}&a[b]=1`), [['a[b]', '1']])
})

test('a request of node:http opens a session outside of an adapter, with forms and flash messages', async (t) => {
  const manager = sessionManager({ backend: 'memory:' })
  const server = createServer(async (request, response) => {
    const s = await manager.open(request)
    assert.deepEqual(await takeFlash(s), [])
    const form = request.method === 'POST' ? await readForm(s, undefined, { csrf: false }) : undefined
    s.update('n', (n = 0) => (n as number) + 1)
    const result = await s.commit()
    assert.ok(result.ok)
    response.setHeaders(result.headers)
    response.end(JSON.stringify([s.get('n'), form?.ok && [...form.fields]]))
  })
  const { url, close } = await listening(server)
  t.after(close)
  const visit = browser((request) => fetch(request), { origin: url })
  assert.equal(await (await visit('/')).text(), '[1,null]')
  assert.equal(await (await visit('/', { method: 'POST', body: 'a=1', headers: urlencoded })).text(), '[2,[["a","1"]]]')
  await assert.rejects(session(new Request(url)), { code: 'no_middleware' })
})
