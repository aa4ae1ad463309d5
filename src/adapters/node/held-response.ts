// Commits a request when the first byte of its Node response is about to leave, and holds the response until then.

import { commitRequest, type RequestOutcome } from '../../commit-request.ts'
import { isThenable, KeepsakeError } from '../../error.ts'
import type { RequestContext, RequestLike } from '../../request-context.ts'
import { addHeaders } from '../../response.ts'
import {
  applyWriteHead,
  type HeaderValues,
  type HeadWriter,
  NodeResponseHeaders,
  resetHeaders,
} from './response-headers.ts'

/** The methods that send the head of a response. The first call of one begins the commit. */
const operations = ['writeHead', 'write', 'end', 'flushHeaders'] as const
/** The methods that change the head. They throw while the response is held, as they do after the head was sent. */
const setters = ['setHeader', 'appendHeader', 'removeHeader', 'setHeaders'] as const

type Operation = (typeof operations)[number]
type Method = (...args: unknown[]) => unknown
type Source = { unpipe(target: unknown): unknown; destroy?(): unknown }

export type NodeResponse = HeadWriter & { [name in Operation]?: Method } & {
  [name in (typeof setters)[number]]?: Method
} & {
  readonly writableNeedDrain?: boolean
  readonly getHeaders?: () => HeaderValues
  on?(event: string, listener: (...args: never[]) => void): unknown
  off?(event: string, listener: (...args: never[]) => void): unknown
  once?(event: string, listener: (...args: never[]) => void): unknown
  emit?(event: string): unknown
  destroy?(): unknown
  _implicitHeader?: Method
}

/** Why the response of the handler cannot be sent: an outcome with a failure, or an error of the application. */
export type Refusal = { readonly outcome: RequestOutcome } | { readonly error: unknown }

type HeldRequest = {
  readonly request: RequestLike
  readonly response: NodeResponse
  /** The header fields that were set before the adapter got the request: they belong to every response. */
  readonly arrival: HeaderValues
  /** The context of the request, once it is attached. */
  readonly context: () => RequestContext
  /**
   * Sends another response in place of the handler's. Until the promise settles, the handler's calls are kept back. With
   * `isRunning` the handler may still write, so the other response must be complete when the promise settles: the calls that
   * follow are dropped.
   */
  readonly refuse: (refusal: Refusal, isRunning: boolean) => Promise<() => void>
}

const callbackOf = (args: readonly unknown[]): Method | undefined =>
  args.findLast((arg) => typeof arg === 'function') as Method | undefined

/** @throws KeepsakeError `too_late` if the head of the response has left, so no cookie can be sent */
export const assertUnsent = ({ headersSent }: Pick<NodeResponse, 'headersSent'>): void => {
  if (!headersSent) return
  throw new KeepsakeError(
    'too_late',
    'The session was requested after the head of the response was sent. Request it before the first write.',
  )
}

const isStatus = (status: number): boolean => Number.isInteger(status) && status >= 100 && status <= 999

const headersSentError = (what: string): Error =>
  Object.assign(new Error(`Cannot ${what} headers after they are sent to the client`), {
    code: 'ERR_HTTP_HEADERS_SENT',
  })

/**
 * Replaces the methods of a response that send its head. The functions that were there, for example those of a compression, are
 * called and never restored, because others may have replaced the new ones since.
 */
class HeldResponse {
  readonly #held: HeldRequest
  readonly #original: Partial<Record<Operation, Method>> = {}
  #sources: Set<Source> | undefined
  /** The calls that wait. */
  readonly #calls: [name: Operation, args: readonly unknown[]][] = []
  /**
   * - `waiting`: nothing was sent. The first operation begins the commit.
   * - `held`: the commit is in progress. Operations wait, and the response looks as if its head was sent.
   * - `passing`: the commit is done, and operations reach the response.
   * - `dropping`: another response was sent, and operations of the handler do nothing.
   */
  #state: 'waiting' | 'held' | 'passing' | 'dropping' = 'waiting'
  #status = 0
  #statusMessage: string | undefined
  #isEnded = false
  #needsDrain = false
  /** The properties that the response had before `#hide`. */
  #shown: ReadonlyMap<string, PropertyDescriptor | undefined> | undefined

  constructor(held: HeldRequest) {
    this.#held = held
    const { response } = held
    for (const name of operations) {
      const method = response[name]
      if (method === undefined) continue
      this.#original[name] = method
      response[name] = (...args: unknown[]) => this.#operate(name, args)
    }
    response.on?.('pipe', (source: Source) => {
      this.#sources ??= new Set()
      this.#sources.add(source)
    })
  }

  #operate(name: Operation, args: readonly unknown[]): unknown {
    const { response, context } = this.#held
    if (this.#state === 'waiting' && (response.headersSent || context().answered)) this.#state = 'passing'
    if (this.#state === 'passing') return this.#send(name, args)
    if (this.#state === 'waiting') return this.#begin(name, args)
    if (this.#state === 'held') return this.#hold(name, args)
    const done = callbackOf(args)
    if (done !== undefined) queueMicrotask(() => done())
    return name === 'write' ? true : response
  }

  #send(name: Operation, args: readonly unknown[]): unknown {
    return this.#original[name]?.apply(this.#held.response, args as unknown[])
  }

  #begin(name: Operation, args: readonly unknown[]): unknown {
    const { request, response, context } = this.#held
    if (name === 'writeHead') applyWriteHead(response, args)
    // Node throws. Nothing may be saved for a response that cannot be sent.
    if (!isStatus(response.statusCode)) return this.#send(name, args)
    const rest = name === 'writeHead' ? [response.statusCode] : args
    this.#status = response.statusCode
    const outcome = commitRequest(request, context(), this.#status)
    if (!isThenable(outcome) && outcome?.failure === undefined) {
      if (outcome !== undefined) this.#add(outcome)
      this.#state = 'passing'
      return this.#send(name, rest)
    }
    // HTTP/2 has no reason phrase, and Node warns of every use of it.
    if ('assignSocket' in response) this.#statusMessage = response.statusMessage
    this.#state = 'held'
    this.#hide()
    const result = this.#hold(name, rest)
    // Not before the handler has returned: it may call writeHead and then end.
    Promise.resolve(outcome)
      .then(
        (outcome) => (outcome?.failure === undefined ? this.#release(outcome) : this.#fail({ outcome })),
        (error) => this.#fail({ error }),
      )
      .catch((error) => this.#fail({ error }))
      // The head has left, so no other response can follow it.
      .catch(() => response.destroy?.())
    return result
  }

  #hold(name: Operation, args: readonly unknown[]): unknown {
    if (name === 'writeHead' && this.#calls.length > 0) throw headersSentError('write')
    this.#calls.push([name, args])
    if (name === 'end') this.#isEnded = true
    if (name === 'write') this.#needsDrain = true
    return name === 'write' ? false : this.#held.response
  }

  /** Makes the response look as if its head was sent, so that no error handler sends a second one. */
  #hide(): void {
    const { response } = this.#held
    const shown = new Map<string, PropertyDescriptor | undefined>()
    const define = (name: string, property: PropertyDescriptor) => {
      shown.set(name, Object.getOwnPropertyDescriptor(response, name))
      Object.defineProperty(response, name, { ...property, configurable: true })
    }
    for (const name of setters) {
      if (response[name] === undefined) continue
      const refuse = () => {
        throw headersSentError(name === 'removeHeader' ? 'remove' : 'set')
      }
      define(name, { value: refuse, writable: true })
    }
    // express-session and compression call it to send the head.
    if (response._implicitHeader !== undefined) define('_implicitHeader', { value: () => {}, writable: true })
    define('headersSent', { get: () => true })
    define('writableEnded', { get: () => this.#isEnded })
    this.#shown = shown
  }

  #show(): void {
    const { response } = this.#held
    for (const [name, property] of this.#shown ?? []) {
      if (property === undefined) delete (response as unknown as Record<string, unknown>)[name]
      else Object.defineProperty(response, name, property)
    }
    this.#shown = undefined
  }

  #release(outcome: RequestOutcome | undefined): void {
    const { response } = this.#held
    this.#show()
    // The handler may have set these in the meantime. Node ignores that after the head was sent.
    response.statusCode = this.#status
    if (this.#statusMessage !== undefined) response.statusMessage = this.#statusMessage
    if (outcome !== undefined) this.#add(outcome)
    this.#state = 'passing'
    for (const [name, args] of this.#calls.splice(0)) this.#send(name, args)
    this.#drain()
  }

  async #fail(refusal: Refusal): Promise<void> {
    const { response, arrival, refuse } = this.#held
    const isRunning = !this.#isEnded && !this.#stopSources()
    const sendOther = await refuse(refusal, isRunning)
    this.#show()
    resetHeaders(response, arrival)
    response.statusCode = 200
    if (this.#statusMessage !== undefined) response.statusMessage = ''
    if ('outcome' in refusal) this.#add(refusal.outcome)
    for (const [, args] of this.#calls.splice(0)) callbackOf(args)?.()
    this.#state = 'passing'
    sendOther()
    if (isRunning) this.#state = 'dropping'
    this.#drain()
  }

  #add({ cookies, privateResponse, emit }: RequestOutcome): void {
    addHeaders(new NodeResponseHeaders(this.#held.response), cookies, emit, privateResponse)
  }

  #drain(): void {
    const { response } = this.#held
    if (this.#needsDrain && response.writableNeedDrain !== true) response.emit?.('drain')
    this.#needsDrain = false
  }

  /**
   * Stops the streams that are piped into the response, and destroys them after it: `pipe` would leave them open, and `pipeline`
   * would close the socket before the other response is sent.
   */
  #stopSources(): boolean {
    const { response } = this.#held
    const piped: Source[] = []
    const onUnpipe = (source: Source) => piped.push(source)
    response.on?.('unpipe', onUnpipe)
    for (const source of this.#sources ?? []) source.unpipe(response)
    response.off?.('unpipe', onUnpipe)
    response.once?.('close', () => {
      for (const source of piped) source.destroy?.()
    })
    return piped.length > 0
  }
}

/** Holds a response from now on. */
export const holdResponse = (held: HeldRequest): void => {
  new HeldResponse(held)
}
