// The header fields of a Fastify reply, as the functions that add cookies, Vary and Cache-Control use them.

import type { FastifyReply } from 'fastify'
import type { ResponseHeaders } from '../../response.ts'
import { copyHeaders, type HeaderValues } from '../node/response-headers.ts'

type Values = Parameters<FastifyReply['headers']>[0]

export class ReplyHeaders implements ResponseHeaders {
  readonly #reply: FastifyReply

  constructor(reply: FastifyReply) {
    this.#reply = reply
  }

  get(name: string): string | null {
    const value: unknown = this.#reply.getHeader(name)
    if (value === undefined) return null
    return Array.isArray(value) ? value.join(', ') : String(value)
  }

  set(name: string, value: string): void {
    this.#reply.header(name, value)
  }

  /** Keeps the values that the application has set, also those on Node's response: a field of the reply replaces them. */
  append(name: string, value: string): void {
    const earlier = this.#reply.getHeader(name)
    if (earlier === undefined) this.#reply.header(name, [value])
    else {
      const values = Array.isArray(earlier) ? earlier : [String(earlier)]
      // Otherwise Fastify adds to the values of the reply.
      this.#reply.removeHeader(name)
      this.#reply.header(name, [...values, value])
    }
  }

  keys(): HeadersIterator<string> {
    return Object.keys(this.#reply.getHeaders())[Symbol.iterator]()
  }
}

/** The header fields of a reply and of its Node response. */
export const headersOf = (reply: FastifyReply): HeaderValues => copyHeaders(reply.getHeaders() as HeaderValues)

/** Replaces all header fields of a reply. */
export const resetReply = (reply: FastifyReply, headers: HeaderValues): void => {
  for (const name of Object.keys(reply.getHeaders())) reply.removeHeader(name)
  reply.headers(headers as Values)
}
