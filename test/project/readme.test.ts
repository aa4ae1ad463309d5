// Runs every TypeScript block of the README and of the docs on the exports of the package.

import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { suite, test } from 'node:test'
import type { Backend } from 'keepsake'
import { backendCases } from 'keepsake/testing'
import { start } from '../support/process.ts'
import { QUICK } from '../support/quick.ts'

const root = resolve(import.meta.dirname, '../..')
const readPage = (path: string) => readFileSync(join(root, path), 'utf8')
const blocksIn = (page: string) => [...page.matchAll(/```ts\n(.*?)```/gs)].map(([, code]) => code as string)

/** Decisions quote programs that no longer exist. */
const pages = [
  'README.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' })
    .map((name) => `docs/${name.replaceAll('\\', '/')}`)
    .filter((path) => path.endsWith('.md') && !path.startsWith('docs/decisions/'))
    .sort(),
]

/** The folder of the blocks. Each run has its own, because two runs may be in progress. */
const folder = join('test/.readme', String(process.pid))

/** Writes a block as a file of the package, so that `keepsake` resolves to the same module as in an application. */
const writeBlock = (code: string, name: string): string => {
  mkdirSync(join(root, folder), { recursive: true })
  writeFileSync(join(root, folder, name), code)
  return join(folder, name)
}

test.after(() => rmSync(join(root, folder), { recursive: true, force: true }))

const blocks = pages.flatMap((page) => blocksIn(readPage(page)).map((code, i) => ({ page, code, number: i + 1 })))

for (const { page, code, number } of blocks) {
  const firstLine = code.split('\n').find((line) => !line.startsWith('import') && line !== '')
  // PGlite is a server in one process and starts as slowly.
  const skip = QUICK && code.includes('PGlite')
  test(`${page}, block ${number} runs: ${firstLine}`, { skip }, async (t) => {
    const name = `${page.replace(/\W/g, '-')}-${number}.ts`
    const { lines, ended, errors } = start(t, writeBlock(code, name), [], { PORT: '0' })
    if (!code.includes('await serve(')) {
      assert.equal(await ended, 0, errors())
      return
    }
    const { value = '' } = await lines.next()
    const url = /http:\S+/.exec(value)?.[0] ?? assert.fail(errors())
    const response = await fetch(url)
    assert.equal(await response.text(), 'You were here 1 times.')
    const [cookie = ''] = response.headers.getSetCookie()
    const again = await fetch(url, { headers: { cookie: cookie.slice(0, cookie.indexOf(';')) } })
    assert.equal(await again.text(), 'You were here 2 times.')
  })
}

suite('the backend of docs/reference/contract.md keeps the contract', async () => {
  const { code } = blocks.find(({ code }) => code.includes('mapBackend')) ?? assert.fail('no page shows a backend')
  const { mapBackend }: { mapBackend: () => Backend } = await import(join(root, writeBlock(code, 'map-backend.ts')))
  for (const { name, exempt, run } of backendCases) {
    test(name, async (t) => {
      const backend = mapBackend()
      const reason = exempt(backend)
      if (reason) return t.diagnostic(`does not apply: ${reason}`)
      await run(() => backend)
    })
  }
})

test('the README has at most 900 words', () => {
  const words = readPage('README.md')
    .split(/\s+/)
    .filter((word) => word !== '')
  assert.ok(words.length <= 900, `${words.length}`)
})
