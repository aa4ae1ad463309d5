// The headers of an error from commit() reach the visitor by the error pages of the frameworks, which copy them like an object.

import assert from 'node:assert/strict'
import { createServer, type RequestListener } from 'node:http'
import { suite, type TestContext, test } from 'node:test'
import express, { type ErrorRequestHandler } from 'express'
import express4 from 'express4'
import Fastify from 'fastify'
import { KeepsakeError, sessionManager } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import Koa from 'koa'
import { PATIENT } from '../support/clock.ts'
import { listening } from '../support/listening.ts'
import { watched } from '../support/watched.ts'

/** The error of a logout that the store could not carry out. */
const failedLogout = async (): Promise<KeepsakeError> => {
  const store = watched(memoryBackend())
  const manager = sessionManager({ backend: store.backend, storeTimeout: PATIENT })
  const url = 'https://app.test/'
  const login = await manager.open({ headers: new Headers(), url })
  login.login('anna')
  const committed = await login.commit()
  const { name, value } = (committed.ok && committed.cookies[0]) || assert.fail('the login sets a cookie')
  const logout = await manager.open({ headers: new Headers({ cookie: `${name}=${value}` }), url })
  logout.invalidate()
  store.fail('clear', new Error('the store failed'))
  const error: unknown = await logout.commit().catch((error) => error)
  return error instanceof KeepsakeError ? error : assert.fail('commit() throws a KeepsakeError')
}

/** Copies the headers as Koa 2 does. */
const copyByLoop = (headers: object, set: (name: string, value: string) => void): void => {
  for (const name in headers) set(name, (headers as Record<string, string>)[name] as string)
}

const expressWith = (create: typeof express, onError?: ErrorRequestHandler): RequestListener => {
  const app = create()
  app.set('env', 'test')
  app.get('/', (_request, _response, next) => {
    void failedLogout().then(next)
  })
  if (onError !== undefined) app.use(onError)
  return app
}

const koaWith = (onError?: (ctx: Koa.Context, error: KeepsakeError) => void): RequestListener => {
  const app = new Koa()
  app.silent = true
  app.use(async (ctx, next) => {
    try {
      await next()
    } catch (error) {
      if (onError === undefined) throw error
      onError(ctx, error as KeepsakeError)
    }
  })
  app.use(async () => {
    throw await failedLogout()
  })
  return app.callback()
}

const fastify = async (t: TestContext): Promise<RequestListener> => {
  const app = Fastify()
  t.after(() => app.close())
  app.get('/', async () => {
    throw await failedLogout()
  })
  await app.ready()
  return app.routing
}

const listeners: Readonly<Record<string, (t: TestContext) => RequestListener | Promise<RequestListener>>> = {
  'Express 5': () => expressWith(express),
  'Express 4': () => expressWith(express4),
  'an error handler of Express that calls response.set': () =>
    expressWith(express, ({ headers, status }, _request, response, _next) => {
      response.set(headers).status(status).end()
    }),
  'Koa 3': () => koaWith(),
  'a middleware of Koa that calls ctx.set': () =>
    koaWith((ctx, { headers = new Headers(), status = 500 }) => {
      ctx.set(headers as Headers & Record<string, string>)
      ctx.status = status
      ctx.body = 'sorry'
    }),
  'a middleware that copies in a loop, as Koa 2 does': () =>
    koaWith((ctx, { headers = new Headers(), status = 500 }) => {
      copyByLoop(headers, (name, value) => ctx.set(name, value))
      ctx.status = status
      ctx.body = 'sorry'
    }),
  Fastify: fastify,
}

suite('a logout that the store cannot carry out clears the cookie', () => {
  for (const [name, listener] of Object.entries(listeners)) {
    test(`if its error is answered by ${name}`, async (t) => {
      const { url, close } = await listening(createServer(await listener(t)))
      t.after(close)
      const response = await fetch(url)
      assert.equal(response.status, 503)
      assert.equal(response.headers.getSetCookie().length, 1)
      assert.match(response.headers.getSetCookie().join(), /Max-Age=0/)
      assert.match(response.headers.get('vary') ?? '', /cookie/i)
    })
  }

  test('if its error is answered by a Response', async () => {
    const { headers = new Headers(), status = 500 } = await failedLogout()
    const response = new Response(null, { status, headers })
    assert.deepEqual([...response.headers], [...headers])
    assert.equal(response.headers.getSetCookie().length, 1)
  })
})
