// Serves an application for one case, and gives the case its visitors, its sockets and its store.

import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { type SessionManager, sessionManager } from '../../manager.ts'
import type { SessionManagerOptions } from '../../options.ts'
import { type Browser, browser } from '../browser.ts'
import { answerBy, type CaseHandler, createPause, type Pause, type ServeApplication, text } from './application.ts'
import { CaseStore, type StoreKind } from './store.ts'

type Stage = {
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

type StageSetup = {
  readonly store: StoreKind
  readonly handlers?: Readonly<Record<string, CaseHandler>>
  readonly options?: Partial<SessionManagerOptions>
}

/** How a case runs. */
export type RunOptions = {
  /** Milliseconds after which the case fails, because an answer never came. Default 20000. A correct adapter needs a few. */
  readonly patience?: number | undefined
}

const PATIENCE = 20_000

/** Rejects if a promise is still pending after `patience` milliseconds. */
const within = async (patience: number, promise: Promise<void>): Promise<void> => {
  let timer: ReturnType<typeof setTimeout> | undefined
  const late = new Promise<never>((_, reject) => {
    const message = `The case did not end within ${patience} ms. The adapter may have left a request without an answer.`
    timer = setTimeout(() => reject(new Error(message)), patience)
  })
  try {
    await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

const sendOn = (url: string, bytes: string, patience: number): Promise<string> => {
  const { hostname, port } = new URL(url)
  return new Promise((resolve, reject) => {
    const socket = connect(Number(port), hostname, () => socket.write(bytes, 'latin1'))
    let received = ''
    socket.setEncoding('latin1')
    socket.setTimeout(patience, () => socket.destroy(new Error(`No answer to ${JSON.stringify(bytes.slice(0, 80))}`)))
    socket.on('data', (piece) => {
      received += piece
    })
    socket.on('error', reject)
    socket.on('close', () => resolve(received))
  })
}

/** Runs a case on a served application, and stops the application. */
const onStage = async (
  serve: ServeApplication,
  { store: kind, handlers = {}, options = {} }: StageSetup,
  run: (stage: Stage) => Promise<void>,
  { patience = PATIENCE }: RunOptions = {},
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
  const handle = answerBy({ '/ping': () => text('pong'), ...handlers }, { pause, manager })
  const { url, close } = await serve({ manager, handle })
  try {
    const stage: Stage = {
      url,
      manager,
      store,
      events,
      pause,
      visitor: () => browser((request) => fetch(request, { redirect: 'manual' }), { origin: url }),
      send: (bytes) => sendOn(url, bytes, patience),
      async assertAlive() {
        const response = await fetch(new URL('/ping', url))
        assert.equal(await response.text(), 'pong', 'the server answers the next request')
      },
    }
    await within(patience, run(stage))
  } finally {
    store.openGate()
    await close()
    await manager.close()
  }
}

/** A case of an adapter: data that any test runner can run. */
export type AdapterCase = {
  /** The promise. */
  readonly name: string
  /** Rejects if the adapter breaks the promise. */
  run(serve: ServeApplication, options?: RunOptions): Promise<void>
}

type StagedCase = Omit<StageSetup, 'store'> & { readonly run: (stage: Stage) => Promise<void> }

/** A case on one kind of store. */
export const caseOn = (store: StoreKind, name: string, { run, ...options }: StagedCase): AdapterCase => ({
  name,
  run: (serve, runOptions) => onStage(serve, { ...options, store }, run, runOptions),
})

/** A case on both kinds of store. */
export const onBothStores = (name: string, staged: StagedCase): AdapterCase[] => [
  caseOn('synchronous', `${name} (a synchronous store)`, staged),
  caseOn('asynchronous', `${name} (an asynchronous store)`, staged),
]
