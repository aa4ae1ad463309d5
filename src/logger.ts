// A line a response, as Dream's logger: number, method, path, status, time, and the label of the session it touched.

import { around, type Handler } from './handler.ts'
import { touched } from './passage.ts'

export type LoggerOptions = {
  /** Takes a line without its end. Default: standard error. */
  readonly write?: (line: string) => void
}

let requests = 0

const pathOf = (url: string): string => {
  const slash = url.indexOf('/', url.indexOf('//') + 2)
  return slash === -1 ? '/' : url.slice(slash)
}

/** Writes a line for each response that `next` gives. Put it around the sessions, so that it can name them. */
export const logger = (
  next: Handler,
  { write = (line) => process.stderr.write(`${line}\n`) }: LoggerOptions = {},
): Handler =>
  around(next, async function withLogger(request) {
    requests += 1
    const number = requests
    const started = performance.now()
    const line = (outcome: string) => {
      const label = touched(request)
      const time = `${(performance.now() - started).toFixed(1)} ms`
      write([number, request.method, pathOf(request.url), outcome, time, ...(label ? [label] : [])].join(' '))
    }
    try {
      const response = await next(request)
      line(String(response.status))
      return response
    } catch (error) {
      line(`aborted by ${error instanceof Error ? error.name : typeof error}`)
      throw error
    }
  })
