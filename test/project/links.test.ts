// Every relative link of a page, and every page that a comment names, leads to a file, and to a heading if it names one.

import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, normalize, resolve } from 'node:path'
import { suite, test } from 'node:test'

const root = resolve(import.meta.dirname, '../..')
const read = (path: string) => readFileSync(join(root, path), 'utf8')

const files = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  cwd: root,
  encoding: 'utf8',
})
  .split('\n')
  .filter((path) => path !== '' && existsSync(join(root, path)))

/** A page without code. */
const proseOf = (page: string): string => page.replaceAll(/^```[\s\S]*?^```/gm, '').replaceAll(/`[^`\n]*`/g, '')

/** The anchors of a page, as GitHub makes them of its headings. */
const anchorsOf = (path: string): Set<string> => {
  const headings = read(path)
    .replaceAll(/^```[\s\S]*?^```/gm, '')
    .matchAll(/^#+ (.*)$/gm)
  return new Set(
    [...headings].map(([, heading]) =>
      (heading as string)
        .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, '$1')
        .toLowerCase()
        .replaceAll(/[^\p{L}\p{N}\s_-]/gu, '')
        .replaceAll(' ', '-'),
    ),
  )
}

/** Why a link of a page leads nowhere, or undefined. */
const problemOf = (page: string, link: string): string | undefined => {
  const [path = '', anchor] = link.split('#')
  const target = path === '' ? page : normalize(join(dirname(page), decodeURIComponent(path)))
  if (target.startsWith('..') || !existsSync(join(root, target))) return `${page}: there is no ${target}`
  if (anchor === undefined) return undefined
  const isPage = target.endsWith('.md') && statSync(join(root, target)).isFile()
  return isPage && anchorsOf(target).has(anchor) ? undefined : `${page}: ${target} has no heading for #${anchor}`
}

suite('links', () => {
  test('of pages lead to files and headings', () => {
    const pages = files.filter((path) => path.endsWith('.md'))
    assert.ok(pages.length > 40, `${pages.length}`)
    const problems = pages.flatMap((page) =>
      [...proseOf(read(page)).matchAll(/\]\(\s*(?![a-z]+:)([^)\s]+)\s*\)/g)].flatMap(
        ([, link]) => problemOf(page, link as string) ?? [],
      ),
    )
    assert.deepEqual(problems, [])
  })

  test('of the index lead to every page', () => {
    const index = read('docs/README.md')
    const missing = files
      .filter((path) => /^docs\/(?!decisions\/|README).*\.md$/.test(path))
      .filter((path) => !index.includes(`](${path.slice('docs/'.length)})`))
    assert.deepEqual(missing, [])
  })

  test('in comments and messages lead to pages, or to a decision by its number', () => {
    const decisions = readdirSync(join(root, 'docs/decisions'))
    const sources = files.filter((path) =>
      /^(?:src|test|examples|bench|bundles|scripts)\/.*\.(?:ts|cjs|js)$/.test(path),
    )
    assert.ok(sources.length > 200, `${sources.length}`)
    const problems = sources
      .filter((path) => path !== 'test/project/links.test.ts')
      .flatMap((path) =>
        [...read(path).matchAll(/\bdocs\/[\w/-]+(?:\.md)?/g)].flatMap(([page]) => {
          const number = /^docs\/decisions\/(\d{3})$/.exec(page)?.[1]
          if (number !== undefined && decisions.some((name) => name.startsWith(`${number}-`))) return []
          return existsSync(join(root, page)) ? [] : [`${path}: there is no ${page}`]
        }),
      )
    assert.deepEqual(problems, [])
  })
})
