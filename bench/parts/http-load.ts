// A process that makes the load: autocannon, whose connections use the sessions one after another.

import autocannon from 'autocannon'
import { answerQuestions } from '../child.ts'
import { cookieHeader } from '../workloads.ts'

export type Load = {
  readonly url: string
  readonly seconds: number
  readonly connections: number
  /** With `once`, one cookie for each request, because tokens must be new. */
  readonly cookies: readonly string[] | undefined
  readonly once: boolean
}

export type LoadResult = { readonly requests: number; readonly seconds: number }

type Outcome = { '2xx': number; non2xx: number; errors: number; duration: number }

/**
 * Requests that are sent on a connection before their answers. With one, the client sleeps while a slow server works, and each write
 * of the server pays for waking it: a bare server at the client's speed does not pay, so the share of every other one is too small.
 */
const PIPELINED = 8

answerQuestions(async ({ url, seconds, connections, once, ...load }: Load): Promise<LoadResult> => {
  const cookies: readonly (string | undefined)[] = load.cookies ?? [undefined]
  let at = 0
  const headersWith = (cookie: string | undefined) => ({ cookie: cookieHeader(cookie) })
  const setupRequest = (request: object) => ({ ...request, headers: headersWith(cookies[at++ % cookies.length]) })
  const outcome: Outcome = await autocannon({
    url,
    connections,
    duration: seconds,
    // autocannon cannot make a new request for each while others are in progress on the connection.
    ...(once
      ? { requests: [{ setupRequest }] }
      : { pipelining: PIPELINED, requests: cookies.map((cookie) => ({ headers: headersWith(cookie) })) }),
  })
  if (outcome.non2xx + outcome.errors > 0)
    throw new Error(`${outcome.non2xx + outcome.errors} requests failed or were not answered with 2xx.`)
  if (once && at > cookies.length) throw new Error('There were fewer new tokens than requests.')
  return { requests: outcome['2xx'], seconds: outcome.duration }
})
