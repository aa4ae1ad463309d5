// The application on Cloudflare Workers. `run.ts` bundles it with Wrangler and runs it on workerd.

import { session, sessionManager } from 'keepsake'
import { memoryBackend } from 'keepsake/memory'
import { applicationOn, checkApplication } from './core-checks.mjs'
// `run.ts` writes it: an `import()` of each subpath, which a bundler can see.
import { loaders } from './loaders.mjs'

// An example. A Worker reads its secret from its environment: import { env } from 'cloudflare:workers'.
const secret = '52fdfc072182654f163f5f0f9a621d729566c74d10037c4d7bbb0407d1e2c649'

// Made while modules are loaded, when Workers allow no timers and no random numbers.
const applications = {
  'memory:': applicationOn(sessionManager({ backend: 'memory:', secret })),
  'cookie:': applicationOn(sessionManager({ backend: 'cookie:', secret })),
}

const hanging = sessionManager({
  backend: { ...memoryBackend(), get: () => new Promise(() => {}) },
  secret,
  storeTimeout: 0.2,
})(async (request) => Response.json((await session(request)).owner ?? null))

/** The status of an answer from a backend that never answers. */
const hangingStatus = async () => {
  const headers = { cookie: `__Host-Http-sid=${'A'.repeat(43)}` }
  return (await hanging(new Request('https://app.test/', { headers }))).status
}

const refusal = (backend) => {
  try {
    sessionManager({ backend, secret })
    return 'none'
  } catch ({ code, message }) {
    return `${code}: ${message}`
  }
}

const loadAll = async () => {
  const failed = {}
  for (const [name, load] of Object.entries(loaders)) {
    try {
      await load()
    } catch (error) {
      failed[name] = String(error?.message ?? error)
    }
  }
  return { total: Object.keys(loaders).length, failed }
}

const pages = {
  '/import': loadAll,
  '/memory': () => checkApplication(applications['memory:'], false),
  '/cookie': () => checkApplication(applications['cookie:'], true),
  '/hanging': hangingStatus,
  '/refusals': () => ['sqlite:sessions.db', 'file:sessions'].map(refusal),
}

export default {
  async fetch(request) {
    const url = new URL(request.url)
    const page = pages[url.pathname]
    if (page !== undefined) return Response.json(await page())
    return applications[url.searchParams.get('backend')](request)
  },
}
