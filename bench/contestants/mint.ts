// A thread that makes sessions elsewhere, so that their tokens are new to whoever reads them.

import { once } from 'node:events'
import { parentPort, Worker, workerData } from 'node:worker_threads'
import { named } from './all.ts'
import { loggedIn, stage } from './stage.ts'

/** Makes `count` tokens at each call. */
export const minter = (name: string, folder: string): ((count: number) => Promise<string[]>) => {
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
  const app = await named(workerData.name).open(workerData.folder)
  if (app.kind === 'raw') throw new Error('What is raw has no tokens.')
  const visit = stage(app)
  port.on('message', async (count: number) => {
    const tokens: string[] = []
    while (tokens.length < count) tokens.push(await loggedIn(visit))
    port.postMessage(tokens)
  })
}
