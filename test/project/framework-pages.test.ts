// Every block of a page about a framework that names a file is a part of that file, which `npm run frameworks` runs.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test } from 'node:test'

const root = resolve(import.meta.dirname, '../..')
const read = (path: string) => readFileSync(join(root, path), 'utf8')

const pages = readdirSync(join(root, 'docs/frameworks')).map((name) => `docs/frameworks/${name}`)
const blocks = pages.flatMap((page) =>
  [...read(page).matchAll(/^```\w+ (frameworks\/\S+)\n(.*?)^```$/gms)].map(([, path = '', code = '']) => ({
    page,
    path,
    code,
  })),
)

test('pages of applications have blocks that name files', () => {
  const found = new Set(blocks.map(({ page }) => page))
  for (const name of ['graphql-yoga', 'nest', 'nuxt', 'trpc']) assert.ok(found.has(`docs/frameworks/${name}.md`), name)
})

for (const { page, path, code } of blocks) {
  test(`${page}: a block is a part of ${path}: ${code.trim().split('\n')[0]}`, () => {
    assert.ok(read(path).includes(code), code)
  })
}
