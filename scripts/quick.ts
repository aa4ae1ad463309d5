// Runs the tests without servers and browsers, with a tenth of the random cases: npm run test:quick.

import { spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'

const folder = resolve(import.meta.dirname, '../test')
/** A folder in memory, on systems that have one. */
const MEMORY_FOLDER = '/dev/shm'

/** Files that start a server or a browser. */
const SLOW = new Set(['support/servers.ts', 'support/chromium.ts'])
/** A quick run skips the servers of this file, so its imports do not count. But a test that asks for a database by name is slow. */
const STORES = 'support/stores.ts'
const DATABASE = /\b(?:postgresUrl|mysqlUrl)\b/

const importsOf = (file: string): string[] => {
  const text = readFileSync(join(folder, file), 'utf8')
  const paths = [...text.matchAll(/(?:from|import\()\s*'(\.[^']+\.ts)'/g)].map(([, path]) => path as string)
  return paths.map((path) => join(file, '..', path).replaceAll('\\', '/')).filter((path) => !path.startsWith('..'))
}

const isSlow = (file: string): boolean => SLOW.has(file) || (file !== STORES && importsOf(file).some(isSlow))

const tests = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .map((file) => file.replaceAll('\\', '/'))
  .filter((file) => file.endsWith('.test.ts'))
  .filter((file) => !isSlow(file) && !DATABASE.test(readFileSync(join(folder, file), 'utf8')))

// Twice as many concurrent files as processors, because some tests wait for a second or two.
const options = ['--test', `--test-concurrency=${2 * availableParallelism()}`, ...process.argv.slice(2)]
const child = spawn(process.execPath, [...options, ...tests.map((file) => join(folder, file))], {
  stdio: 'inherit',
  // None of these tests is about a disk.
  env: { ...process.env, KEEPSAKE_QUICK: '1', ...(existsSync(MEMORY_FOLDER) && { TMPDIR: MEMORY_FOLDER }) },
})
child.on('exit', (code) => {
  process.exitCode = code ?? 1
})
