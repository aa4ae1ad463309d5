// Finds sentences that a reader of English as a second language stumbles over: node scripts/prose.ts [FILE…], or --lower

import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..')

/** A pattern, and the way to write instead. */
export const patterns = {
  // 1. A clause as a noun.
  headless:
    /\b(?:whoever|whatever|what(?!ever))\b(?![^.!]*\?)|(?:^|[.;:,(]\s+|\b(?:of|to|by|for|on|in|with|from|at|as|than|and|or|but|is|are|was|that|says?|tells?|knows?|sees?|shows?|asks?)\s+)who\b(?![^.!]*\?)/gi,
  // 2. `where` for a condition or a time.
  where: /(?<!\bfrom )\bwhere\b(?! (?:to|sessions are kept)\b)(?![^.!]*\?)/gi,
  // 3. A visitor is “they”.
  he: /\b(?:he|him|his|himself)\b/gi,
  // 7 and 11. Rare words and metaphors.
  rare: /\b(?:meanwhile|anew|strangers?|dressed|undressed|misfits?|births?|born|whose turn|has to be|have to be)\b|, say\b(?=[.,;:)])/gi,
  // 9. English quotes.
  quotes: /[«»]/g,
} as const

export type Pattern = keyof typeof patterns
export type Finding = { readonly line: number; readonly pattern: Pattern; readonly text: string }

/** The prose of a source: comments, and strings that are sentences or titles. Code becomes spaces, so lines stay. */
const proseOfCode = (text: string): string => {
  const blank = (part: string) => part.replace(/[^\n]/g, ' ')
  const token = /\/\/[^\n]*|\/\*[\s\S]*?\*\/|'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`(?:[^`\\]|\\.)*`/g
  let out = ''
  let last = 0
  for (const match of text.matchAll(token)) {
    out += blank(text.slice(last, match.index))
    const [part] = match
    const isComment = part.startsWith('//') || part.startsWith('/*')
    const isSentence =
      /[a-z]+ [a-z]+ [a-z]+/i.test(part) &&
      !/\b(?:select|insert into|update|delete from|create table|redis\.call|local )\b/i.test(part)
    const prose = isComment ? part.replace(/`[^`\n]*`/g, blank) : part.replace(/\$\{[^}]*\}/g, blank)
    out += isComment || isSentence ? prose : blank(part)
    last = match.index + part.length
  }
  return out + blank(text.slice(last))
}

/** The prose of a page: everything but code blocks, inline code and the targets of links. */
const proseOfPage = (text: string): string => {
  const blank = (part: string) => part.replace(/[^\n]/g, ' ')
  return text
    .replace(/^```[\s\S]*?^```/gm, blank)
    .replace(/^(?: {4}|\t).*$/gm, blank)
    .replace(/`[^`\n]*`/g, blank)
    .replace(/\]\([^)\n]*\)/g, blank)
}

export const findingsIn = (file: string, text: string): readonly Finding[] => {
  const prose = file.endsWith('.md') ? proseOfPage(text) : proseOfCode(text)
  return Object.entries(patterns).flatMap(([pattern, expression]) =>
    [...prose.matchAll(expression)].map((match) => {
      const line = prose.slice(0, match.index).split('\n').length
      return { line, pattern: pattern as Pattern, text: (text.split('\n')[line - 1] ?? '').trim() }
    }),
  )
}

/** All files with prose of ours. */
export const proseFiles = (): readonly string[] =>
  execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], { cwd: root, encoding: 'utf8' })
    .split('\n')
    .filter((file) =>
      /^(?:src|test|examples|bench|scripts|docs|bundles)\/.*\.(?:ts|md)$|^(?:README|CONTRIBUTING)\.md$/.test(file),
    )
    .filter((file) => !/^scripts\/prose\.ts$|^test\/data\/|prose\.test\.ts$/.test(file))

const CEILINGS = join(root, 'test/data/prose-ceilings.json')

/** Writes the present counts as ceilings. A count that has grown is an error. */
const lower = (): void => {
  const before: Record<string, number> = JSON.parse(readFileSync(CEILINGS, 'utf8'))
  const counts = proseFiles().map(
    (file) => [file, findingsIn(file, readFileSync(join(root, file), 'utf8')).length] as const,
  )
  const grown = counts.filter(([file, count]) => count > (before[file] ?? 0))
  if (grown.length > 0)
    throw new Error(`These counts have grown: ${grown.map(([file, count]) => `${file} ${count}`).join(', ')}`)
  writeFileSync(CEILINGS, `${JSON.stringify(Object.fromEntries(counts.filter(([, count]) => count > 0)), null, 2)}\n`)
}

const print = (starts: readonly string[]): void => {
  const files = proseFiles().filter((file) => starts.length === 0 || starts.some((start) => file.startsWith(start)))
  let count = 0
  for (const file of files) {
    for (const { line, pattern, text } of findingsIn(file, readFileSync(join(root, file), 'utf8'))) {
      console.log(`${file}:${line} ${pattern}: ${text.slice(0, 160)}`)
      count++
    }
  }
  console.log(`${count} in ${files.length} files`)
}

if (import.meta.main) {
  const given = process.argv.slice(2)
  if (given[0] === '--lower') lower()
  else print(given)
}
