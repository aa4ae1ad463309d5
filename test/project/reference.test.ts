// Every option, event type, error code, and method of a session, a manager and a backend has one row in docs/reference.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { suite, test } from 'node:test'

const root = resolve(import.meta.dirname, '../..')
const read = (path: string) => readFileSync(join(root, path), 'utf8')

/** The text of an exported type, without its comments, up to the first match of `end`. */
const typeIn = (file: string, type: string, end: string): string => {
  const source = read(file).replaceAll(/\/\*[\s\S]*?\*\/|\/\/[^\n]*/g, '')
  const found = new RegExp(`^export type ${type}\\b[\\s\\S]*?(?=${end})`, 'm').exec(source)
  return found?.[0] ?? assert.fail(`${file} has no type ${type}`)
}

/** The names of an object type's members, at the first level. */
const membersOf = (file: string, type: string): string[] =>
  [...typeIn(file, type, '^\\}').matchAll(/^ {2}(?:readonly )?(\w+)\??(?:[:(<])/gm)].map(([, name]) => name as string)

/** The texts of a union type. */
const textsOf = (file: string, type: string): string[] =>
  [...typeIn(file, type, '\\n\\n').matchAll(/'([\w.]+)'/g)].map(([, text]) => text as string)

/** The names in the first cells of tables whose header begins with one of `headers`, or with any. */
const rowsOf = (page: string, ...headers: readonly string[]): string[] => {
  const names: string[] = []
  let header: string | undefined
  for (const line of read(page).split('\n')) {
    const cell = /^\| ([^|]*?) \|/.exec(line)?.[1]
    if (cell === undefined) {
      if (!line.startsWith('|-')) header = undefined
    } else if (header === undefined) header = cell
    else if (headers.includes(header)) names.push(/^`([\w.]+)/.exec(cell)?.[1] ?? assert.fail(`${page}: ${line}`))
  }
  return names
}

const sameNames = (documented: readonly string[], declared: readonly string[]) => {
  assert.ok(declared.length > 0)
  assert.deepEqual([...documented].sort(), [...declared].sort())
}

suite('the reference has one row for each', () => {
  test('option of a manager', () => {
    sameNames(rowsOf('docs/reference/options.md', 'option'), [
      ...membersOf('src/options.ts', 'SessionManagerOptions'),
      ...membersOf('src/http/cookie-names.ts', 'TransportOptions'),
    ])
  })

  test('option of the cookie', () => {
    const attributes = membersOf('src/http/cookie.ts', 'CookieAttributes')
    sameNames(rowsOf('docs/reference/options.md', 'option of `cookie`'), [
      ...membersOf('src/http/cookie-names.ts', 'CookieOptions'),
      ...attributes.filter((name) => name !== 'secure' && name !== 'httpOnly'),
    ])
  })

  test('member of a session', () => {
    sameNames(rowsOf('docs/reference/session.md', 'member'), membersOf('src/session/session.ts', 'Session'))
  })

  test('option of a login', () => {
    const declared = membersOf('src/session/session.ts', 'LoginOptions')
    sameNames(rowsOf('docs/reference/session.md', 'option of `login`'), declared)
  })

  test('method of a manager', () => {
    sameNames(rowsOf('docs/reference/session.md', 'method'), membersOf('src/manager.ts', 'SessionManager'))
  })

  test('member of an event', () => {
    sameNames(rowsOf('docs/reference/events.md', 'member'), membersOf('src/events.ts', 'SessionEvent'))
  })

  test('type of an event', () => {
    sameNames(rowsOf('docs/reference/events.md', 'type'), textsOf('src/events.ts', 'EventType'))
  })

  test('member, operation and outcome of a call of the backend', () => {
    const [page, file] = ['docs/reference/events.md', 'src/backends/store-calls.ts']
    sameNames(rowsOf(page, 'member of a call'), membersOf(file, 'StoreCall'))
    sameNames(rowsOf(page, 'operation'), textsOf(file, 'StoreOperation'))
    sameNames(rowsOf(page, 'outcome'), textsOf(file, 'StoreOutcome'))
  })

  test('error code', () => {
    sameNames(rowsOf('docs/reference/errors.md', 'code'), textsOf('src/error.ts', 'ErrorCode'))
  })

  test('kind of an error page', () => {
    sameNames(rowsOf('docs/guides/serving.md', 'kind'), textsOf('src/http/error-response.ts', 'ErrorKind'))
  })

  test('member of a backend, of an entry, and of an index of owners', () => {
    const contract = 'src/backends/contract.ts'
    sameNames(rowsOf('docs/reference/contract.md', 'member', 'member of `byOwner`'), [
      ...membersOf(contract, 'Entry'),
      ...membersOf(contract, 'Backend'),
      ...membersOf(contract, 'OwnerIndex'),
    ])
  })

  test('exported function', async () => {
    const page = read('docs/reference/session.md')
    const rows = page.slice(page.indexOf('## Functions of `keepsake`')).matchAll(/`(\w+)`(?=[,\s])/g)
    const documented = new Set([...rows].map(([, name]) => name as string))
    const missing = Object.keys(await import('keepsake')).filter((name) => !documented.has(name))
    assert.deepEqual(missing, [])
  })
})
