import type { NextConfig } from 'next'

const config: NextConfig = {
  // There are lock files in folders above this one.
  turbopack: { root: import.meta.dirname },
  experimental: { authInterrupts: true },
}

export default config
