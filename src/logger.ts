// A line a response, as Dream's logger: number, method, path, status, time, and the label of the session it touched.

import { checkOptionNames } from './error.ts'
import { around, type Handler } from './http/handler.ts'
import { labelFor } from './request.ts'

export type LoggerOptions = {
  /** Takes a line without its end. Default: standard error. */
  readonly write?: ((line: string) => void) | undefined
}

let requests = 0

const pathOf = (url: string): string => {
  const slash = url.indexOf('/', url.indexOf('//') + 2)
  return slash === -1 ? '/' : url.slice(slash)
}

/** Of an error its name, and of anything else its type: no words of it. */
const nameOf = (error: unknown): string => {
  const { name } = (error ?? {}) as { name?: unknown }
  return typeof name === 'string' ? name : typeof error
}

/**
 * Writes a line for each response that `next` gives. Put it around the sessions, so that it can name them.
 *
 * @throws what `next` throws
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
