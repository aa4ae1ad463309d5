// Files and functions stay short enough to be read at once.

import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { test } from 'node:test'

const root = resolve(import.meta.dirname, '../../src')
const FILE = 300
const FUNCTION = 120

/** The contract of a backend is one list of cases. */
const lists = ['testing/backend-cases.ts']

const sources = readdirSync(root, { recursive: true, encoding: 'utf8' })
  .map((file) => file.replaceAll('\\', '/'))
  .filter((file) => file.endsWith('.ts') && !lists.includes(file))

const linesOf = (file: string): string[] => readFileSync(join(root, file), 'utf8').split('\n')

/** The functions of a source that the formatter has indented: from a line that opens a body to the line that closes it. */
const functionsIn = (lines: readonly string[]): { readonly line: number; readonly length: number }[] =>
  lines.flatMap((text, from) => {
    const opens =
      /(?:=>|\))(?:: [^=]+)? \{$/.test(text) && !/^\s*(?:if|for|while|switch|\} else|else|catch|\} catch)\b/.test(text)
    if (!opens) return []
    const indent = /^\s*/.exec(text)?.[0] ?? ''
    const length = lines.slice(from + 1).findIndex((line) => line.startsWith(`${indent}}`)) + 2
    return [{ line: from + 1, length }]
  })

test(`no source has more than ${FILE} lines`, () => {
  const long = sources
    .map((file) => `${file}: ${linesOf(file).length - 1}`)
    .filter((text) => Number(text.split(': ')[1]) > FILE)
  assert.deepEqual(long, [])
})

test(`no function has more than ${FUNCTION} lines`, () => {
  const long = sources.flatMap((file) =>
    functionsIn(linesOf(file))
      .filter(({ length }) => length > FUNCTION)
      .map(({ line, length }) => `${file}:${line} has ${length}`),
  )
  assert.deepEqual(long, [])
})

test('functions are found and measured', () => {
  const source = ['const f = (a: number): number => {', '  if (a) {', '    return 1', '  }', '  return 2', '}']
  assert.deepEqual(functionsIn(source), [{ line: 1, length: 6 }])
})
