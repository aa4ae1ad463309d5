// Every TypeScript block of the README and of the docs runs, through the package's own exports, and does what the page says.

import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { suite, test } from 'node:test'
import type { Backend } from 'keepsake'
import { backendCases } from 'keepsake/testing'
import { start } from '../support/process.ts'
import { QUICK } from '../support/quick.ts'

const root = resolve(import.meta.dirname, '../..')
const pageOf = (path: string) => readFileSync(join(root, path), 'utf8')
const blocksOf = (page: string) => [...page.matchAll(/```ts\n(.*?)```/gs)].map(([, code]) => code as string)
const readme = pageOf('README.md')
const blocks = blocksOf(readme)
const pages = ['README.md', ...readdirSync(join(root, 'docs')).map((name) => `docs/${name}`)].filter((path) =>
  path.endsWith('.md'),
)

/** A block as a file of the package, so that `keepsake` means what it means to a user. */
/** Another for each run, because two may go on at once. */
const place = join('test/.readme', String(process.pid))

const filed = (code: string, name: string): string => {
  mkdirSync(join(root, place), { recursive: true })
  writeFileSync(join(root, place, name), code)
  return join(place, name)
}

test.after(() => rmSync(join(root, place), { recursive: true, force: true }))

const numbered = pages.flatMap((page) => blocksOf(pageOf(page)).map((code, i) => ({ page, code, number: i + 1 })))

for (const { page, code, number } of numbered) {
  const first = code.split('\n').find((line) => !line.startsWith('import') && line !== '')
  // PGlite is a server in one process, and takes as long to start.
  const skip = QUICK && code.includes('PGlite')
  test(`${page}, block ${number} runs: ${first}`, { skip }, async (t) => {
    const served = code.includes('await serve(')
    const name = `${page.replace(/\W/g, '-')}-${number}.ts`
    const { lines, ended, errors } = start(t, filed(code, name), [], { PORT: '0' })
    if (!served) {
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

suite('the backend of the README keeps the contract', async () => {
  const code = blocks.find((block) => block.includes('mapBackend')) ?? assert.fail('the README shows a backend')
  const { mapBackend }: { mapBackend: () => Backend } = await import(join(root, filed(code, 'map-backend.ts')))
  for (const one of backendCases) {
    test(one.name, async (t) => {
      const backend = mapBackend()
      const type = one.exempt(backend)
      if (type) return t.diagnostic(`nothing to ask: ${type}`)
      await one.run(() => backend)
    })
  }
})

test('every file that the README links to is there', () => {
  const missing = [...readme.matchAll(/\]\((?!https?:)([^)#]+)\)/g)].filter(([, path]) => {
    try {
      readFileSync(join(root, path as string))
      return false
    } catch (error) {
      return (error as NodeJS.ErrnoException).code !== 'EISDIR'
    }
  })
  assert.deepEqual(missing, [])
})
