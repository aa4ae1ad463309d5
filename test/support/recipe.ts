// The first program of a page of the docs, as a module whose exports a test uses.

import assert from 'node:assert/strict'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { TestContext } from 'node:test'

const root = resolve(import.meta.dirname, '../..')

let copies = 0

/** Each call gives a new copy. It is written into the package, so that `keepsake` resolves as in an application. */
export const recipe = async <Exports>(t: TestContext, page: string): Promise<Exports> => {
  const [, code] = /```ts\n(.*?)```/s.exec(readFileSync(join(root, page), 'utf8')) ?? []
  const folder = join(root, 'test/.readme', `recipe-${process.pid}-${copies++}`)
  mkdirSync(folder, { recursive: true })
  t.after(() => rmSync(folder, { recursive: true }))
  writeFileSync(join(folder, 'recipe.ts'), code ?? assert.fail(`${page} has no program`))
  return import(join(folder, 'recipe.ts'))
}
