// The application of Nuxt. With CASES it answers the cases of adapters.

export default defineNuxtConfig({
  compatibilityDate: '2026-11-01',
  telemetry: false,
  devtools: { enabled: false },
  ...(process.env.CASES === '1' && {
    buildDir: '.nuxt/cases',
    serverDir: 'cases',
    nitro: { output: { dir: '.output/cases' }, preset: 'node' },
  }),
})
