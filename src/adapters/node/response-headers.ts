// The header fields of a Node response, as the functions that add cookies, Vary and Cache-Control use them.

import type { ResponseHeaders } from '../../response.ts'

/** A value of `getHeader` or `getHeaders`. */
type HeaderValue = number | string | readonly string[] | undefined

/** The header fields of a response by their names. */
export type HeaderValues = Readonly<Record<string, HeaderValue>>

/** The members of a ServerResponse, or of an HTTP/2 response, that hold its head. */
export type HeadWriter = {
  statusCode: number
  statusMessage?: string
  readonly headersSent: boolean
  getHeader(name: string): HeaderValue
  getHeaderNames(): string[]
  setHeader(name: string, value: number | string | readonly string[]): unknown
  removeHeader(name: string): void
}

export class NodeResponseHeaders implements ResponseHeaders {
  readonly #response: HeadWriter

  constructor(response: HeadWriter) {
    this.#response = response
  }

  get(name: string): string | null {
    const value = this.#response.getHeader(name)
    if (value === undefined) return null
    return typeof value === 'object' ? value.join(', ') : String(value)
  }

  set(name: string, value: string): void {
    this.#response.setHeader(name, value)
  }

  /** Keeps the values that the application has set. */
  append(name: string, value: string): void {
    const earlier = this.#response.getHeader(name)
    if (earlier === undefined) this.#response.setHeader(name, [value])
    else this.#response.setHeader(name, [...(typeof earlier === 'object' ? earlier : [String(earlier)]), value])
  }

  keys(): HeadersIterator<string> {
    return this.#response.getHeaderNames()[Symbol.iterator]()
  }
}

/** A copy that later changes do not reach: frameworks push cookies into the lists that `getHeaders` returns. */
export const copyHeaders = (headers: HeaderValues): HeaderValues => {
  const copy = { ...headers }
  for (const name in copy) {
    const value = copy[name]
    if (typeof value === 'object') copy[name] = [...value]
  }
  return copy
}

/** Replaces all header fields of a response. */
export const resetHeaders = (response: HeadWriter, headers: HeaderValues): void => {
  for (const name of response.getHeaderNames()) response.removeHeader(name)
  for (const [name, value] of Object.entries(headers)) if (value !== undefined) response.setHeader(name, value)
}

/** Pairs of names and values: `writeHead` takes them as a flat list too. */
const pairsOf = (list: readonly unknown[]): readonly (readonly [string, string])[] =>
  Array.isArray(list[0])
    ? (list as [string, string][])
    : list.flatMap((name, i) => (i % 2 === 0 ? [[name, list[i + 1]] as [string, string]] : []))

/**
 * Puts the arguments of `writeHead` onto a response, in the order in which Node would merge them. Then cookies that are added
 * in the meantime stay, because `writeHead` without headers replaces none.
 *
 * @throws the errors of `writeHead` for a name or a value that is not valid
 */
export const applyWriteHead = (response: HeadWriter, [status, reason, more]: readonly unknown[]): void => {
  const headers = typeof reason === 'string' ? more : (more ?? reason)
  if (Array.isArray(headers)) {
    const pairs = pairsOf(headers)
    for (const [name] of pairs) response.removeHeader(name)
    const target = new NodeResponseHeaders(response)
    for (const [name, value] of pairs) {
      if (response.getHeader(name) === undefined) response.setHeader(name, value)
      else target.append(name, String(value))
    }
  } else if (typeof headers === 'object' && headers !== null) {
    for (const [name, value] of Object.entries(headers)) if (name !== '') response.setHeader(name, value)
  }
  response.statusCode = status as number
  if (typeof reason === 'string') response.statusMessage = reason
}
