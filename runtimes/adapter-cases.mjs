// Runs the adapter cases on a server of this runtime, and prints the results as one line of JSON.

import { once } from 'node:events'
import { createServer } from 'node:http'
import { Readable } from 'node:stream'
import express from 'express'
import { forExpress } from 'keepsake/express'
import { forNode } from 'keepsake/node'
import { serve } from 'keepsake/serve'
import { adapterCases } from 'keepsake/testing'

/** Milliseconds for one case. The cases themselves give up after 20 seconds. */
const PATIENCE = 60_000

const listen = async (server) => {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await closed
    },
  }
}

const send = (response, { status, headers, body }) => {
  response.statusCode = status
  for (const [name, value] of headers) {
    if (name === 'set-cookie') response.appendHeader(name, value)
    else response.setHeader(name, value)
  }
  if (typeof body === 'object' && body !== null) Readable.fromWeb(body).pipe(response)
  else response.end(body ?? undefined)
}

/** The error page of an application without a framework. */
const sendError = (response, { status = 500, headers = {}, message }) => {
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value)
  response.statusCode = status
  response.end(message)
}

const fetchHandler = ({ manager, handle }) =>
  manager(async (request) => {
    const { status, headers, body } = await handle(request, request)
    return new Response(body, { status, headers })
  })

/** The error page of an application on the server of Bun or Deno. */
const errorPage = () => new Response('Internal Server Error', { status: 500 })

const servers = {
  'keepsake/serve': (application) => serve(fetchHandler(application), { port: 0 }),
  'Bun.serve': async (application) => {
    const server = Bun.serve({ fetch: fetchHandler(application), error: errorPage, port: 0, hostname: '127.0.0.1' })
    return { url: `http://127.0.0.1:${server.port}`, close: () => server.stop(true) }
  },
  'Deno.serve': async (application) => {
    const handler = fetchHandler(application)
    const options = { port: 0, hostname: '127.0.0.1', onListen: () => {}, onError: errorPage }
    const stop = new AbortController()
    const server = Deno.serve({ ...options, signal: stop.signal }, (request) => handler(request))
    return {
      url: `http://127.0.0.1:${server.addr.port}`,
      async close() {
        stop.abort()
        await server.finished
      },
    }
  },
  'node:http': ({ manager, handle }) => {
    const sessions = forNode(manager)
    return listen(
      createServer((request, response) => {
        const fail = (error) => sendError(response, error)
        sessions(request, response, (error) => {
          if (error !== undefined) return fail(error)
          handle(request, { method: request.method, url: request.url }).then(
            (answer) => send(response, answer),
            (error) => sessions.errorHandler(error, request, response, fail),
          )
        })
      }),
    )
  },
  Express: ({ manager, handle }) => {
    const app = express()
    const sessions = forExpress(manager)
    app.use(sessions)
    app.use((request, response, next) => {
      handle(request, request).then((answer) => {
        const { status, headers, body } = answer
        if (typeof body === 'object' && body !== null) return send(response, answer)
        response.status(status)
        for (const [name, value] of headers) response.append(name, value)
        return body === null ? response.end() : response.send(body)
      }, next)
    })
    app.use(sessions.errorHandler)
    return listen(createServer(app))
  },
}

const runCase = async ({ run }, serve) => {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no result after ${PATIENCE / 1000} seconds`)), PATIENCE)
  })
  try {
    await Promise.race([run(serve), late])
    return undefined
  } catch (error) {
    return String(error?.message ?? error)
  } finally {
    clearTimeout(timer)
  }
}

// A case may leave a rejection behind on a runtime with a defect. The other cases run all the same.
const stray = []
process.on('unhandledRejection', (error) => stray.push(String(error?.message ?? error)))
process.on('uncaughtException', (error) => stray.push(String(error?.message ?? error)))

const [, , name, pattern = ''] = process.argv
const print = console.log
// `serve` prints the URL of each server.
console.log = () => {}
const failed = {}
const cases = adapterCases.filter(({ name }) => name.includes(pattern))
for (const one of cases) {
  const message = await runCase(one, servers[name])
  if (message !== undefined) failed[one.name] = message
}
print(JSON.stringify({ total: cases.length, failed, stray }))
process.exit(0)
