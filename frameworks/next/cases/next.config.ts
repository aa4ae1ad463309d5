import { resolve } from 'node:path'
import type { NextConfig } from 'next'

const config: NextConfig = {
  turbopack: { root: resolve(import.meta.dirname, '..') },
  // A request in these cases goes to the handler, whatever its path.
  skipTrailingSlashRedirect: true,
}

export default config
