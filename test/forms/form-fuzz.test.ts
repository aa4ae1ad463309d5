// Generated forms: no error, no 5xx, no long block, and work in proportion to the bytes. FUZZ_SECONDS sets the time.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

type Seen = {
  readonly cases: number
  readonly outcomes: Record<string, number>
  readonly longest: { readonly stall: number; readonly what: string }
  readonly heap: readonly number[]
  readonly ratios: Record<string, number>
}

const seconds = Number(process.env.FUZZ_SECONDS ?? 0)

test('generated and mutated bodies end in a documented outcome, with linear work', async (t) => {
  const script = fileURLToPath(new URL('../support/form-fuzzer.ts', import.meta.url))
  const child = spawn(process.execPath, ['--expose-gc', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  let output = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text
  })
  const code = await new Promise((resolve) => child.once('close', resolve))
  const printed = output.trimEnd().split('\n')
  for (const line of printed) t.diagnostic(line)
  assert.equal(code, 0, 'an error, or a rejection without a handler; its seed is above')
  const { cases, outcomes, longest, heap, ratios }: Seen = JSON.parse(printed.at(-1) as string)

  assert.ok(cases >= (seconds > 0 ? 1 : 1_500))
  // The generators must reach each of these outcomes.
  for (const outcome of ['ok', 'missing_token', 'invalid_token', 'many_tokens', 'wrong_content_type', 'too_large']) {
    assert.ok((outcomes[outcome] ?? 0) > 0, `${outcome} was reached by no body`)
  }
  for (const [shape, ratio] of Object.entries(ratios)) {
    assert.ok(ratio < 4, `${shape}: in bodies of eight times the size, a byte took ${ratio.toFixed(1)} times the work`)
  }
  if (seconds < 60) return
  assert.ok(longest.stall < 50, `${longest.stall} ms of work without a pause: ${longest.what}`)
  // The minimum shows the memory that is never freed. The first third is left out, because it has compilation and caches.
  const third = Math.floor(heap.length / 3)
  const [early, late] = [Math.min(...heap.slice(third, 2 * third)), Math.min(...heap.slice(2 * third))]
  assert.ok(late < early + 5, `the heap grew from ${early} to ${late} MB`)
})
