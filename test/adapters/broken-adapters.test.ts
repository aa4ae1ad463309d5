// Each case of the contract of an adapter fails on an adapter that breaks it.

import assert from 'node:assert/strict'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import { suite, test } from 'node:test'
import { session, sessionManager } from 'keepsake'
import { type Answer, adapterCases } from 'keepsake/testing'
import { NodeRequestHead } from '../../src/http/node-request.ts'
import type { FormRequest } from '../../src/http/request-head.ts'
import { attach, attachAlso, exposedManager, type RequestContext } from '../../src/request-context.ts'
import { setHead } from '../support/listening.ts'
import { type Exchange, type Steps, serveStepwise } from '../support/stepwise-adapter.ts'

type Broken = {
  /** Replaces steps of a correct adapter by wrong ones. */
  readonly change: (correct: Steps) => Partial<Steps>
  /** The beginnings of the names of cases that fail. */
  readonly fails: readonly string[]
  /** The cases wait for an answer that never comes. Default false. */
  readonly hangs?: boolean
}

/** The cookie lines of an answer that is about to be sent, changed by a function. */
const changeCookies = (response: ServerResponse, change: (lines: readonly string[]) => readonly string[]): void => {
  const value = response.getHeader('set-cookie')
  if (value === undefined) return
  const lines = change(typeof value === 'object' ? value : [String(value)])
  if (lines.length === 0) response.removeHeader('set-cookie')
  else response.setHeader('set-cookie', lines)
}

/** After the correct step, something more happens to the head of the response. */
const afterComplete =
  (
    change: (exchange: Exchange, answer: Answer, before: { readonly [name: string]: unknown }) => void,
  ): Broken['change'] =>
  ({ complete }) => ({
    complete(exchange, outcome, answer) {
      const before = { ...exchange.response.getHeaders() }
      complete(exchange, outcome, answer)
      change(exchange, answer, before)
    },
  })

const restoreHeader = (response: ServerResponse, name: string, before: { readonly [name: string]: unknown }): void => {
  if (before[name] === undefined) response.removeHeader(name)
  else response.setHeader(name, before[name] as string)
}

/** The part of the request that keepsake reads, with changes. */
const brokenHead =
  (change: (head: FormRequest, exchange: Exchange) => Partial<FormRequest>): Broken['change'] =>
  ({ head }) => ({
    head(exchange) {
      const good = head(exchange)
      const { method, url, headers } = good
      const lazy = {
        get body() {
          return good.body
        },
        get parsedBody() {
          return good.parsedBody
        },
      }
      return Object.defineProperties(lazy, {
        ...Object.getOwnPropertyDescriptors({ method, url, headers }),
        ...Object.getOwnPropertyDescriptors(change(good, exchange)),
      }) as FormRequest
    },
  })

/** Header fields of a request, in place of those that Node parsed. */
const withFields = (change: (request: IncomingMessage) => IncomingMessage['headers']): Broken['change'] =>
  brokenHead((_, { request }) => ({
    headers: new NodeRequestHead({ headers: change(request) as Record<string, string> }, {}).headers,
  }))

/** An adapter that reads something of a request without a check. An error ends the process; here the server stops. */
const crashing =
  (read: (request: IncomingMessage) => unknown): Broken['change'] =>
  ({ respond }) => {
    let server: Server
    const survives = (request: IncomingMessage): boolean => {
      try {
        read(request)
        return true
      } catch {
        server.close()
        server.closeAllConnections()
        return false
      }
    }
    return {
      server(listener) {
        server = createServer(listener)
        return server.on('connect', (request, socket) => {
          survives(request)
          socket.destroy()
        })
      },
      async respond(exchange) {
        if (survives(exchange.request)) await respond(exchange)
      },
    }
  }

/** A wrong response to a request that was not saved. */
const brokenRefusal =
  (change: (exchange: Exchange, answer: Answer, cause: Error | undefined) => void): Broken['change'] =>
  ({ refuse }) => ({
    async refuse(exchange, outcome, answer) {
      change(exchange, answer, outcome.error)
      if (!exchange.response.writableEnded) await refuse(exchange, outcome, answer)
    },
  })

/** The status is another one, at the moment in which the head leaves. */
const forceStatus = (response: ServerResponse, status: number): void => {
  Object.defineProperty(response, 'statusCode', { get: () => status, set() {} })
}

const refusals = [
  'a logout wins against',
  'a session that the operator ends',
  'two changes that do not fit the schema',
  'a store that fails at a write',
  'a logout that the store cannot carry out',
]
const notSaved = [...refusals, 'a change that is too large']

const broken: Readonly<Record<string, Broken>> = {
  'never commits': {
    change: () => ({ commit: () => undefined }),
    fails: [
      'a change is there in the next request',
      'the first change sets one session cookie',
      'a login gives',
      'a login among twenty writes',
      'a logout clears',
      'a handler that does not await',
      'a flash message',
      'Vary gets Cookie',
    ],
  },
  'commits when the response has been sent': {
    change: ({ commit }) => ({
      commit(exchange, answer) {
        exchange.response.once('finish', () => Promise.resolve(commit(exchange, answer)).catch(() => {}))
        return undefined
      },
    }),
    fails: [
      'a change is there in the next request',
      'a redirect that is followed',
      'an answer with an empty text',
      'rotateKey sends a new key',
      'a stream that is not sent',
      'a change after the head has left',
      ...notSaved,
    ],
  },
  'begins the commit and does not wait for it': {
    change: ({ commit }) => ({
      commit(exchange, answer) {
        Promise.resolve(commit(exchange, answer)).catch(() => {})
        return undefined
      },
    }),
    fails: ['no byte of the response leaves before', 'a change is there in the next request'],
  },
  'commits only a session that is open when the handler returns': {
    change: ({ commit }) => ({
      commit: (exchange, answer) => (exchange.context.work === undefined ? undefined : commit(exchange, answer)),
    }),
    fails: [
      'a handler that does not await its session saves all the same (an asynchronous store)',
      'a flash message of an anonymous',
    ],
  },
  'saves at most once in a minute': {
    change({ commit }) {
      let rests = false
      return {
        commit(exchange, answer) {
          if (rests) return undefined
          rests = exchange.context.session !== undefined
          if (rests) setTimeout(() => (rests = false), 60_000).unref()
          return commit(exchange, answer)
        },
      }
    },
    fails: ['fifty requests at once', 'fifty increments at once', 'two visitors have two sessions'],
  },
  'does not commit for HEAD': {
    change: ({ commit }) => ({
      commit: (exchange, answer) => (exchange.request.method === 'HEAD' ? undefined : commit(exchange, answer)),
    }),
    fails: ['HEAD saves as GET does', 'HEAD of a stream ends'],
  },
  'adds no header fields to an answer without a body': {
    change: ({ complete }) => ({
      complete: (exchange, outcome, answer) => answer.body && complete(exchange, outcome, answer),
    }),
    fails: ['an answer 204', 'an answer 304', 'an answer with an empty text', 'a redirect that is followed'],
  },
  'saves nothing if the status is one of an error': {
    change: ({ commit }) => ({
      commit: (exchange, answer) => (answer.status < 400 ? commit(exchange, answer) : undefined),
    }),
    fails: ['an answer 404', 'an answer 422', 'an answer 500'],
  },
  'takes a redirect for an error': {
    change: ({ call }) => ({
      async call(exchange) {
        const answer = await call(exchange)
        if (answer.status >= 300 && answer.status < 400) throw new Error('A redirect was thrown.')
        return answer
      },
    }),
    fails: ['a redirect that is followed', 'an answer 304', 'a flash message'],
  },
  'sends no cookie if the request had one': {
    change: afterComplete(({ request, response }) => {
      if (request.headers.cookie?.includes('sid')) changeCookies(response, () => [])
    }),
    fails: ['a login gives', 'a logout clears', 'rotateKey sends a new key'],
  },
  'sends the cookie with each response': {
    change: afterComplete(({ request, response }) => {
      if (response.getHeader('set-cookie') === undefined && request.headers.cookie !== undefined)
        response.setHeader('set-cookie', request.headers.cookie.split('; '))
    }),
    fails: ['a visitor with a session gets no second cookie'],
  },
  'copies only the names and values of cookies': {
    change: afterComplete(({ response }) =>
      changeCookies(response, (lines) => lines.map((line) => line.split(';')[0] as string)),
    ),
    fails: [
      'the first change sets one session cookie',
      'the session cookie has the attributes',
      'no cookie of the handler',
    ],
  },
  'clears the cookie without its path': {
    change: afterComplete(({ response }) =>
      changeCookies(response, (lines) => lines.map((line) => line.replace(/(Max-Age=0;) Path=[^;]*;/, '$1'))),
    ),
    fails: ['the session cookie has the attributes'],
  },
  'opens the session of each request': {
    change: ({ attach }) => ({
      attach(exchange) {
        attach(exchange)
        void session(exchange.x)
      },
    }),
    fails: ['a request that does not ask for its session', 'a request with extend: false'],
  },
  'keeps the time of each visit in the session': {
    change: ({ call }) => ({
      async call(exchange) {
        const answer = await call(exchange)
        ;(await session(exchange.x)).set('visitedAt', 1)
        return answer
      },
    }),
    fails: ['an anonymous visitor who only reads', 'a request that does not ask', 'a flood of anonymous visitors'],
  },
  'gives each caller another object': {
    change: ({ head }) => ({
      attach(exchange) {
        const { sessions } = exchange
        const manager = exposedManager(sessions, 'the test')
        exchange.x = {
          // Such as an object of a framework that makes a new wrapper at each look.
          get request(): object {
            const request = {}
            exchange.context = attach(request, sessions, manager, head(exchange))
            return request
          },
        } as object
        exchange.context = attach({}, sessions, manager, head(exchange))
      },
    }),
    fails: ['all callers of one request get one session', 'the method session of the manager'],
  },
  'attaches requests to a copy of the manager': {
    change: ({ head, manager }) => ({
      attach(exchange) {
        exchange.context = attach(exchange.x, {}, manager(exchange), head(exchange))
      },
    }),
    fails: ['the method session of the manager'],
  },
  'gives handlers a copy of the object that it attached': {
    change: ({ attach }) => ({
      attach(exchange) {
        attach(exchange)
        exchange.x = {}
      },
    }),
    fails: ['seal and unseal take the object', 'the method and the Host'],
  },
  'reads the cookie of the latest visitor in each request': {
    change({ complete, head }) {
      let latest = ''
      return {
        complete(exchange, outcome, answer) {
          complete(exchange, outcome, answer)
          latest = outcome.cookies[0]?.split(';')[0] ?? latest
        },
        head(exchange) {
          if (latest !== '') exchange.request.headers.cookie = latest
          return head(exchange)
        },
      }
    },
    fails: ['two visitors have two sessions', 'the token of another visitor'],
  },
  'sends its own cookies in place of those of the handler': {
    change: ({ complete }) => ({
      complete(exchange, outcome, answer) {
        exchange.response.removeHeader('set-cookie')
        complete(exchange, outcome, answer)
      },
    }),
    fails: ['the cookies of the handler stay', 'no cookie of the handler'],
  },
  'splits cookies at commas': {
    change: afterComplete(({ response }) => changeCookies(response, (lines) => lines.join(', ').split(/, ?/))),
    fails: ['no cookie of the handler'],
  },
  'keeps one cookie of each name': {
    change: afterComplete(({ response }) =>
      changeCookies(response, (lines) => [...new Map(lines.map((line) => [line.split('=')[0], line])).values()]),
    ),
    fails: ['no cookie of the handler'],
  },
  'sends only its own header fields': {
    change: ({ complete }) => ({
      complete(exchange, outcome, answer) {
        for (const name of exchange.response.getHeaderNames()) exchange.response.removeHeader(name)
        complete(exchange, outcome, answer)
      },
    }),
    fails: ['other header fields of the handler stay', 'a private Cache-Control'],
  },
  'sets Vary': {
    change: afterComplete(({ response }) => response.setHeader('vary', 'Cookie')),
    fails: ['Vary gets Cookie'],
  },
  'appends to Vary in each case': {
    change: afterComplete(({ response }, _, before) =>
      response.setHeader('vary', [`${before.vary ?? 'Accept'}`, 'Cookie']),
    ),
    fails: ['Vary names Cookie once'],
  },
  'leaves Cache-Control as it is': {
    change: afterComplete(({ response }, _, before) => restoreHeader(response, 'cache-control', before)),
    fails: [
      'a response with a session cookie is not for shared caches',
      'a page with a form token is not for shared caches',
    ],
  },
  'leaves the fields of CDNs as they are': {
    change: afterComplete(({ response }, _, before) => {
      for (const name of ['cdn-cache-control', 'surrogate-control']) restoreHeader(response, name, before)
    }),
    fails: ['fields that CDNs obey'],
  },
  'forbids to keep any response': {
    change: afterComplete(({ response }) => response.setHeader('cache-control', 'no-store')),
    fails: ['a private Cache-Control', 'a response that only depends on the session'],
  },
  'protects only responses with cookies from caches': {
    change: ({ complete }) => ({
      complete: (exchange, outcome, answer) => complete(exchange, { ...outcome, privateResponse: false }, answer),
    }),
    fails: ['a page with a form token is not for shared caches'],
  },
  'measures the length of a text in characters': {
    change: ({ send }) => ({
      send(exchange, answer) {
        if (typeof answer.body === 'string') exchange.response.setHeader('content-length', answer.body.length)
        send(exchange, answer)
      },
    }),
    fails: ['a text outside ASCII arrives whole'],
  },
  'sends the page although it was not saved': {
    change: ({ send }) => ({
      async refuse(exchange, _, answer) {
        setHead(exchange.response, answer)
        send(exchange, { ...answer, headers: [] })
      },
    }),
    fails: [...notSaved, 'a stream that is not sent', 'the option errorResponse'],
  },
  'sends the header fields of the page with the error': {
    change: brokenRefusal(({ response }, answer) => setHead(response, answer)),
    fails: [...notSaved, 'the option errorResponse'],
  },
  'sends each error with the status 200': {
    change: brokenRefusal(({ response }) => forceStatus(response, 200)),
    fails: [...notSaved, 'the option errorResponse', 'a stream that is not sent'],
  },
  'sends each error with the status 500': {
    change: brokenRefusal(({ response }) => forceStatus(response, 500)),
    fails: refusals,
  },
  'prints the error of the backend': {
    change: brokenRefusal(({ response }, _, error) => {
      response.statusCode = 503
      response.end(`${error?.message} ${error?.cause}`)
    }),
    fails: ['a store that fails at a write'],
  },
  'lets errors of the backend reach the visitor, if its session cannot be opened': {
    change: () => ({ manager: ({ sessions }) => exposedManager(sessions, 'the test') }),
    fails: ['a store that fails at a read'],
  },
  'sends no cookie with an error': {
    change: ({ refuse }) => ({
      refuse: (exchange, outcome, answer) => refuse(exchange, { ...outcome, cookies: [] }, answer),
    }),
    fails: ['a logout that the store cannot carry out'],
  },
  'sends a new cookie with an error': {
    change: ({ refuse }) => ({
      refuse: (exchange, outcome, answer) => refuse(exchange, { ...outcome, cookies: ['sid-80=; Max-Age=0'] }, answer),
    }),
    fails: ['a logout wins against', 'a store that fails at a write'],
  },
  'lets caches keep an error': {
    change: brokenRefusal(({ response }) => {
      response.statusCode = 500
      response.end('The page was not saved.')
    }),
    fails: ['an error response is not for caches', 'the option errorResponse'],
  },
  'sends the page if the commit throws an error of the application': {
    change: ({ commit }) => ({
      commit: async (exchange, answer) => {
        try {
          return await commit(exchange, answer)
        } catch {
          return undefined
        }
      },
    }),
    fails: ['an error of an update'],
  },
  'saves although the handler threw': {
    change: ({ commit }) => ({
      async abandon(exchange) {
        await commit(exchange, { status: 500, headers: [], body: null })
      },
    }),
    fails: [
      'a handler that throws saves nothing',
      'an anonymous visitor whose handler throws',
      'flash messages of a handler that throws',
    ],
  },
  'forgets a request whose handler threw': {
    change: () => ({ abandon: async () => {} }),
    fails: ['a handler that ends the session and then throws', 'flash messages of a handler that throws'],
  },
  'answers an error of the handler with the status 200': {
    change: ({ abandon }) => ({
      async abandon(exchange, error) {
        await abandon(exchange, error)
        forceStatus(exchange.response, 200)
      },
    }),
    fails: [
      'a handler that throws saves nothing',
      'an anonymous visitor whose handler throws',
      'a store that fails at a read',
    ],
  },
  'never cancels a stream that is not sent': {
    change: () => ({ cancel() {} }),
    fails: ['a stream that is not sent is cancelled'],
    hangs: true,
  },
  'gives readForm a request without a body': {
    change: brokenHead(() => ({ body: null, parsedBody: undefined })),
    fails: [
      'an anonymous visitor sends a urlencoded form',
      'a visitor with a session sends a multipart form',
      'a form that arrives in chunks',
      'a form whose body waits for 100 Continue',
      'the token of another visitor',
    ],
  },
  'reads the body before the handler, and keeps nothing of it': {
    change: ({ call }) => ({
      async call(exchange) {
        for await (const _ of exchange.request);
        return call(exchange)
      },
    }),
    fails: ['an anonymous visitor sends a urlencoded form', 'a visitor with a session sends a multipart form'],
  },
  'reads only a body whose length it knows': {
    change: brokenHead(({ headers }) => (headers.has('content-length') ? {} : { body: null })),
    fails: ['a form that arrives in chunks'],
  },
  'answers a request that waits for 100 Continue at once': {
    change: () => ({
      server: (listener) =>
        createServer(listener).on('checkContinue', (_, response: ServerResponse) => {
          response.statusCode = 417
          response.end()
        }),
    }),
    fails: ['a form whose body waits for 100 Continue'],
  },
  'never ends the stream of a body': {
    change: brokenHead((_, { request }) => ({
      parsedBody: undefined,
      body: new ReadableStream({
        start(controller) {
          request.on('data', (piece) => controller.enqueue(piece))
        },
      }),
    })),
    fails: ['a multipart form that breaks off', 'an anonymous visitor sends a urlencoded form'],
    hangs: true,
  },
  'takes each body for a urlencoded form': {
    change: withFields(({ headers }) => ({ ...headers, 'content-type': 'application/x-www-form-urlencoded' })),
    fails: ['a body that is no form', 'a multipart form that breaks off'],
  },
  'hands on only Host and Cookie': {
    change: withFields(({ headers: { host, cookie } }) => ({ host, cookie })),
    fails: [
      'a form without a token',
      'the token of another visitor',
      'a token from before the login',
      'a form that is too large',
      'a script sends the token in a header',
      'HEAD, a prefetch',
      'with trustProxy, the cookie is Secure',
    ],
  },
  'hands on no method': {
    change: brokenHead(() => ({ method: 'GET' })),
    fails: ['HEAD, a prefetch', 'the method and the Host'],
  },
  'hands on no Host': {
    change: withFields(({ headers: { host: _, ...rest } }) => rest),
    fails: ['the method and the Host'],
  },
  'commits each request with the status 200': {
    change: ({ commit }) => ({ commit: (exchange, answer) => commit(exchange, { ...answer, status: 200 }) }),
    fails: ['HEAD, a prefetch'],
  },
  'closes the connection if nobody read the body': {
    change: ({ send }) => ({
      send(exchange, answer) {
        const { request, response } = exchange
        if (request.headers['content-length'] !== undefined && !request.readableDidRead)
          response.setHeader('connection', 'close')
        send(exchange, answer)
      },
    }),
    fails: ['a handler that does not read the form'],
  },
  'sends the first piece of a stream': {
    change: ({ send }) => ({
      async send(exchange, answer) {
        if (typeof answer.body === 'string' || answer.body === null) return send(exchange, answer)
        const { value } = await answer.body.getReader().read()
        exchange.response.end(value)
      },
    }),
    fails: ['a stream arrives whole', 'a session that was opened can be read after'],
  },
  'does not end the response to HEAD': {
    change: ({ send }) => ({
      send(exchange, answer) {
        if (exchange.request.method === 'HEAD') exchange.response.write(' ')
        else send(exchange, answer)
      },
    }),
    fails: ['HEAD saves as GET does', 'HEAD of a stream ends'],
    hangs: true,
  },
  'cuts a text at 64 KiB': {
    change: ({ send }) => ({
      send(exchange, answer) {
        const { body } = answer
        send(exchange, { ...answer, body: typeof body === 'string' ? body.slice(0, 65_536) : body })
      },
    }),
    fails: ['a large body arrives whole'],
  },
  'detaches the object at the commit': {
    change: ({ commit }) => ({
      async commit(exchange, answer) {
        const outcome = await commit(exchange, answer)
        exchange.context.session = undefined
        return outcome
      },
    }),
    fails: ['a session that was opened can be read after the head has left'],
  },
  'buffers a stream before it commits': {
    change: ({ call }) => ({
      async call(exchange) {
        const answer = await call(exchange)
        return typeof answer.body === 'string'
          ? answer
          : { ...answer, body: answer.body && (await new Response(answer.body).text()) }
      },
    }),
    fails: ['a change after the head has left'],
  },
  'does not commit if the visitor went away': {
    change: ({ commit }) => ({
      commit: (exchange, answer) => (exchange.response.destroyed ? undefined : commit(exchange, answer)),
    }),
    fails: ['the change of a visitor who went away'],
    hangs: true,
  },
  'keeps the session of a connection': {
    change({ attach }) {
      const contexts = new WeakMap<object, RequestContext>()
      return {
        attach(exchange) {
          const { socket } = exchange.request
          const earlier = contexts.get(socket)
          if (earlier === undefined) {
            attach(exchange)
            contexts.set(socket, exchange.context)
            return
          }
          exchange.context = earlier
          attachAlso(exchange.x, earlier)
        },
      }
    },
    fails: ['two visitors on one connection'],
  },
  'keeps the response of a connection': {
    change({ respond }) {
      const responses = new WeakMap<object, ServerResponse>()
      return {
        respond(exchange) {
          responses.set(exchange.request.socket, exchange.response)
          const current = { get: () => responses.get(exchange.request.socket) as ServerResponse }
          return respond(Object.defineProperty(exchange, 'response', current))
        },
      }
    },
    fails: ['three requests that are sent at once on one connection'],
  },
  'joins Cookie fields by commas': {
    change: withFields(({ headers, rawHeaders }) => ({
      ...headers,
      cookie: rawHeaders.filter((_, i) => i % 2 === 1 && /^cookie$/i.test(rawHeaders[i - 1] as string)).join(', '),
    })),
    fails: ['two Cookie fields of one request'],
  },
  'answers one request after another': {
    change({ respond }) {
      let last = Promise.resolve()
      return {
        respond(exchange) {
          last = last.then(() => respond(exchange))
          return last
        },
      }
    },
    fails: ['a request that waits for the store holds up no other visitor', 'no byte of the response leaves before'],
    hangs: true,
  },
  'refuses a cookie that opens no session': {
    change: ({ commit, manager }) => ({
      async commit(exchange, answer) {
        const unknown = exchange.request.headers.cookie !== undefined && exchange.context.work?.snapshot === undefined
        if (!unknown || exchange.context.work === undefined) return commit(exchange, answer)
        return {
          failure: 'ended',
          cookies: [],
          cookieObjects: () => [],
          privateResponse: true,
          emit: manager(exchange).emit,
        }
      },
    }),
    fails: ['a cookie that opens no session'],
  },
  'has no access to the fields of a proxy': {
    change: withFields(({ headers: { 'x-forwarded-proto': _, ...rest } }) => rest),
    fails: ['with trustProxy, the cookie is Secure'],
  },
  'believes X-Forwarded-Proto': {
    change: brokenHead(({ url = '' }, { request }) => ({
      url: url.replace(/^http/, String(request.headers['x-forwarded-proto'] ?? 'http').split(',')[0] as string),
    })),
    fails: ['without trustProxy, X-Forwarded-Proto'],
  },
  'takes every request for one over TLS': {
    change: brokenHead(({ url = '' }) => ({ url: url.replace('http:', 'https:') })),
    fails: ['with trustProxy, the cookie is Secure', 'without trustProxy', 'the first change sets one session cookie'],
  },
  'takes the port off Host': {
    change: crashing(({ headers: { host } }) => (host as string).split(':')),
    fails: ['no Host, in HTTP/1.0'],
  },
  'makes a URL of Host': {
    change: crashing(({ headers: { host }, url = '' }) => new URL(url, `http://${host}`)),
    fails: [
      'an empty Host',
      'a Host with a space',
      'a Host that is half',
      'a Host with a port',
      'a target of two slashes',
    ],
  },
  'makes a Request': {
    change: crashing(({ headers: { host }, url, method = '' }) => new Request(`http://${host}${url}`, { method })),
    fails: ['a Host with a user', 'TRACE'],
  },
  'takes each target for a path': {
    change: crashing(({ url = '' }) => (/^\/[^?]*/.exec(url) as string[])[0]),
    fails: ['an absolute target', 'OPTIONS *', 'CONNECT'],
  },
  'decodes the target': {
    change: crashing(({ url = '' }) => decodeURIComponent(url)),
    fails: ['a target that is no valid escape'],
  },
  'has a table of methods': {
    change: crashing(({ method = '' }) => {
      const routes: Record<string, string[]> = { GET: [], HEAD: [], POST: [], PUT: [], DELETE: [], OPTIONS: [] }
      return (routes[method] as string[]).length
    }),
    fails: ['a method of another protocol', 'TRACE', 'CONNECT'],
  },
  'takes fields for UTF-8': {
    change: crashing(({ headers }) =>
      new TextDecoder('utf-8', { fatal: true }).decode(Buffer.from(Object.values(headers).join(), 'latin1')),
    ),
    fails: ['bytes above 0x7f in fields', 'cookies without names and values'],
  },
  'splits each cookie at its equals sign': {
    change: crashing(({ headers: { cookie = 'a=b' } }) =>
      cookie.split(';').map((pair) => (pair.split('=')[1] as string).trim()),
    ),
    fails: ['cookies without names and values'],
  },
  'makes a URL of the forwarded host': {
    change: crashing(({ headers }) => {
      const { 'x-forwarded-host': host = 'a', 'x-forwarded-proto': scheme = 'http' } = headers
      return new URL(`${scheme}://${host}`)
    }),
    fails: ['a forwarded host that is no host'],
  },
}

const casesOf = (prefix: string) => adapterCases.filter(({ name }) => name.startsWith(prefix))
const isLate = ({ message }: Error) => /did not end within|No answer to/.test(message)

/** A mistake that broke every request would show nothing. */
const assertAnswers = async (change: Broken['change']): Promise<void> => {
  const manager = sessionManager({ backend: 'memory:' })
  const handle = async (): Promise<Answer> => ({ status: 200, headers: [['x-page', '1']], body: 'page' })
  const { url, close } = await serveStepwise(change)({ manager, handle })
  try {
    const response = await fetch(url)
    assert.deepEqual([response.status, response.headers.get('x-page'), await response.text()], [200, '1', 'page'])
  } finally {
    await close()
    await manager.close()
  }
}

suite('a broken adapter fails', { concurrency: 8 }, () => {
  for (const [name, { change, fails, hangs = false }] of Object.entries(broken)) {
    test(`an adapter that ${name}`, async (t) => {
      const options = hangs ? { patience: 1_000 } : {}
      const cases = fails.flatMap((prefix) => {
        const found = casesOf(prefix)
        assert.notEqual(found.length, 0, `a case begins with “${prefix}”`)
        return found
      })
      await Promise.all([
        t.test('answers a request that does not use its session', () => assertAnswers(change)),
        ...cases.map((one) =>
          t.test(`fails: ${one.name}`, () =>
            assert.rejects(one.run(serveStepwise(change), options), (error: Error) => isLate(error) === hangs),
          ),
        ),
      ])
    })
  }
})

test('each case fails on an adapter above', () => {
  const failing = new Set(Object.values(broken).flatMap(({ fails }) => fails.flatMap(casesOf)))
  assert.deepEqual(
    adapterCases.filter((one) => !failing.has(one)).map(({ name }) => name),
    [],
  )
})

suite('the same adapter without a mistake passes', { concurrency: 8 }, () => {
  for (const { name, run } of adapterCases) test(name, () => run(serveStepwise()))
})
