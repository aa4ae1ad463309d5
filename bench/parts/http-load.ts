// A process that makes the load: autocannon, with a session for each connection.

import autocannon from 'autocannon'
import { answerQuestions } from '../child.ts'
import { cookieHeader } from '../workloads.ts'

export type Load = {
  readonly url: string
  readonly seconds: number
  readonly connections: number
  /** One cookie for each connection. With `once`, one for each request, because tokens must be new. */
  readonly cookies: readonly string[] | undefined
  readonly once: boolean
}

export type LoadResult = { readonly requests: number; readonly seconds: number }

type Client = { setHeaders(headers: Record<string, string>): void }
type Outcome = { '2xx': number; non2xx: number; errors: number; duration: number }

answerQuestions(async ({ url, seconds, connections, cookies, once }: Load): Promise<LoadResult> => {
  let at = 0
  const headers = (): Record<string, string> => ({ cookie: cookieHeader(cookies?.[at++ % (cookies.length || 1)]) })
  const setupRequest = (request: { headers: Record<string, string> }) => ({ ...request, headers: headers() })
  const outcome: Outcome = await autocannon({
    url,
    connections,
    duration: seconds,
    ...(once ? { requests: [{ setupRequest }] } : { setupClient: (client: Client) => client.setHeaders(headers()) }),
  })
  if (outcome.non2xx + outcome.errors > 0)
    throw new Error(`${outcome.non2xx + outcome.errors} requests failed or were not answered with 2xx.`)
  if (once && cookies !== undefined && at > cookies.length)
    throw new Error('There were fewer new tokens than requests.')
  return { requests: outcome['2xx'], seconds: outcome.duration }
})
