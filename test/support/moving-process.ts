// One of several processes of an application that moves its sessions from a SQLite file to a Redis Cluster.

import { backendFromUrl } from 'keepsake'
import { movingBackend } from 'keepsake/moving'
import { serve } from 'keepsake/serve'
import { patientCluster } from './driver.ts'
import { managerOn, page } from './traffic.ts'

const [file = '', cluster = '', startsAt] = process.argv.slice(2)
const [from, to] = [await backendFromUrl(file), await patientCluster(cluster)]
const backend = movingBackend(from, to, { startsAt: Number(startsAt) })
const manager = managerOn(backend, console.error)
const visit = page(manager)
await serve(
  async (request) => {
    const { pathname, search } = new URL(request.url)
    if (pathname !== '/revoke') return visit(request)
    await manager.revokeAll(search.slice(1))
    return new Response('done')
  },
  { port: 0 },
)
