// Serves an application for one case, and gives the case its visitors, its sockets and its store.

import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { type SessionManager, sessionManager } from '../../manager.ts'
import type { SessionManagerOptions } from '../../options.ts'
import { type Browser, browser } from '../browser.ts'
import { answerBy, type CaseHandler, createPause, type Pause, type ServeApplication, text } from './application.ts'
import { CaseStore, type StoreKind } from './store.ts'

export type Stage = {
  readonly url: string
  readonly manager: SessionManager
  readonly store: CaseStore
  /** The types of the events so far. */
  readonly events: readonly string[]
  readonly pause: Pause
  /** Makes a visitor with a cookie jar. They do not follow redirects. */
  visitor(): Browser
  /** Sends bytes on a new connection, and returns all that the server sends until it closes the connection. */
  send(bytes: string): Promise<string>
  /** Whether the server still answers requests. */
  assertAlive(): Promise<void>
}

export type StageSetup = {
  readonly store: StoreKind
  readonly handlers?: Readonly<Record<string, CaseHandler>>
  readonly options?: Partial<SessionManagerOptions>
}

/** Milliseconds after which a connection without an answer is an error. A correct adapter answers in a few. */
const PATIENCE = 20_000

const sendOn = (url: string, bytes: string): Promise<string> => {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(bytes, 'latin1'))
    let received = ''
    socket.setEncoding('latin1')
    socket.setTimeout(PATIENCE, () => socket.destroy(new Error(`No answer to ${JSON.stringify(bytes.slice(0, 80))}`)))
    socket.on('data', (piece) => {
      received += piece
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(received))
  })
}

/** Runs a case on a served application, and stops the application. */
export const onStage = async (
  serve: ServeApplication,
  { store: kind, handlers = {}, options = {} }: StageSetup,
  run: (stage: Stage) => Promise<void>,
): Promise<void> => {
  const store = new CaseStore(kind)
  const events: string[] = []
  const manager = sessionManager({
    backend: store.backend,
    storeTimeout: PATIENCE / 1000,
    onEvent: ({ type }) => events.push(type),
    ...options,
  })
  const pause = createPause()
  const handle = answerBy({ '/ping': () => text('pong'), ...handlers }, pause)
  const { url, close } = await serve({ manager, handle })
  try {
    await run({
      url,
      manager,
      store,
      events,
      pause,
      visitor: () => browser((request) => fetch(request, { redirect: 'manual' }), { origin: url }),
      send: (bytes) => sendOn(url, bytes),
      async assertAlive() {
        const response = await fetch(new URL('/ping', url))
        assert.equal(await response.text(), 'pong', 'the server answers the next request')
      },
    })
  } finally {
    await close()
    await manager.close()
  }
}

/** A case of an adapter: data that any test runner can run. */
export type AdapterCase = {
  /** The promise. */
  readonly name: string
  /** Rejects if the adapter breaks the promise. */
  run(serve: ServeApplication): Promise<void>
}

type StagedCase = Omit<StageSetup, 'store'> & { readonly run: (stage: Stage) => Promise<void> }

/** A case on one kind of store. */
export const caseOn = (store: StoreKind, name: string, { run, ...options }: StagedCase): AdapterCase => ({
  name,
  run: (serve) => onStage(serve, { ...options, store }, run),
})

/** A case on both kinds of store. */
export const onBothStores = (name: string, staged: StagedCase): AdapterCase[] => [
  caseOn('synchronous', `${name} (a synchronous store)`, staged),
  caseOn('asynchronous', `${name} (an asynchronous store)`, staged),
]
