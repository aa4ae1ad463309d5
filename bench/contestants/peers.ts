// The peers, each with the settings that its manual recommends, on its own framework.

import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { FIELDS, nextSeen, workloadOf } from '../workloads.ts'
import { ALL, type App, type Contestant } from './contestant.ts'

export type Bag = { user?: string; name?: string; language?: string; seen?: number }
type ExpressRequest = { session: (Bag & { regenerate?: (done: (error?: unknown) => void) => void }) | null }
type ExpressResponse = { send(text: string): void; status(code: number): ExpressResponse }

const random = (): string => randomBytes(32).toString('hex')

/** The routes for peers that put an object of fields on an Express request. */
const expressRoutes = async (middleware: unknown): Promise<App> => {
  const { default: express } = await import('express')
  const app = express()
  app.use(middleware)
  const wrong = (response: ExpressResponse) => response.status(500).send('wrong')
  app.get('/anonymous', ({ session }: ExpressRequest, response: ExpressResponse) =>
    session?.user === undefined ? response.send('ok') : wrong(response),
  )
  app.get('/read', ({ session }: ExpressRequest, response: ExpressResponse) =>
    session?.user === FIELDS.user ? response.send(String(session.seen)) : wrong(response),
  )
  app.get('/write', ({ session }: ExpressRequest, response: ExpressResponse) => {
    if (session?.user !== FIELDS.user) return wrong(response)
    session.seen = nextSeen()
    response.send('ok')
  })
  app.get('/login', (request: ExpressRequest, response: ExpressResponse) => {
    const fill = () => {
      Object.assign(request.session as Bag, FIELDS)
      response.send('ok')
    }
    // cookie-session has no key, so it rotates none.
    if (request.session?.regenerate === undefined) return fill()
    request.session.regenerate((error) => (error ? wrong(response) : fill()))
  })
  return { kind: 'node', listener: app }
}

export const expressSession = async (store?: unknown): Promise<App> => {
  const { default: session } = await import('express-session')
  return expressRoutes(
    session({ secret: random(), resave: false, saveUninitialized: false, ...(store !== undefined && { store }) }),
  )
}

const fileStore = async (folder: string): Promise<App> => {
  const { default: session } = await import('express-session')
  const { default: connect } = await import('session-file-store')
  const path = join(folder, 'peer')
  mkdirSync(path)
  const FileStore = connect(session)
  return expressSession(new FileStore({ path, reapInterval: -1, logFn: () => {} }))
}

const cookieSession = async (): Promise<App> => {
  const { default: session } = await import('cookie-session')
  return expressRoutes(session({ name: 'session', keys: [random()] }))
}

const fastifySession = async (): Promise<App> => {
  const { fastify } = await import('fastify')
  const { fastifyCookie } = await import('@fastify/cookie')
  const { fastifySession: plugin } = await import('@fastify/session')
  const app = fastify()
  await app.register(fastifyCookie)
  await app.register(plugin, { secret: random(), saveUninitialized: false, cookie: { secure: false } })
  const bagOf = (request: { session: unknown }) => request.session as Bag & { regenerate(): Promise<void> }
  app.get('/anonymous', async (request, reply) => (bagOf(request).user === undefined ? 'ok' : reply.code(500).send()))
  app.get('/read', async (request, reply) => {
    const { user, seen } = bagOf(request)
    return user === FIELDS.user ? String(seen) : reply.code(500).send()
  })
  app.get('/write', async (request, reply) => {
    const bag = bagOf(request)
    if (bag.user !== FIELDS.user) return reply.code(500).send()
    bag.seen = nextSeen()
    return 'ok'
  })
  app.get('/login', async (request) => {
    await bagOf(request).regenerate()
    Object.assign(bagOf(request), FIELDS)
    return 'ok'
  })
  await app.ready()
  return { kind: 'node', listener: app.routing }
}

const secureSession = async (): Promise<App> => {
  const { fastify } = await import('fastify')
  const { fastifySecureSession } = await import('@fastify/secure-session')
  const app = fastify()
  await app.register(fastifySecureSession, {
    key: randomBytes(32),
    cookie: { path: '/', httpOnly: true, secure: false, sameSite: 'lax' },
  })
  type Secure = {
    get(field: string): unknown
    set(field: string, value: unknown): void
    regenerate(): void
  }
  const of = (request: { session: unknown }) => request.session as Secure
  app.get('/anonymous', async (request, reply) =>
    of(request).get('user') === undefined ? 'ok' : reply.code(500).send(),
  )
  app.get('/read', async (request, reply) => {
    const bag = of(request)
    return bag.get('user') === FIELDS.user ? String(bag.get('seen')) : reply.code(500).send()
  })
  app.get('/write', async (request, reply) => {
    const bag = of(request)
    if (bag.get('user') !== FIELDS.user) return reply.code(500).send()
    bag.set('seen', nextSeen())
    return 'ok'
  })
  app.get('/login', async (request) => {
    const bag = of(request)
    bag.regenerate()
    for (const [field, value] of Object.entries(FIELDS)) bag.set(field, value)
    return 'ok'
  })
  await app.ready()
  return { kind: 'node', listener: app.routing }
}

const ironSession = async (): Promise<App> => {
  const { getIronSession } = await import('iron-session')
  const options = { password: random(), cookieName: 'iron', cookieOptions: { secure: false } }
  return {
    kind: 'node',
    listener: async (request, response) => {
      const workload = workloadOf(request.url ?? '')
      const wrong = () => {
        response.statusCode = 500
        response.end('wrong')
      }
      const bag = await getIronSession<Bag>(request, response, options)
      if (workload === 'login') {
        Object.assign(bag, FIELDS)
        await bag.save()
        return response.end('ok')
      }
      if (bag.user !== (workload === 'anonymous' ? undefined : FIELDS.user)) return wrong()
      if (workload === 'read') return response.end(String(bag.seen))
      if (workload === 'write') {
        bag.seen = nextSeen()
        await bag.save()
      }
      return response.end('ok')
    },
  }
}

export const peers: readonly Contestant[] = [
  { name: '@fastify/secure-session', bare: 'fastify', workloads: ALL, open: secureSession },
  { name: '@fastify/session, memory', bare: 'fastify', workloads: ALL, open: fastifySession },
  { name: 'express-session, MemoryStore', bare: 'express', workloads: ALL, open: () => expressSession() },
  { name: 'express-session, session-file-store', bare: 'express', workloads: ALL, socketless: true, open: fileStore },
  { name: 'cookie-session', bare: 'express', workloads: ALL, socketless: true, open: cookieSession },
  { name: 'iron-session', bare: 'node', workloads: ALL, open: ironSession },
]
