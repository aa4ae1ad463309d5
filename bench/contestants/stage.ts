// Requests without a socket: the code of the application, with real requests and responses that are not sent.

import { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { cookieHeader, cookiesIn, type Workload } from '../workloads.ts'
import type { App, FetchHandler, NodeListener } from './contestant.ts'

/** A response. Its parts are read only on demand, so that reading them is not measured. */
export type Answer = {
  /** The cookies of the session, or undefined if none were set. */
  readonly cookie: () => string | undefined
  readonly text: () => string | Promise<string>
}

/** Sends a request of this workload with these cookies of the session. */
export type Send = (workload: Workload, cookie: string | undefined) => Promise<Answer>

const checkStatus = (status: number, workload: Workload): void => {
  if (status !== 200) throw new Error(`A request (${workload}) was answered with ${status}.`)
}

const overFetch =
  (handler: FetchHandler): Send =>
  async (workload, cookie) => {
    const request = new Request(`https://bench.test/${workload}`, { headers: { cookie: cookieHeader(cookie) } })
    const response = await handler(request)
    checkStatus(response.status, workload)
    return { cookie: () => cookiesIn(response.headers.getSetCookie()), text: () => response.text() }
  }

const socket = { remoteAddress: '127.0.0.1', encrypted: false } as unknown as Socket

/** The unsent output: a response without a socket keeps its header and queues the rest. */
type Unsent = { readonly _header: string; readonly outputData: readonly { readonly data: string | Buffer }[] }

const setCookies = (header: string): string[] =>
  Array.from(header.matchAll(/^set-cookie: (.*)$/gim), ([, value]) => value as string)

const overNode =
  (listener: NodeListener): Send =>
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
          checkStatus(response.statusCode, workload)
          const { _header, outputData } = response as unknown as Unsent
          resolve({
            cookie: () => cookiesIn(setCookies(_header)),
            text: () => outputData.map(({ data }) => data).join(''),
          })
        } catch (error) {
          reject(error)
        }
        return this
      } as typeof end
      listener(request, response)
    })

/** Returns a function that sends requests to an application. */
export const senderFor = (app: App): Send => (app.kind === 'fetch' ? overFetch(app.handler) : overNode(app.listener))

/** Logs in. Returns the cookies of the new session. */
export const login = async (send: Send): Promise<string> => {
  const cookie = (await send('login', undefined)).cookie()
  if (cookie === undefined) throw new Error('A login set no cookie.')
  return cookie
}

/** Checks that logins, writes and reads work. */
export const checkWorkloads = async (send: Send): Promise<void> => {
  const cookie = await login(send)
  const before = await (await send('read', cookie)).text()
  const written = await send('write', cookie)
  const after = await (await send('read', written.cookie() ?? cookie)).text()
  if (before === after) throw new Error('A write was not saved.')
  if ((await send('anonymous', undefined)).cookie() !== undefined) throw new Error('An anonymous request got a cookie.')
}
