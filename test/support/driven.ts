// An application of one process among several on one store: it serves slow pages on one session, through a given driver.

import { session, sessionManager } from 'keepsake'
import { serve } from 'keepsake/serve'
import { PATIENT } from './clock.ts'
import { openBackend } from './driver.ts'

const [driver = '', url = '', place = '', secret = ''] = process.argv.slice(2)
const manager = sessionManager({
  backend: await openBackend(driver, url, place),
  secret,
  // All processes use the same cookie name, as behind a proxy that ends TLS. Otherwise the name depends on the port.
  secure: true,
  // Fifty requests change one session concurrently, and wait for each other here and in other processes.
  storeTimeout: PATIENT,
})

/** Settled by the requests to `/slow` and `/go`. */
const { promise: slowArrived, resolve: arrive } = Promise.withResolvers<void>()
const { promise: slowReleased, resolve: release } = Promise.withResolvers<void>()

await serve(
  manager(async (request) => {
    const { pathname, searchParams } = new URL(request.url)
    // These two control the process, and have nothing to do with the session.
    if (pathname === '/arrived') await slowArrived
    if (pathname === '/go') release()
    if (pathname === '/arrived' || pathname === '/go') return Response.json(null)
    const s = await session(request)
    const field = searchParams.get('field')
    if (field !== null) s.set(field, true)
    if (pathname === '/add') s.update('n', (n = 0) => n + 1)
    if (pathname === '/logout') s.invalidate()
    if (pathname === '/slow') {
      s.set('late', true)
      arrive()
      await slowReleased
    } else if (pathname !== '/') {
      // Other requests read the same version in this time.
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    return Response.json(s.fields)
  }),
  { port: 0 },
)
