// Logs one line for each response, like Dream's logger: number, method, path, status, time, and the session's label.

import { checkOptionNames } from './error.ts'
import { around, type Handler } from './http/handler.ts'
import { labelFor } from './request.ts'

export type LoggerOptions = {
  /** Called with each line, without a newline. Default: writes to standard error. */
  readonly write?: ((line: string) => void) | undefined
}

let requests = 0

const pathOf = (url: string): string => {
  const slash = url.indexOf('/', url.indexOf('//') + 2)
  return slash === -1 ? '/' : url.slice(slash)
}

/** The name of an error, or the type of another value. Its message may contain secrets. */
const nameOf = (error: unknown): string => {
  const { name } = (error ?? {}) as { name?: unknown }
  return typeof name === 'string' ? name : typeof error
}

/**
 * Writes one line for each response of `next`. Put it outside the session manager, so that it can log the label of the
 * session that a request used.
 *
 * @throws the error that `next` throws
 */
export const logger = <R extends Request = Request, Rest extends readonly unknown[] = readonly []>(
  next: Handler<R, Rest>,
  options: LoggerOptions = {},
): Handler<R, Rest> => {
  checkOptionNames(options, ['write'], 'logger()')
  const { write = (line) => process.stderr.write(`${line}\n`) } = options
  return around(next, async function withLogger(request: R, ...rest: Rest) {
    requests += 1
    const number = requests
    const started = performance.now()
    const line = (outcome: string) => {
      const label = labelFor(request)
      const time = `${(performance.now() - started).toFixed(1)} ms`
      write([number, request.method, pathOf(request.url), outcome, time, ...(label ? [label] : [])].join(' '))
    }
    try {
      const response = await next(request, ...rest)
      line(String(response.status))
      return response
    } catch (error) {
      line(`aborted by ${nameOf(error)}`)
      throw error
    }
  })
}
