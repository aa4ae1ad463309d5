// A gateway in front of a server of HTTP/2: it passes each request of HTTP/1.1 on as a stream, with its cookies in several fields.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { type ClientHttp2Session, connect, constants, type OutgoingHttpHeaders } from 'node:http2'
import type { ServedApplication } from 'keepsake/testing'
import { listening } from './listening.ts'

/** Fields that belong to one connection: HTTP/2 has none of them. */
const ofConnection = new Set([
  'connection',
  'host',
  'keep-alive',
  'transfer-encoding',
  'upgrade',
  'proxy-connection',
  'te',
])

/** RFC 9113 §8.2.3: a client may send each cookie in a field of its own. */
const splitCookies = (cookie: string): string[] => cookie.split(/; ?/)

const headOf = ({ method, url, headers }: IncomingMessage): OutgoingHttpHeaders => {
  const head: OutgoingHttpHeaders = {
    ':method': method,
    ':scheme': 'http',
    ':path': url?.startsWith('http:') ? url.replace(/^http:\/\/[^/]*/, '') : url,
    ':authority': headers.host ?? '',
  }
  for (const [name, value] of Object.entries(headers)) {
    if (!ofConnection.has(name) && value !== undefined)
      head[name] = name === 'cookie' ? splitCookies(value as string) : value
  }
  return head
}

const passOn = (session: ClientHttp2Session, request: IncomingMessage, response: ServerResponse): void => {
  const stream = session.request(headOf(request), { endStream: request.method === 'GET' || request.method === 'HEAD' })
  request.pipe(stream)
  response.once('close', () => stream.close(constants.NGHTTP2_CANCEL))
  stream.once('response', ({ ':status': status = 0, ...headers }) => {
    response.writeHead(status, headers as OutgoingHttpHeaders)
    response.flushHeaders()
    stream.pipe(response)
  })
  stream.once('error', () => response.destroy())
  stream.once('close', () => {
    if (!response.writableEnded) response.destroy()
  })
}

/** @param target the URL of the server of HTTP/2 */
export const startGateway = async (target: string, closeServer: () => Promise<void>): Promise<ServedApplication> => {
  const session = connect(target)
  session.on('error', () => {})
  const { url, close } = await listening(createServer((request, response) => passOn(session, request, response)))
  return {
    url,
    async close() {
      await close()
      session.destroy()
      await closeServer()
    },
  }
}
