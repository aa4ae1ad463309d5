// keepsake in memory in applications of frameworks, through its adapters.

import { forExpress } from '../../src/adapters/express.ts'
import { forNode } from '../../src/adapters/node.ts'
import { type SessionManager, session, sessionManager } from '../../src/index.ts'
import { FIELDS, nextSeen, type Workload, workloadOf } from '../workloads.ts'
import { ALL, type App, type Bare, type Contestant } from './contestant.ts'
import { secret } from './ours.ts'

const workloads: readonly Workload[] = ['untouched', ...ALL]

/** The text of an answer. Undefined if the session is not the one that the request must have. */
const answerTo = async (workload: Workload, x: object): Promise<string | undefined> => {
  if (workload === 'untouched') return 'ok'
  const s = await session(x)
  if (workload === 'login') {
    s.login(FIELDS.user)
    for (const [field, value] of Object.entries(FIELDS)) if (value !== undefined) s.set(field, value)
    return 'ok'
  }
  const user: string | undefined = s.get('user')
  if (user !== (workload === 'anonymous' ? undefined : FIELDS.user)) return undefined
  if (workload === 'read') return String(s.get('seen'))
  if (workload === 'write') s.set('seen', nextSeen())
  return 'ok'
}

const onNode = async (manager: SessionManager): Promise<App> => {
  const sessions = forNode(manager)
  return {
    kind: 'node',
    listener: async (request, response) => {
      sessions(request, response)
      const answer = await answerTo(workloadOf(request.url ?? '') as Workload, request)
      if (answer === undefined) response.statusCode = 500
      response.end(answer)
    },
  }
}

type ExpressResponse = { send(text?: string): void; status(code: number): ExpressResponse }

const onExpress = async (manager: SessionManager): Promise<App> => {
  const { default: express } = await import('express')
  const app = express()
  app.use(forExpress(manager))
  for (const workload of workloads) {
    app.get(`/${workload}`, async (request: object, response: ExpressResponse) => {
      const answer = await answerTo(workload, request)
      if (answer === undefined) response.status(500).send()
      else response.send(answer)
    })
  }
  return { kind: 'node', listener: app }
}

const open = async (mount: (manager: SessionManager) => Promise<App>): Promise<App> => {
  const manager = sessionManager({ backend: 'memory:', secret, secure: true })
  await manager.ready()
  return { ...(await mount(manager)), close: () => manager.close() }
}

const mounts: readonly (readonly [framework: string, bare: Bare, mount: (manager: SessionManager) => Promise<App>])[] =
  [
    ['node:http', 'node', onNode],
    ['Express', 'express', onExpress],
  ]

export const adapters: readonly Contestant[] = mounts.map(([framework, bare, mount]) => ({
  name: `keepsake: memory, ${framework}`,
  bare,
  workloads,
  open: () => open(mount),
}))
