// A process with the server of one contestant. It answers with its port and its CPU time.

import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { toNodeHandler } from 'srvx/node'
import { answerQuestions } from '../child.ts'
import { contestantNamed } from '../contestants/all.ts'
import { bareExpress, bareFastify, bareFetch, bareHono, bareNode } from '../contestants/bare.ts'
import type { App, Raw } from '../contestants/contestant.ts'

export type Question = 'port' | 'cpu'

const [name = '', host = 'node', folder = ''] = process.argv.slice(2)

const open = async (): Promise<App | Raw> => {
  if (name === 'bare: node') return bareNode()
  if (name === 'bare: express') return bareExpress()
  if (name === 'bare: fastify') return bareFastify()
  if (name === 'bare: hono') return bareHono()
  if (name === 'bare: fetch') return bareFetch()
  return contestantNamed(name).open(folder, host === 'srvx' ? 'fetch' : 'node')
}

const app = await open()
if (app.kind === 'raw') throw new Error(`The contestant ${name} is not a server.`)

const listener = app.kind === 'node' ? app.listener : toNodeHandler(app.handler)

const server = createServer(listener as RequestListener)
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))

answerQuestions((question: Question) => {
  if (question === 'port') return (server.address() as AddressInfo).port
  const { user, system } = process.cpuUsage()
  return user + system
})
