// Chooses the response in place of the one of a handler whose request was not saved.

import { KeepsakeError } from '../../error.ts'
import type { ErrorKind } from '../../http/error-response.ts'
import type { RequestHead } from '../../http/request-head.ts'
import { trace } from '../../http/trace.ts'
import type { Manager } from '../../request-context.ts'
import { errorResponse } from '../../response.ts'
import { frameworkError } from '../framework-error.ts'
import type { NodeResponse, Refusal } from './held-response.ts'
import { NodeResponseHeaders } from './response-headers.ts'

/** A Request for the option `errorResponse`. Some requests that Node accepts cannot be a Request. */
const requestOf = ({ url = '', method = 'GET', headers }: RequestHead): Request => {
  const fields = new Headers()
  for (const name of headers.keys()) {
    try {
      fields.set(name, headers.get(name) ?? '')
    } catch {
      // Node accepts some bytes in a value that Headers refuses.
    }
  }
  try {
    return new Request(url, { method, headers: fields })
  } catch {
    return new Request('http://invalid/', { headers: fields })
  }
}

const sendResponse = (response: NodeResponse, answer: Response, body: Uint8Array): void => {
  const headers = new NodeResponseHeaders(response)
  for (const [name, value] of answer.headers) {
    if (name === 'set-cookie') headers.append(name, value)
    else headers.set(name, value)
  }
  response.statusCode = answer.status
  headers.set('content-length', String(body.length))
  response.end?.(body)
}

/** The response of the option `errorResponse` to a failure, or the default one. */
export const renderFailure = async (
  { errorResponse: render, emit }: Manager,
  head: RequestHead,
  kind: ErrorKind,
): Promise<{ readonly answer: Response; readonly body: Uint8Array }> => {
  const answer = await errorResponse(render, kind, requestOf(head), emit)
  return { answer, body: new Uint8Array(await answer.arrayBuffer()) }
}

/**
 * The function that sends another response. The error handler of the framework does, by `next`, unless the manager has the option
 * `errorResponse`, or the handler may still write, or there is no `next`.
 */
export const chooseRefusal = async (
  manager: Manager,
  head: RequestHead,
  response: NodeResponse,
  next: ((error: unknown) => void) | undefined,
  refusal: Refusal,
  isRunning: boolean,
): Promise<() => void> => {
  const renderKind = async (kind: ErrorKind) => {
    const { answer, body } = await renderFailure(manager, head, kind)
    return () => sendResponse(response, answer, body)
  }
  if ('outcome' in refusal) {
    const { outcome } = refusal
    if (next !== undefined && manager.errorResponse === undefined && !isRunning)
      return () => next(frameworkError(outcome))
    return renderKind(outcome.failure ?? 'not_saved')
  }
  const { error } = refusal
  if (next !== undefined && !isRunning) return () => next(error)
  // There is no error handler that could report it.
  if (!(error instanceof KeepsakeError)) console.error(trace(error))
  return renderKind('not_saved')
}
