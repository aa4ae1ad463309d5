// An example in its own process, at the URL that it prints.

import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { ports } from './ports.ts'
import { type ScriptProcess, start } from './process.ts'

export type Served = ScriptProcess & {
  readonly url: string
  readonly port: string
}

/** Starts an example as its README shows, such as `1-session/session`. Unless `env` has a PORT, the port is one that can be used again. */
export const served = async (t: TestContext, example: string, env: Record<string, string>): Promise<Served> => {
  const started = start(t, `examples/${example}.ts`, [], { PORT: `${(await ports()).port}`, ...env })
  const { value } = await started.lines.next()
  const url = /http:\S+/.exec(value ?? '')?.[0]
  assert.ok(url, started.errors())
  return { ...started, url, port: new URL(url).port }
}
