// A thread that creates sessions, so that their tokens are new to the process that reads them.

import { once } from 'node:events'
import { parentPort, Worker, workerData } from 'node:worker_threads'
import { contestantNamed } from './all.ts'
import { login, senderFor } from './stage.ts'

/** Starts the thread. Each call of the returned function creates `count` tokens. */
export const startMinter = (name: string, folder: string): ((count: number) => Promise<string[]>) => {
  const worker = new Worker(new URL(import.meta.url), { workerData: { name, folder } })
  worker.unref()
  return async (count) => {
    worker.ref()
    worker.postMessage(count)
    const [tokens] = await once(worker, 'message')
    worker.unref()
    return tokens
  }
}

if (parentPort !== null) {
  const port = parentPort
  const app = await contestantNamed(workerData.name).open(workerData.folder)
  if (app.kind === 'raw') throw new Error(`The contestant ${workerData.name} has no tokens.`)
  const send = senderFor(app)
  port.on('message', async (count: number) => {
    const tokens: string[] = []
    while (tokens.length < count) tokens.push(await login(send))
    port.postMessage(tokens)
  })
}
