import node from '@astrojs/node'
import { defineConfig } from 'astro/config'

// CASES=1 builds an application that answers the cases of adapters.
const cases = process.env.CASES === '1'

export default defineConfig({
  srcDir: cases ? './cases' : './src',
  outDir: cases ? './build-cases' : './build',
  output: 'server',
  adapter: node({ mode: cases ? 'middleware' : 'standalone' }),
  ...(cases && { security: { checkOrigin: false } }),
})
