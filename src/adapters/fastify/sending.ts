// Commits a request before Fastify sends its reply, and replaces the reply if that fails.

import type { FastifyReply, FastifyRequest } from 'fastify'
import { abandonRequest, commitRequest, type RequestOutcome, usesSession } from '../../commit-request.ts'
import { isThenable, type KeepsakeError } from '../../error.ts'
import { contextInside, type Manager, type RequestContext } from '../../request-context.ts'
import { addHeaders, isResponse, sendable } from '../../response.ts'
import { frameworkError } from '../framework-error.ts'
import { renderFailure } from '../node/refusal.ts'
import { awaitSending, discardBody } from '../unsent-body.ts'
import { ReplyHeaders, resetReply } from './reply-headers.ts'
import type { FastifyRequestHead } from './request-head.ts'

/** Changes the errors that a framework shows to visitors. */
type PresentError = (error: KeepsakeError) => KeepsakeError

/** The end of a hook. A second argument replaces the payload. */
type Done = (error?: Error | null, payload?: unknown) => void

/** Whether Fastify can send a payload. It throws an error for any other. @throws KeepsakeError `no_response` */
const canBeSent = (payload: unknown): boolean => {
  if (payload === undefined || payload === null || typeof payload === 'string') return true
  if (isResponse(payload)) return sendable(payload) === payload
  const { pipe, getReader, locked } = payload as Partial<ReadableStream> & { readonly pipe?: unknown }
  return payload instanceof Uint8Array || typeof pipe === 'function' || (typeof getReader === 'function' && !locked)
}

/** Moves the status and the headers of a Response to the reply: Fastify would do it later, and overwrite Vary and Cache-Control. */
const unpacked = (reply: FastifyReply, payload: unknown): unknown => {
  if (!isResponse(payload)) return payload
  reply.code(payload.status)
  for (const [name, value] of payload.headers) reply.header(name, value)
  return payload.body
}

const add = (reply: FastifyReply, { cookies, emit, privateResponse }: RequestOutcome): void =>
  addHeaders(new ReplyHeaders(reply), cookies, emit, privateResponse)

/** The payload in place of the handler's. @throws KeepsakeError for the error handler of the application */
const replace = async (
  manager: Manager,
  head: FastifyRequestHead,
  reply: FastifyReply,
  outcome: RequestOutcome,
  present: PresentError,
): Promise<unknown> => {
  resetReply(reply, head.arrival)
  if (manager.errorResponse === undefined) {
    // An error handler that sets no status answers with this one. The cookies are on the reply, and not twice.
    const error = present(frameworkError({ ...outcome, cookies: [] }))
    reply.code(error.status ?? 500)
    add(reply, { ...outcome, privateResponse: true })
    throw error
  }
  const { answer, body } = await renderFailure(manager, head, outcome.failure ?? 'not_saved')
  reply.code(answer.status)
  for (const [name, value] of answer.headers) reply.header(name, value)
  add(reply, outcome)
  return Buffer.from(body)
}

/** The hook `onSend`. If the backend is synchronous, so is the hook. */
export const sender =
  (owner: unknown, manager: Manager, present: PresentError = (error) => error) =>
  (request: FastifyRequest, reply: FastifyReply, payload: unknown, done: Done): Promise<unknown> | undefined => {
    const { raw } = request
    const requestContext = contextInside(raw, owner)
    if (requestContext === undefined || requestContext.answered) {
      done()
      return
    }
    if (!usesSession(requestContext)) {
      commitRequest(raw, requestContext, reply.statusCode)
      done()
      return
    }
    // Nothing may be saved for a reply that cannot be sent. If a later hook makes it one, the held response commits.
    if (!canBeSent(payload)) {
      done()
      return
    }
    const head = requestContext.head as FastifyRequestHead
    const outcome = commitRequest(raw, requestContext, isResponse(payload) ? payload.status : reply.statusCode)
    const complete = (outcome: RequestOutcome | undefined): unknown => {
      if (outcome === undefined) return payload
      const body = unpacked(reply, payload)
      add(reply, outcome)
      return body
    }
    if (!isThenable(outcome) && outcome?.failure === undefined) {
      done(null, complete(outcome))
      return
    }
    awaitSending(payload)
    return Promise.resolve(outcome).then(
      (outcome) => {
        if (outcome?.failure === undefined) return complete(outcome)
        discardBody(payload)
        return replace(manager, head, reply, outcome, present)
      },
      (error) => {
        discardBody(payload)
        resetReply(reply, head.arrival)
        reply.code(500)
        throw error
      },
    )
  }

/** The hook `onError`. Fastify calls it before the error handler. */
export const abandoner =
  (owner: unknown) =>
  (request: FastifyRequest, reply: FastifyReply, error: unknown, done: () => void): Promise<void> | undefined => {
    const requestContext: RequestContext | undefined = contextInside(request.raw, owner)
    // A request that did not use its session has nothing to drop, and the error handler may use it.
    if (requestContext === undefined || requestContext.answered || !usesSession(requestContext)) {
      done()
      return
    }
    return abandonRequest(request.raw, requestContext, error).then((outcome) => {
      if (outcome !== undefined) add(reply, { ...outcome, privateResponse: true })
    })
  }
