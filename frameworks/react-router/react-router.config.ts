import type { Config } from '@react-router/dev/config'

// CASES=1 builds an application that answers the cases of adapters.
const cases = process.env.CASES === '1'

export default {
  appDirectory: cases ? 'cases' : 'app',
  buildDirectory: cases ? 'build-cases' : 'build',
  ssr: true,
  ...(cases && { allowedActionOrigins: ['**'] }),
} satisfies Config
