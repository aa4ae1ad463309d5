// Pages on one session in a store that other processes use too, by a driver: each of them one visit that takes its time.

import { session, sessionManager } from 'keepsake'
import { serve } from 'keepsake/serve'
import { PATIENT } from './clock.ts'
import { opened } from './driver.ts'

const [driver = '', url = '', place = '', secret = ''] = process.argv.slice(2)
const manager = sessionManager({
  backend: await opened(driver, url, place),
  secret,
  // One name of the cookie for all, as behind what ends TLS before them; else each has its own on its port.
  secure: true,
  // Fifty that change one session at once wait for each other, here and in other processes.
  storeTimeout: PATIENT,
})

let go = () => {}
let arrived = () => {}
const gone = new Promise<void>((resolve) => {
  go = resolve
})
const there = new Promise<void>((resolve) => {
  arrived = resolve
})

await serve(
  manager(async (request) => {
    const { pathname, searchParams } = new URL(request.url)
    // Of these two, what a test says to the process and not to the session.
    if (pathname === '/there') await there
    if (pathname === '/go') go()
    if (pathname === '/there' || pathname === '/go') return Response.json(null)
    const s = await session(request)
    const field = searchParams.get('field')
    if (field !== null) s.set(field, true)
    if (pathname === '/add') s.update('n', (n = 0) => n + 1)
    if (pathname === '/logout') s.invalidate()
    if (pathname === '/slow') {
      s.set('late', true)
      arrived()
      await gone
    } else if (pathname !== '/') {
      // Time for the others to read what this one has read.
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
    return Response.json(s.fields)
  }),
  { port: 0 },
)
