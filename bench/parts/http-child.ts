// A process with the server of one contestant. It answers with its port and its CPU time.

import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { toNodeHandler } from 'srvx/node'
import { answerQuestions } from '../child.ts'
import { contestantNamed } from '../contestants/all.ts'
import { bareExpress, bareFastify, bareFetch, bareNode } from '../contestants/bare.ts'
import { thinBridge, thinReply } from '../contestants/bridge.ts'
import type { App, Raw } from '../contestants/contestant.ts'

export type Question = 'port' | 'cpu'

const [name = '', bridge = 'thin', folder = ''] = process.argv.slice(2)
const reply = bridge === 'thin' ? thinReply : undefined

const open = async (): Promise<App | Raw> => {
  if (name === 'bare: node') return bareNode()
  if (name === 'bare: express') return bareExpress()
  if (name === 'bare: fastify') return bareFastify()
  return name === 'bare: fetch' ? bareFetch(reply) : contestantNamed(name).open(folder, reply)
}

const app = await open()
if (app.kind === 'raw') throw new Error(`The contestant ${name} is not a server.`)

const listener = (): RequestListener => {
  if (app.kind === 'node') return app.listener as RequestListener
  if (bridge === 'srvx') return toNodeHandler(app.handler) as RequestListener
  const thin = thinBridge(app.handler)
  return (thin.kind === 'node' ? thin.listener : undefined) as RequestListener
}

const server = createServer(listener())
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))

answerQuestions((question: Question) => {
  if (question === 'port') return (server.address() as AddressInfo).port
  const { user, system } = process.cpuUsage()
  return user + system
})
