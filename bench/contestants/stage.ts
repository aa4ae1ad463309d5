// Visits without a socket: the application's own code, on real requests and responses that nobody sends.

import { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { cookieHeader, keptOf, type Workload } from '../workloads.ts'
import type { App, FetchHandler, NodeListener } from './contestant.ts'

/** What a visitor got. Only who asks pays for looking into it. */
export type Seen = {
  /** The cookies of the session, where they were set. */
  readonly cookie: () => string | undefined
  readonly text: () => string | Promise<string>
}

export type Visit = (workload: Workload, cookie: string | undefined) => Promise<Seen>

const checked = (status: number, workload: Workload): void => {
  if (status !== 200) throw new Error(`A visit (${workload}) was answered with ${status}.`)
}

const overFetch =
  (handler: FetchHandler): Visit =>
  async (workload, cookie) => {
    const request = new Request(`https://bench.test/${workload}`, { headers: { cookie: cookieHeader(cookie) } })
    const response = await handler(request)
    checked(response.status, workload)
    return { cookie: () => keptOf(response.headers.getSetCookie()), text: () => response.text() }
  }

const socket = { remoteAddress: '127.0.0.1', encrypted: false } as unknown as Socket

/** What Node would send: a response without a socket keeps its head, and queues the rest. */
type Unsent = { readonly _header: string; readonly outputData: readonly { readonly data: string | Buffer }[] }

const setCookies = (head: string): string[] =>
  Array.from(head.matchAll(/^set-cookie: (.*)$/gim), ([, value]) => value as string)

const overNode =
  (listener: NodeListener): Visit =>
  (workload, cookie) =>
    new Promise((resolve, reject) => {
      const request = new IncomingMessage(socket)
      request.method = 'GET'
      request.url = `/${workload}`
      request.httpVersion = '1.1'
      request.httpVersionMajor = 1
      request.httpVersionMinor = 1
      request.headers = { host: 'bench.test', cookie: cookieHeader(cookie) }
      request.complete = true
      const response = new ServerResponse(request)
      const end = response.end
      response.end = function ended(this: ServerResponse, ...rest: unknown[]) {
        end.apply(this, rest as Parameters<typeof end>)
        try {
          checked(response.statusCode, workload)
          const { _header, outputData } = response as unknown as Unsent
          resolve({
            cookie: () => keptOf(setCookies(_header)),
            text: () => outputData.map(({ data }) => data).join(''),
          })
        } catch (error) {
          reject(error)
        }
        return this
      } as typeof end
      listener(request, response)
    })

export const stage = (app: App): Visit => (app.kind === 'fetch' ? overFetch(app.handler) : overNode(app.listener))

/** The cookies of a fresh session. */
export const loggedIn = async (visit: Visit): Promise<string> => {
  const cookie = (await visit('login', undefined)).cookie()
  if (cookie === undefined) throw new Error('A login set no cookie.')
  return cookie
}

/** Makes sure that logins, writes and reads are what they say. */
export const rehearse = async (visit: Visit): Promise<void> => {
  const cookie = await loggedIn(visit)
  const before = await (await visit('read', cookie)).text()
  const written = await visit('write', cookie)
  const after = await (await visit('read', written.cookie() ?? cookie)).text()
  if (before === after) throw new Error('A write was not saved.')
  if ((await visit('stranger', undefined)).cookie() !== undefined) throw new Error('A stranger got a cookie.')
}
