// The load, from a process of its own: autocannon, with a session for each connection.

import autocannon from 'autocannon'
import { answering } from '../child.ts'
import { cookieHeader } from '../workloads.ts'

export type Load = {
  readonly url: string
  readonly seconds: number
  readonly connections: number
  /** One for each connection; or, where tokens are to be new, one for each request. */
  readonly cookies: readonly string[] | undefined
  readonly once: boolean
}

export type Loaded = { readonly requests: number; readonly seconds: number }

type Client = { setHeaders(headers: Record<string, string>): void }
type Outcome = { '2xx': number; non2xx: number; errors: number; duration: number }

answering(async ({ url, seconds, connections, cookies, once }: Load): Promise<Loaded> => {
  let at = 0
  const headers = (): Record<string, string> => ({ cookie: cookieHeader(cookies?.[at++ % (cookies.length || 1)]) })
  const setupRequest = (request: { headers: Record<string, string> }) => ({ ...request, headers: headers() })
  const outcome: Outcome = await autocannon({
    url,
    connections,
    duration: seconds,
    ...(once ? { requests: [{ setupRequest }] } : { setupClient: (client: Client) => client.setHeaders(headers()) }),
  })
  if (outcome.non2xx + outcome.errors > 0) throw new Error(`${outcome.non2xx + outcome.errors} answers were wrong.`)
  if (once && cookies !== undefined && at > cookies.length) throw new Error('There were too few new tokens.')
  return { requests: outcome['2xx'], seconds: outcome.duration }
})
