// Listens on a free port, and sends the answers of adapter cases through a Node response.

import { once } from 'node:events'
import type { Server, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Readable } from 'node:stream'
import type { Answer, ServedApplication } from 'keepsake/testing'

export const listening = async (server: Server): Promise<ServedApplication> => {
  if (!server.listening) {
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
  }
  const { port } = server.address() as AddressInfo
  return {
    url: `http://127.0.0.1:${port}`,
    async close() {
      if (!server.listening) return
      server.close()
      server.closeAllConnections()
      await once(server, 'close')
    },
  }
}

/** Sets the header fields of an answer one by one, as handlers do. */
export const setHead = (response: ServerResponse, { status, headers }: Answer): void => {
  response.statusCode = status
  for (const [name, value] of headers) {
    if (name === 'set-cookie') response.appendHeader(name, value)
    else response.setHeader(name, value)
  }
}

export const sendAnswer = (response: ServerResponse, answer: Answer): void => {
  setHead(response, answer)
  const { body } = answer
  if (typeof body === 'object' && body !== null) Readable.fromWeb(body as never).pipe(response)
  else response.end(body ?? undefined)
}

/** The error page of an application without a framework. */
export const sendError = (response: ServerResponse, error: unknown): void => {
  const { status = 500, headers = {}, message } = error as { status?: number; headers?: object; message?: string }
  for (const [name, value] of Object.entries(headers)) response.setHeader(name, value as string[])
  response.statusCode = status
  response.end(message)
}
