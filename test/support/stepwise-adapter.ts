// An adapter of node:http in steps, so that a test can replace one step by a wrong one.

import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { RequestLike, SessionManager } from 'keepsake'
import type { Answer, Application, ServeApplication } from 'keepsake/testing'
import { frameworkError } from '../../src/adapters/framework-error.ts'
import { NodeResponseHeaders } from '../../src/adapters/node/response-headers.ts'
import { withPublicErrors } from '../../src/adapters/public-errors.ts'
import { abandonRequest, commitRequest, type RequestOutcome } from '../../src/commit-request.ts'
import { NodeRequestHead } from '../../src/http/node-request.ts'
import type { FormRequest } from '../../src/http/request-head.ts'
import { attach, exposedManager, type Manager, type RequestContext } from '../../src/request-context.ts'
import { addHeaders, errorResponse } from '../../src/response.ts'
import { listening, sendAnswer, sendError, setHead } from './listening.ts'

/** A request in progress. */
export type Exchange = {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly sessions: SessionManager
  readonly handle: Application['handle']
  /** The object that the handler gets. */
  x: RequestLike
  context: RequestContext
}

type Outcome = RequestOutcome | undefined
type Awaitable<T> = T | Promise<T>

/** The steps of a request, in their order. */
export type Steps = {
  /** Answers the request. It calls all steps that follow. */
  respond(exchange: Exchange): Promise<void>
  /** The manager that requests are attached to. */
  manager(exchange: Exchange): Manager
  /** The part of the request that keepsake reads. */
  head(exchange: Exchange): FormRequest
  /** Attaches the object that the handler gets. */
  attach(exchange: Exchange): void
  /** Calls the handler. */
  call(exchange: Exchange): Promise<Answer>
  /** After the handler threw an error. */
  abandon(exchange: Exchange, error: unknown): Promise<void>
  commit(exchange: Exchange, answer: Answer): Awaitable<Outcome>
  /** Adds cookies, Vary and Cache-Control to the head of the answer. */
  complete(exchange: Exchange, outcome: RequestOutcome, answer: Answer): void
  send(exchange: Exchange, answer: Answer): void
  /** Sends an error in place of the answer. */
  refuse(exchange: Exchange, outcome: RequestOutcome, answer: Answer): Promise<void>
  /** Releases the answer that is not sent. */
  cancel(answer: Answer): void
  /** Serves the requests. */
  server(listener: (request: IncomingMessage, response: ServerResponse) => void): Server
}

const correctSteps = (steps: () => Steps): Steps => ({
  async respond(exchange) {
    const { response } = exchange
    steps().attach(exchange)
    let answer: Answer
    let outcome: Outcome
    try {
      answer = await steps().call(exchange)
    } catch (error) {
      await steps().abandon(exchange, error)
      return sendError(response, error)
    }
    try {
      outcome = await steps().commit(exchange, answer)
    } catch (error) {
      steps().cancel(answer)
      return sendError(response, error)
    }
    if (outcome?.failure !== undefined) {
      steps().cancel(answer)
      return steps().refuse(exchange, outcome, answer)
    }
    setHead(response, answer)
    if (outcome !== undefined) steps().complete(exchange, outcome, answer)
    steps().send(exchange, { ...answer, headers: [] })
  },
  manager: ({ sessions }) => withPublicErrors(exposedManager(sessions, 'the test')),
  head: ({ request }) => new NodeRequestHead(request, {}),
  attach(exchange) {
    exchange.context = attach(exchange.x, exchange.sessions, steps().manager(exchange), steps().head(exchange))
  },
  call: ({ handle, x, request }) => handle(x, { method: request.method ?? '', url: request.url ?? '' }),
  async abandon({ x, context, response }, error) {
    const outcome = await abandonRequest(x, context, error)
    if (outcome !== undefined) addHeaders(new NodeResponseHeaders(response), outcome.cookies, outcome.emit, true)
  },
  commit: ({ x, context }, { status }) => commitRequest(x, context, status),
  complete({ response }, { cookies, emit, privateResponse }) {
    addHeaders(new NodeResponseHeaders(response), cookies, emit, privateResponse)
  },
  send: ({ response }, answer) => sendAnswer(response, answer),
  async refuse({ request, response, context }, outcome) {
    const { errorResponse: render, emit } = context.manager
    if (render === undefined) return sendError(response, frameworkError(outcome))
    const url = new URL(request.url ?? '/', 'http://test')
    const { status, headers, body } = await errorResponse(
      render,
      outcome.failure ?? 'not_saved',
      new Request(url),
      emit,
    )
    response.setHeaders(headers)
    addHeaders(new NodeResponseHeaders(response), outcome.cookies, emit, true)
    sendAnswer(response, { status, headers: [], body })
  },
  cancel({ body }) {
    if (typeof body === 'object') body?.cancel().catch(() => {})
  },
  server: createServer,
})

/** Serves applications through the adapter, with some steps replaced. `change` gets the correct steps. */
export const serveStepwise =
  (change: (correct: Steps) => Partial<Steps> = () => ({})): ServeApplication =>
  ({ manager: sessions, handle }) => {
    const correct = correctSteps(() => steps)
    const steps: Steps = { ...correct, ...change(correct) }
    const server = steps.server((request, response) => {
      const exchange = { request, response, sessions, handle, x: request } as Omit<Exchange, 'context'> as Exchange
      steps.respond(exchange).catch(() => response.destroy())
    })
    return listening(server)
  }
