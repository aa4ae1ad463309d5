// A server of one contestant in a process of its own, which says how much CPU time it has taken.

import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { toNodeHandler } from 'srvx/node'
import { answering } from '../child.ts'
import { named } from '../contestants/all.ts'
import { bareExpress, bareFastify, bareFetch, bareNode } from '../contestants/bare.ts'
import { thinBridge, thinReply } from '../contestants/bridge.ts'
import type { App, Raw } from '../contestants/contestant.ts'

export type Question = 'port' | 'cpu'

const [name = '', bridge = 'thin', folder = ''] = process.argv.slice(2)
const reply = bridge === 'thin' ? thinReply : undefined

const opened = async (): Promise<App | Raw> => {
  if (name === 'bare: node') return bareNode()
  if (name === 'bare: express') return bareExpress()
  if (name === 'bare: fastify') return bareFastify()
  return name === 'bare: fetch' ? bareFetch(reply) : named(name).open(folder, reply)
}

const app = await opened()
if (app.kind === 'raw') throw new Error(`${name} is no server.`)

const listener = (): RequestListener => {
  if (app.kind === 'node') return app.listener as RequestListener
  if (bridge === 'srvx') return toNodeHandler(app.handler) as RequestListener
  const thin = thinBridge(app.handler)
  return (thin.kind === 'node' ? thin.listener : undefined) as RequestListener
}

const server = createServer(listener())
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))

answering((question: Question) => {
  if (question === 'port') return (server.address() as AddressInfo).port
  const { user, system } = process.cpuUsage()
  return user + system
})
