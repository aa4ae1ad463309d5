// Opens a backend in Deno, and prints `ready` or the error, which names the missing permission.

import { sessionManager } from 'keepsake'

const manager = sessionManager({ backend: Deno.args[0] })
try {
  await manager.ready()
  console.log('ready')
  await manager.close()
} catch ({ code, message }) {
  console.log(`${code}: ${message}`)
}
