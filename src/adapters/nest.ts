// Sessions in applications of NestJS, on Express and on Fastify.

import type { FastifyInstance } from 'fastify'
import { KeepsakeError } from '../error.ts'
import type { NodeRequest } from '../http/node-request.ts'
import type { SessionManager } from '../manager.ts'
import { fastifyPlugin } from './fastify/plugin.ts'
import { abandoner } from './fastify/sending.ts'
import { HttpErrors } from './nest/http-exception.ts'
import { onError } from './nest/interceptor.ts'
import { type Next, type NodeAdapterOptions, type NodeServerResponse, nodeLifecycle } from './node/adapter.ts'
import type { NodeResponse } from './node/held-response.ts'

export type { NodeAdapterOptions as NestAdapterOptions } from './node/adapter.ts'

/** A dynamic module of Nest. */
export type NestModule = {
  readonly module: new () => object
  readonly providers: { provide: string; useValue: object }[]
}

/** The members of Nest's HttpServer that are used. */
type HttpServer = {
  getType(): string
  getInstance(): unknown
  use(middleware: (request: NodeRequest, response: NodeServerResponse, next: Next) => void): unknown
}

/**
 * A module for the application of Nest: `imports: [forNest(manager)]` in its root module. `session(request)`, `readForm(request)`,
 * `csrfTag(request)`, `addFlash(request, …)` and `takeFlash(request)` then take the request of `@Req()`, of a guard or of an
 * interceptor. With `{ load: true }` the session of every request is also `request.session`, which Nest's `@Session()` injects.
 *
 * The session is saved before the first byte of the response leaves. If it cannot be saved, the exception filters get an
 * HttpException with the status 409, 500 or 503, unless the manager has the option `errorResponse`. If a controller throws, nothing
 * of its request is saved. The application opens the backend when it starts, and closes it when it shuts down.
 *
 * @param sessions the result of `sessionManager`
 * @throws KeepsakeError `invalid_option`; `missing_package` when the application starts without @nestjs/common
 */
export const forNest = (sessions: SessionManager, options: NodeAdapterOptions = {}): NestModule => {
  const errors = new HttpErrors()
  const { begin, abandon } = nodeLifecycle(sessions, 'forNest()', options, errors.present)
  const abandonInFastify = abandoner(sessions)

  const mount = (server: HttpServer): void => {
    if (server.getType() === 'fastify') {
      const app = server.getInstance() as FastifyInstance
      app.register(fastifyPlugin(sessions, 'forNest()', options, errors.present))
      return
    }
    server.use((request, response, next) =>
      begin(request, response as NodeResponse, (error) => {
        if (!(error instanceof KeepsakeError)) return next(error)
        // Nest does not copy the headers of an error. The cookies are on the response already.
        response.setHeader('cache-control', 'no-store')
        next(errors.present(error))
      }),
    )
  }

  const interceptor = onError(async (error, request, response) => {
    if ('raw' in request) {
      await new Promise<void>((resolve, reject) => {
        abandonInFastify(request as never, response as never, error, resolve)?.then(resolve, reject)
      })
    } else {
      await abandon(error, request as NodeRequest, response as NodeResponse)
    }
    return errors.publish(error)
  })

  class SessionsModule {
    /** Nest calls it before it adds the routes. The middleware of `main.ts`, such as that of CORS, comes first. */
    async configure(consumer: object): Promise<void> {
      await errors.load()
      mount((consumer as { getHttpAdapter(): HttpServer }).getHttpAdapter())
    }

    onModuleInit(): Promise<void> {
      return sessions.ready()
    }

    onApplicationShutdown(): Promise<void> {
      return sessions.close()
    }
  }
  // Nest calls the interceptors that any module provides under this name.
  return { module: SessionsModule, providers: [{ provide: 'APP_INTERCEPTOR', useValue: interceptor }] }
}
