import adapter from '@sveltejs/adapter-node'
import { sveltekit } from '@sveltejs/kit/vite'
import { defineConfig } from 'vite'

// CASES=1 builds an application that answers the cases of adapters.
const cases = process.env.CASES === '1'

export default defineConfig({
  plugins: [
    sveltekit({
      adapter: adapter({ out: cases ? 'build-cases' : 'build', precompress: false }),
      files: { src: cases ? 'cases' : 'src' },
      experimental: { remoteFunctions: true },
      outDir: cases ? '.svelte-kit/cases' : '.svelte-kit',
      // Without an origin, adapter-node takes every request for one over TLS.
      ...(cases
        ? { csrf: { trustedOrigins: ['*'] } }
        : { paths: { origin: process.env.ORIGIN ?? 'http://localhost:3000' } }),
    }),
  ],
})
